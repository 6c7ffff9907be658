#include "node/convert.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>

#include "graph/error.h"

namespace pelagic {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::argument, what); }

template <class Array, class T>
Napi::Value typed_array(Napi::Env env, const std::vector<T>& values) {
  const Array array = Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.ArrayBuffer().Data(), values.data(), values.size() * sizeof(T));
  return array;
}

// Elements of a typed array of exactly the given kind.
template <class T>
std::vector<T> elements(const Napi::Value& value, const std::string& name, napi_typedarray_type type,
                        const char* type_name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) {
    refuse(name + " must be a " + std::string(type_name));
  }
  const auto array = value.As<Napi::TypedArrayOf<T>>();
  return std::vector<T>(array.Data(), array.Data() + array.ElementLength());
}

bool is_absent(const Napi::Value& value) { return value.IsUndefined() || value.IsNull(); }

}  // namespace

Napi::Error js_error(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

Napi::Error to_js_error(Napi::Env env, const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    Napi::Error its = js_error(env, error_code_name(error.code()), error.what());
    if (error.code() == ErrorCode::rank_lost) its.Set("byItself", Napi::Boolean::New(env, error.by_itself()));
    return its;
  } catch (const std::bad_alloc&) {
    return js_error(env, error_code_name(ErrorCode::memory), "not enough memory");
  } catch (const std::invalid_argument& error) {
    return js_error(env, error_code_name(ErrorCode::argument), error.what());
  } catch (const std::out_of_range& error) {
    return js_error(env, error_code_name(ErrorCode::argument), error.what());
  } catch (const std::exception& error) {
    return js_error(env, error_code_name(ErrorCode::internal), error.what());
  }
}

Napi::Value member(const Napi::Object& object, const char* name, const std::string& where) {
  const Napi::Value value = object.Get(name);
  if (value.IsUndefined()) refuse(where + name + " is missing");
  return value;
}

double to_number(const Napi::Value& value, const std::string& name) {
  if (!value.IsNumber()) refuse(name + " must be a number");
  return value.As<Napi::Number>().DoubleValue();
}

std::int64_t to_integer(const Napi::Value& value, const std::string& name, std::int64_t low, std::int64_t high) {
  // One call into Node for each argument: rows of a small frame are copied in less time than two.
  double number = std::nan("");
  napi_get_value_double(value.Env(), value, &number);
  if (!(number >= static_cast<double>(low) && number <= static_cast<double>(high)) || number != std::floor(number)) {
    refuse(name + " must be an integer from " + std::to_string(low) + " to " + std::to_string(high));
  }
  return static_cast<std::int64_t>(number);
}

std::string to_text(const Napi::Value& value, const std::string& name) {
  if (!value.IsString()) refuse(name + " must be a string");
  return value.As<Napi::String>().Utf8Value();
}

std::uint64_t to_uint64(const Napi::Value& value, const std::string& name) {
  bool lossless = false;
  const std::uint64_t number = value.IsBigInt() ? value.As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  if (!lossless) refuse(name + " must be a BigInt of 64 bits, not negative");
  return number;
}

std::vector<std::uint32_t> to_uint32s(const Napi::Value& value, const std::string& name) {
  return elements<std::uint32_t>(value, name, napi_uint32_array, "Uint32Array");
}

std::span<std::uint8_t> to_bytes(const Napi::Value& value, const std::string& name) {
  napi_typedarray_type type = napi_int8_array;
  std::size_t length = 0;
  void* data = nullptr;
  napi_get_typedarray_info(value.Env(), value, &type, &length, &data, nullptr, nullptr);
  if (type != napi_uint8_array) refuse(name + " must be a Uint8Array");
  return {static_cast<std::uint8_t*>(data), length};
}

OwnedBatch::OwnedBatch(const Napi::Object& batch)
    : tokens_(to_uint32s(member(batch, "tokens"), "tokens")),
      row_counts_(to_uint32s(member(batch, "rowCounts"), "rowCounts")),
      start_positions_(to_uint32s(member(batch, "startPositions"), "startPositions")),
      prompt_lengths_(to_uint32s(member(batch, "promptLengths"), "promptLengths")),
      block_table_(to_uint32s(member(batch, "blockTable"), "blockTable")),
      block_offsets_(to_uint32s(member(batch, "blockOffsets"), "blockOffsets")),
      logit_rows_(to_uint32s(member(batch, "logitRows"), "logitRows")),
      digests_(batch.Get("digests").ToBoolean()),
      logits_(batch.Get("logits").ToBoolean()) {
  const Napi::Value sampling = member(batch, "sampling");
  if (!sampling.IsArray()) refuse("sampling must be an array");
  const auto rows = sampling.As<Napi::Array>();
  if (rows.Length() != logit_rows_.size()) refuse("sampling must have one entry for each of logitRows");
  stop_tokens_.resize(logit_rows_.size());
  for (std::uint32_t i = 0; i < rows.Length(); ++i) {
    const Napi::Value row = rows.Get(i);
    const std::string name = "sampling[" + std::to_string(i) + "]";
    if (!row.IsNull() && !row.IsObject()) refuse(name + " must be an object or null");
    rows_.push_back(row.IsNull() ? nullptr : read_sampling(row.As<Napi::Object>(), name + "."));
    sampling_.push_back(rows_.back() == nullptr ? nullptr : &rows_.back()->params);
    if (rows_.back() == nullptr) continue;
    const Napi::Value stops = row.As<Napi::Object>().Get("stopTokens");
    if (!is_absent(stops)) stop_tokens_[i] = to_uint32s(stops, name + ".stopTokens");
  }
  const Napi::Value steps = batch.Get("steps");
  if (is_absent(steps)) return;
  steps_ = static_cast<int>(to_integer(steps, "steps", 1, 1024));
  const double budget_ms = to_number(member(batch, "budgetMs"), "budgetMs");
  if (!(budget_ms >= 0 && budget_ms <= 1e6)) refuse("budgetMs must be a number from 0 to 1000000");
  budget_ = std::chrono::microseconds(static_cast<std::int64_t>(budget_ms * 1e3));
}

std::unique_ptr<OwnedBatch::RowSampling> OwnedBatch::read_sampling(const Napi::Object& row, const std::string& where) {
  auto sampling = std::make_unique<RowSampling>();
  SamplingParams& params = sampling->params;
  const auto number = [&](const char* name, float fallback) {
    const Napi::Value value = row.Get(name);
    return is_absent(value) ? fallback : static_cast<float>(to_number(value, where + name));
  };
  const auto integer = [&](const char* name, int fallback, std::int64_t low, std::int64_t high) {
    const Napi::Value value = row.Get(name);
    return is_absent(value) ? fallback : static_cast<int>(to_integer(value, where + name, low, high));
  };
  const auto ids = [&](const char* name) {
    const Napi::Value value = row.Get(name);
    return is_absent(value) ? std::vector<std::uint32_t>{} : to_uint32s(value, where + name);
  };
  params.temperature = static_cast<float>(to_number(member(row, "temperature", where), where + "temperature"));
  params.top_k = integer("topK", params.top_k, 0, std::numeric_limits<int>::max());
  params.top_p = number("topP", params.top_p);
  params.min_p = number("minP", params.min_p);
  params.repetition_penalty = number("repetitionPenalty", params.repetition_penalty);
  params.presence_penalty = number("presencePenalty", params.presence_penalty);
  params.frequency_penalty = number("frequencyPenalty", params.frequency_penalty);
  params.logprobs = integer("logprobs", params.logprobs, 0, 20);
  params.seed = to_uint64(member(row, "seed", where), where + "seed");
  params.choice = static_cast<std::uint32_t>(to_integer(member(row, "choice", where), where + "choice", 0, UINT32_MAX));
  sampling->bias_tokens = ids("biasTokens");
  sampling->prompt_tokens = ids("promptTokens");
  sampling->output_tokens = ids("outputTokens");
  sampling->allowed = ids("allowedTokens");
  const Napi::Value bias_values = row.Get("biasValues");
  if (!is_absent(bias_values)) {
    sampling->bias_values = elements<float>(bias_values, where + "biasValues", napi_float32_array, "Float32Array");
  }
  params.bias_tokens = sampling->bias_tokens;
  params.bias_values = sampling->bias_values;
  params.prompt_tokens = sampling->prompt_tokens;
  params.output_tokens = sampling->output_tokens;
  params.allowed = sampling->allowed;
  return sampling;
}

StepBatch OwnedBatch::view() const {
  return {.tokens = tokens_,
          .row_counts = row_counts_,
          .start_positions = start_positions_,
          .prompt_lengths = prompt_lengths_,
          .block_table = block_table_,
          .block_offsets = block_offsets_,
          .logit_rows = logit_rows_,
          .sampling = sampling_,
          .digests = digests_,
          .logits = logits_};
}

StepRun OwnedBatch::run() const { return {.steps = steps_, .budget = budget_, .stop_tokens = stop_tokens_}; }

namespace {

Napi::Object step_to_js(Napi::Env env, const StepBatch& batch, const StepResult& result) {
  const std::size_t rows = batch.logit_rows.size();
  std::vector<std::int32_t> tokens(rows, -1);
  std::vector<float> logprobs(rows, std::numeric_limits<float>::quiet_NaN());
  std::vector<std::int32_t> ranks(rows, 0);
  const Napi::Array top_tokens = Napi::Array::New(env, rows);
  const Napi::Array top_logprobs = Napi::Array::New(env, rows);
  for (std::size_t i = 0; i < rows; ++i) {
    static const SampleResult kNothing;
    // A row whose logits are all NaN has no token either: -1, as where nothing was sampled.
    const bool sampled = batch.sampling[i] != nullptr && result.samples[i].valid;
    const SampleResult& sample = sampled ? result.samples[i] : kNothing;
    if (sampled) {
      tokens[i] = sample.token;
      logprobs[i] = sample.logprob;
      ranks[i] = sample.rank;
    }
    if (sample.top_tokens.empty()) continue;  // absent: making an array costs more than sampling
    const std::uint32_t index = static_cast<std::uint32_t>(i);
    top_tokens.Set(index, typed_array<Napi::Uint32Array>(env, sample.top_tokens));
    top_logprobs.Set(index, typed_array<Napi::Float32Array>(env, sample.top_logprobs));
  }
  Napi::Object out = Napi::Object::New(env);
  out.Set("tokens", typed_array<Napi::Int32Array>(env, tokens));
  out.Set("logprobs", typed_array<Napi::Float32Array>(env, logprobs));
  out.Set("ranks", typed_array<Napi::Int32Array>(env, ranks));
  out.Set("topTokens", top_tokens);
  out.Set("topLogprobs", top_logprobs);
  if (batch.digests) out.Set("digests", typed_array<Napi::BigUint64Array>(env, result.digests));
  if (batch.logits) out.Set("logits", typed_array<Napi::Float32Array>(env, result.logits));
  out.Set("expertCounts", typed_array<Napi::Uint32Array>(env, result.expert_counts));
  return out;
}

}  // namespace

Napi::Array to_js(Napi::Env env, const StepBatch& batch, const std::vector<StepResult>& results) {
  const Napi::Array out = Napi::Array::New(env, results.size());
  for (std::size_t i = 0; i < results.size(); ++i) {
    out.Set(static_cast<std::uint32_t>(i), step_to_js(env, batch, results[i]));
  }
  return out;
}

}  // namespace pelagic
