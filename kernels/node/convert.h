// JavaScript values in and out: every argument checked, every error with a code.
#pragma once

#include <napi.h>

#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "graph/decode_steps.h"

namespace pelagic {

// A JavaScript Error with `.code`. The exception's own code where it is an Error; std::invalid_argument and
// std::out_of_range are "argument", std::bad_alloc "memory", anything else "internal".
Napi::Error to_js_error(Napi::Env env, const std::exception_ptr& failure);
Napi::Error js_error(Napi::Env env, const char* code, const std::string& message);

// Members of an object; throw Error(argument) with the member's name. `where` is put before it ("sampling[2].").
Napi::Value member(const Napi::Object& object, const char* name, const std::string& where = "");
double to_number(const Napi::Value& value, const std::string& name);
std::int64_t to_integer(const Napi::Value& value, const std::string& name, std::int64_t low, std::int64_t high);
std::string to_text(const Napi::Value& value, const std::string& name);
std::uint64_t to_uint64(const Napi::Value& value, const std::string& name);  // a BigInt
std::vector<std::uint32_t> to_uint32s(const Napi::Value& value, const std::string& name);
std::span<std::uint8_t> to_bytes(const Napi::Value& value, const std::string& name);  // a Uint8Array's own memory

// A StepBatch that owns copies of what JavaScript passed, as the call runs on another thread.
class OwnedBatch {
 public:
  explicit OwnedBatch(const Napi::Object& batch);
  StepBatch view() const;
  StepRun run() const;

 private:
  // Owns what SamplingParams' spans refer to.
  struct RowSampling {
    SamplingParams params;
    std::vector<std::uint32_t> bias_tokens, prompt_tokens, output_tokens, allowed;
    std::vector<float> bias_values;
  };
  static std::unique_ptr<RowSampling> read_sampling(const Napi::Object& row, const std::string& where);

  std::vector<std::uint32_t> tokens_, row_counts_, start_positions_, prompt_lengths_, block_table_, block_offsets_,
      logit_rows_;
  std::vector<std::unique_ptr<RowSampling>> rows_;
  std::vector<const SamplingParams*> sampling_;
  std::vector<std::vector<std::uint32_t>> stop_tokens_;
  int steps_ = 1;
  std::chrono::microseconds budget_{0};
  bool digests_ = false;
  bool logits_ = false;
};

// batch: the one that gave the results.
Napi::Array to_js(Napi::Env env, const StepBatch& batch, const std::vector<StepResult>& results);

}  // namespace pelagic
