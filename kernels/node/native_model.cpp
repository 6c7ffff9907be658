#include "node/native_model.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "backend/cpu/cpu_backend.h"
#include "backend/cuda/open_cuda_backend.h"
#include "base/xxh64.h"
#include "graph/error.h"
#include "node/convert.h"

namespace pelagic {
namespace {

// A rank whose loop is about to bring its next step is not stepped without rows meanwhile.
constexpr std::chrono::milliseconds kTurnaround{3};

// Rows with logits that memory is taken for at load; a step with more of them allocates.
constexpr int kMostLogitRows = 256;

struct LoadOptions {
  std::string dir;
  bool cuda;
  CudaWeights weights;
  KvDtype kv_dtype;
  int threads;
  Isa isa;
  std::int64_t kv_blocks;
  int step_rows;  // 0: not told
  std::optional<RankOptions> ranks;
};

LoadOptions read_options(const Napi::Value& value) {
  if (!value.IsObject()) throw Error(ErrorCode::argument, "options must be an object");
  const Napi::Object options = value.As<Napi::Object>();
  LoadOptions out;
  out.dir = to_text(member(options, "dir"), "dir");
  const Napi::Value backend = options.Get("backend");
  const std::string backend_name = backend.IsUndefined() ? "cpu" : to_text(backend, "backend");
  if (backend_name != "cpu" && backend_name != "cuda")
    throw Error(ErrorCode::argument, "backend must be \"cpu\" or \"cuda\"");
  out.cuda = backend_name == "cuda";
  const Napi::Value weights = options.Get("weightDtype");
  const std::string weight_dtype = weights.IsUndefined() ? "bfloat16" : to_text(weights, "weightDtype");
  if (weight_dtype != "bfloat16" && weight_dtype != "fp8")
    throw Error(ErrorCode::argument, "weightDtype must be \"bfloat16\" or \"fp8\"");
  if (!out.cuda && !weights.IsUndefined())
    throw Error(ErrorCode::argument, "weightDtype needs backend \"cuda\": the CPU computes with float32 weights");
  out.weights = weight_dtype == "fp8" ? CudaWeights::fp8 : CudaWeights::bfloat16;
  const std::string kv_dtype = to_text(member(options, "kvDtype"), "kvDtype");
  if (kv_dtype != "float32" && kv_dtype != "bfloat16" && kv_dtype != "fp8")
    throw Error(ErrorCode::argument, "kvDtype must be \"float32\", \"bfloat16\" or \"fp8\"");
  out.kv_dtype = kv_dtype == "float32" ? KvDtype::float32 : kv_dtype == "bfloat16" ? KvDtype::bfloat16 : KvDtype::fp8;
  out.threads = static_cast<int>(to_integer(member(options, "threads"), "threads", 1, 1024));
  out.kv_blocks = to_integer(member(options, "kvBlocks"), "kvBlocks", 1, INT32_MAX);
  const Napi::Value step_rows = options.Get("stepRows");
  out.step_rows =
      step_rows.IsUndefined() ? 0 : static_cast<int>(to_integer(step_rows, "stepRows", 1, INT64_C(1) << 20));
  const Napi::Value ranks = options.Get("ranks");
  if (!ranks.IsUndefined()) {
    if (!ranks.IsObject()) throw Error(ErrorCode::argument, "ranks must be an object");
    out.ranks = read_rank_options(ranks.As<Napi::Object>());
  }
  const std::string isa = to_text(member(options, "isa"), "isa");
  out.isa = best_isa();
  bool known = isa == "auto";
  for (const Isa candidate : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (isa != isa_name(candidate)) continue;
    out.isa = candidate;
    known = true;
  }
  if (!known) throw Error(ErrorCode::argument, "isa must be \"auto\", \"scalar\", \"avx2\" or \"avx512\"");
  return out;
}

Napi::Object describe(Napi::Env env, const Model& model, bool cuda, const std::string& isa, int threads) {
  const ModelConfig& config = model.config();
  Napi::Object out = Napi::Object::New(env);
  const auto number = [&](const char* name, double value) { out.Set(name, Napi::Number::New(env, value)); };
  out.Set("modelType",
          Napi::String::New(env, config.family == ModelFamily::deepseek_v2 ? "deepseek_v2" : "deepseek_v3"));
  number("layerCount", static_cast<double>(config.layer_count));
  number("hiddenSize", static_cast<double>(config.hidden_size));
  number("vocabSize", static_cast<double>(config.vocab_size));
  number("headCount", static_cast<double>(config.head_count));
  number("latentWidth", static_cast<double>(config.latent_width()));
  number("kvRowBytes", static_cast<double>(model.kv_layout().row_bytes()));
  number("maxPositionEmbeddings", static_cast<double>(config.max_positions));
  number("moeLayerCount", static_cast<double>(config.moe_layer_count()));
  number("logicalExpertCount", static_cast<double>(config.expert_count));
  number("expertsPerToken", static_cast<double>(config.experts_per_token));
  number("weightBytes", static_cast<double>(model.info().weight_bytes));
  number("activeWeightBytes", static_cast<double>(model.info().active_weight_bytes));
  number("gemmFlopsPerRow", model.info().gemm_flops_per_row);
  number("attentionFlopsPerPair", model.info().attention_flops_per_pair);
  out.Set("expandsPrompts", Napi::Boolean::New(env, model.expands_prompts()));
  out.Set("backend", Napi::String::New(env, cuda ? "cuda" : "cpu"));
  out.Set("isa", Napi::String::New(env, isa));
  number("threads", threads);
  return out;
}

Napi::Promise rejected(Napi::Env env, const Napi::Error& error) {
  const auto promise = Napi::Promise::Deferred::New(env);
  promise.Reject(error.Value());
  return promise.Promise();
}

// Bytes [offset, offset + size) of a Uint8Array argument.
std::span<std::byte> window(std::span<std::uint8_t> bytes, std::int64_t offset, std::size_t size, const char* name) {
  if (static_cast<std::size_t>(offset) > bytes.size() || size > bytes.size() - static_cast<std::size_t>(offset)) {
    throw Error(ErrorCode::argument, std::string(name) + " has " + std::to_string(bytes.size()) + " bytes, " +
                                         std::to_string(size) + " are needed from offset " + std::to_string(offset));
  }
  return std::as_writable_bytes(bytes.subspan(static_cast<std::size_t>(offset), size));
}

// Where a KV frame's checksums and payload are; services/lib/contracts/frame.ts describes the rest of its header.
constexpr std::size_t kPayloadSumAt = 48;
constexpr std::size_t kHeaderSumAt = 56;
constexpr std::size_t kFrameHeaderBytes = 64;

// The arguments (layer, block, firstRow, rowCount, frame) of packFrame and unpackFrame.
struct FrameRows {
  FrameRows(const Napi::CallbackInfo& info, std::size_t row_bytes)
      : layer(static_cast<int>(to_integer(info[0], "layer", 0, INT32_MAX))),
        block(static_cast<std::uint32_t>(to_integer(info[1], "block", 0, UINT32_MAX))),
        first_row(static_cast<int>(to_integer(info[2], "firstRow", 0, kBlockRows))),
        row_count(static_cast<int>(to_integer(info[3], "rowCount", 0, kBlockRows))),
        frame(to_bytes(info[4], "frame")),
        payload(window(frame, kFrameHeaderBytes, static_cast<std::size_t>(row_count) * row_bytes, "frame")) {}

  std::uint64_t sum(std::size_t at) const {
    std::uint64_t value;
    std::memcpy(&value, frame.data() + at, sizeof value);
    return value;
  }
  void set_sum(std::size_t at, std::uint64_t value) const { std::memcpy(frame.data() + at, &value, sizeof value); }

  int layer;
  std::uint32_t block;
  int first_row;
  int row_count;
  std::span<std::uint8_t> frame;
  std::span<std::byte> payload;
};

// Calls fn and turns what it throws into a JavaScript exception with a code.
template <class Fn>
Napi::Value guarded(Napi::Env env, const Fn& fn) {
  try {
    return fn();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js_error(env, std::current_exception());
  }
}

}  // namespace

void run_loop_task(Napi::Env env, Napi::Function, std::nullptr_t*, LoopTask* task) {
  const std::unique_ptr<LoopTask> owned(task);
  if (static_cast<napi_env>(env) != nullptr) (*task)(env);  // null: Node is shutting down
}

Napi::Function NativeModel::make_class(Napi::Env env) {
  return DefineClass(
      env, "NativeModel",
      {InstanceAccessor<&NativeModel::info>("info"), InstanceMethod<&NativeModel::step>("step"),
       InstanceMethod<&NativeModel::pack_rows>("packRows"), InstanceMethod<&NativeModel::pack_frame>("packFrame"),
       InstanceMethod<&NativeModel::unpack_frame>("unpackFrame"), InstanceMethod<&NativeModel::copy_block>("copyBlock"),
       InstanceMethod<&NativeModel::read_weights>("readWeights"), InstanceMethod<&NativeModel::meet>("meet"),
       InstanceMethod<&NativeModel::conform>("conform"), InstanceMethod<&NativeModel::stage_plan>("stagePlan"),
       InstanceAccessor<&NativeModel::placement_state>("placementState"),
       InstanceAccessor<&NativeModel::plan_in_force>("planInForce"),
       InstanceAccessor<&NativeModel::rank_port>("rankPort"),
       InstanceAccessor<&NativeModel::rank_counters>("rankCounters"), InstanceMethod<&NativeModel::close>("close")});
}

NativeModel::NativeModel(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeModel>(info) {}

NativeModel::~NativeModel() {
  if (engine_ == nullptr) return;  // closed, or stopped by stop_at_exit
  napi_remove_env_cleanup_hook(Env(), stop_at_exit, this);
  end_engine();
  loop_.Release();
}

// After this no thread of ours runs: with other ranks the model has one that gives the engine thread work.
void NativeModel::end_engine() {
  engine_->submit([this] { model_.reset(); });
  engine_.reset();
}

// Node shuts down while the model is open: wait for the running call now, as loop_ is gone after this.
void NativeModel::stop_at_exit(void* self) { static_cast<NativeModel*>(self)->end_engine(); }

Napi::Value NativeModel::load(const Napi::Function& model_class, const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  LoadOptions options;
  try {
    options = read_options(info[0]);
  } catch (...) {
    return rejected(env, to_js_error(env, std::current_exception()));
  }
  NativeModel* self = Unwrap(model_class.New({}));
  self->loop_ = LoopQueue::New(env, "pelagic engine", 0, 1);
  self->engine_ = std::make_unique<EngineThread>();
  self->cuda_ = options.cuda;
  self->isa_ = std::string(isa_name(options.isa));
  self->threads_ = options.threads;
  self->ranks_ = options.ranks;
  if (options.ranks) {
    const Napi::Value lost = info[0].As<Napi::Object>().Get("ranks").As<Napi::Object>().Get("onLost");
    if (lost.IsFunction()) self->on_ranks_lost_ = Napi::Persistent(lost.As<Napi::Function>());
  }
  // Added after loop_, so that it runs before Node takes loop_ down.
  napi_add_env_cleanup_hook(env, stop_at_exit, self);

  const Napi::Promise promise = self->begin_call(env, info[1]);
  const bool wants_progress = !self->call_->callback.IsEmpty();
  self->engine_->submit([self, options, wants_progress] {
    LoadProgress progress;
    if (wants_progress) {
      progress = [self](std::uint64_t done, std::uint64_t total) {
        self->post([self, done, total](Napi::Env loop_env) {
          self->notify(loop_env, {static_cast<double>(done), static_cast<double>(total)});
        });
      };
    }
    std::exception_ptr failure;
    try {
      auto backend = options.cuda ? open_cuda_backend(options.weights) : make_cpu_backend(options.isa, options.threads);
      std::optional<RankPlan> plan;
      if (options.ranks) {
        plan = RankPlan{options.ranks->plan, options.ranks->view.rank};
        self->listener_ =
            std::make_unique<RankListener>(options.ranks->host, options.ranks->port, options.ranks->secret);
      }
      self->model_ = std::make_unique<Model>(options.dir, std::move(backend), options.kv_dtype, options.kv_blocks,
                                             options.threads, progress, std::move(plan));
      // Where memory is the card's, it is taken now: not in the middle of a step, and not after others have it.
      if (options.cuda && options.step_rows > 0)
        self->model_->prepare(options.step_rows, std::min(options.step_rows, kMostLogitRows));
    } catch (...) {
      failure = std::current_exception();
    }
    self->post([self, failure](Napi::Env loop_env) {
      self->end_call(loop_env, failure, [self] { return self->Value(); });
      if (failure) self->shut_down(loop_env);
    });
  });
  return promise;
}

Napi::Value NativeModel::step(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  try {
    open_model();
    if (call_) throw Error(ErrorCode::busy, "the model is running another step: wait for it before the next one");
    if (!info[0].IsObject()) throw Error(ErrorCode::argument, "batch must be an object");
    const auto batch = std::make_shared<OwnedBatch>(info[0].As<Napi::Object>());
    const auto results = std::make_shared<std::vector<StepResult>>();
    const Napi::Promise promise = begin_call(env, info[1]);
    const bool wants_layers = !call_->callback.IsEmpty();
    engine_->submit([this, batch, results, wants_layers] {
      std::function<void(int)> on_layer;
      if (wants_layers) {
        on_layer = [this](int layer) {
          post([this, layer](Napi::Env loop_env) { notify(loop_env, {static_cast<double>(layer)}); });
        };
      }
      std::exception_ptr failure;
      try {
        *results = run_steps(*model_, batch->view(), batch->run(), on_layer);
        note_counters();
      } catch (...) {
        failure = std::current_exception();
      }
      post([this, batch, results, failure](Napi::Env loop_env) {
        end_call(loop_env, failure, [&] { return to_js(loop_env, batch->view(), *results); });
      });
    });
    return promise;
  } catch (const Napi::Error& error) {
    return rejected(env, error);
  } catch (...) {
    return rejected(env, to_js_error(env, std::current_exception()));
  }
}

Napi::Value NativeModel::read_weights(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  try {
    open_model();
    if (call_) throw Error(ErrorCode::busy, "the model is running a step: wait for it");
    const auto counts = std::make_shared<std::vector<std::uint32_t>>(to_uint32s(info[0], "expertCounts"));
    const Napi::Promise promise = begin_call(env, env.Undefined());
    engine_->submit([this, counts] {
      Model::ReadPass pass{0, 0};
      std::exception_ptr failure;
      try {
        pass = model_->read_weights(*counts);
      } catch (...) {
        failure = std::current_exception();
      }
      post([this, pass, failure](Napi::Env loop_env) {
        end_call(loop_env, failure, [&]() -> Napi::Value {
          Napi::Object out = Napi::Object::New(loop_env);
          out.Set("bytes", Napi::Number::New(loop_env, static_cast<double>(pass.bytes)));
          out.Set("seconds", Napi::Number::New(loop_env, pass.seconds));
          return out;
        });
      });
    });
    return promise;
  } catch (const Napi::Error& error) {
    return rejected(env, error);
  } catch (...) {
    return rejected(env, to_js_error(env, std::current_exception()));
  }
}

// On the engine thread, when nobody else has work for it.
void NativeModel::take_part() {
  if (model_ == nullptr) return;
  try {
    if (model_->take_part()) note_counters();
  } catch (...) {
    post([this, failure = std::current_exception()](Napi::Env env) {
      if (closing_ || on_ranks_lost_.IsEmpty()) return;
      try {
        on_ranks_lost_.Call({to_js_error(env, failure).Value()});
      } catch (const Napi::Error& thrown) {
        napi_fatal_exception(env, thrown.Value());
      }
    });
  }
}

// A call that no step may run beside: `prepare` reads its arguments, and what it returns runs on the engine thread.
Napi::Value NativeModel::between_steps(Napi::Env env, const std::function<std::function<void()>()>& prepare) {
  try {
    open_model();
    if (call_) throw Error(ErrorCode::busy, "the model is running a step: wait for it");
    const std::function<void()> work = prepare();
    const Napi::Promise promise = begin_call(env, env.Undefined());
    engine_->submit([this, work] {
      std::exception_ptr failure;
      try {
        work();
      } catch (...) {
        failure = std::current_exception();
      }
      post([this, failure](Napi::Env loop_env) { end_call(loop_env, failure, [&] { return loop_env.Undefined(); }); });
    });
    return promise;
  } catch (const Napi::Error& error) {
    return rejected(env, error);
  } catch (...) {
    return rejected(env, to_js_error(env, std::current_exception()));
  }
}

Napi::Value NativeModel::meet(const Napi::CallbackInfo& info) {
  return between_steps(info.Env(), [&]() -> std::function<void()> {
    if (!ranks_) throw Error(ErrorCode::argument, "the model was loaded without ranks");
    if (!info[0].IsObject()) throw Error(ErrorCode::argument, "meeting must be an object");
    const auto meeting = std::make_shared<Meeting>(read_meeting(info[0].As<Napi::Object>()));
    if (static_cast<int>(meeting->ranks.size()) != ranks_->plan.rank_count)
      throw Error(ErrorCode::argument, "ranks must have one entry for each rank of the plan");
    // The engine is there as long as the model, whose exchange has a thread of its own; engine_ is the loop's.
    return [this, meeting, engine = engine_.get()] {
      const int rank = ranks_->view.rank;
      model_->leave({"rank " + std::to_string(rank) + " has left this group: it meets another one", true});
      auto exchange = meet_ranks(*listener_, meeting->group, rank, meeting->ranks, meeting->times);
      const auto look = [this, engine] { engine->submit_idle([this] { take_part(); }, kTurnaround); };
      exchange->on_arrival(look);
      model_->experts()->on_ready(look);
      model_->join(std::move(exchange), ranks_->view);
      // What has come before there was anyone to tell.
      look();
    };
  });
}

Napi::Value NativeModel::conform(const Napi::CallbackInfo& info) {
  return between_steps(info.Env(), [&]() -> std::function<void()> {
    open_experts();
    if (!info[0].IsObject()) throw Error(ErrorCode::argument, "plan must be an object");
    const auto plan = std::make_shared<ExpertPlan>(read_plan(info[0].As<Napi::Object>(), "plan."));
    return [this, plan] {
      const int rank = ranks_->view.rank;
      model_->leave({"rank " + std::to_string(rank) + " has left this group: it goes by another expert plan", true});
      model_->experts()->conform(*plan, threads_);
    };
  });
}

Napi::Value NativeModel::stage_plan(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    ExpertMover& experts = open_experts();
    if (!info[0].IsObject()) throw Error(ErrorCode::argument, "plan must be an object");
    const auto rate = static_cast<std::uint64_t>(to_integer(info[1], "bytesPerSecond", 1, INT64_C(1) << 52));
    return Napi::Boolean::New(info.Env(), experts.stage(read_plan(info[0].As<Napi::Object>(), "plan."), rate));
  });
}

Napi::Value NativeModel::placement_state(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return to_js(info.Env(), open_experts().state()); });
}

Napi::Value NativeModel::plan_in_force(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return to_js(info.Env(), open_experts().in_force()); });
}

Napi::Value NativeModel::rank_port(const Napi::CallbackInfo& info) {
  if (listener_ == nullptr) return info.Env().Undefined();
  return Napi::Number::New(info.Env(), listener_->port());
}

// On the engine thread, behind a step.
void NativeModel::note_counters() {
  if (!ranks_) return;
  const std::lock_guard lock(counters_mutex_);
  counters_ = model_->rank_counters();
}

Napi::Value NativeModel::rank_counters(const Napi::CallbackInfo& info) {
  const std::lock_guard lock(counters_mutex_);
  return to_js(info.Env(), counters_);
}

Napi::Value NativeModel::pack_rows(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Model& model = open_model();
    const int layer = static_cast<int>(to_integer(info[0], "layer", 0, INT32_MAX));
    const std::uint32_t block = static_cast<std::uint32_t>(to_integer(info[1], "block", 0, UINT32_MAX));
    const int first_row = static_cast<int>(to_integer(info[2], "firstRow", 0, kBlockRows));
    const int row_count = static_cast<int>(to_integer(info[3], "rowCount", 0, kBlockRows));
    const std::int64_t offset = to_integer(info[5], "offset", 0, INT64_C(1) << 52);
    const std::size_t size = static_cast<std::size_t>(row_count) * model.kv_layout().row_bytes();
    const auto out = window(to_bytes(info[4], "out"), offset, size, "out");
    return Napi::BigInt::New(info.Env(), model.pack_rows(layer, block, first_row, row_count, out));
  });
}

Napi::Value NativeModel::pack_frame(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Model& model = open_model();
    const FrameRows rows(info, model.kv_layout().row_bytes());
    rows.set_sum(kPayloadSumAt, model.pack_rows(rows.layer, rows.block, rows.first_row, rows.row_count, rows.payload));
    rows.set_sum(kHeaderSumAt, xxh64(rows.frame.data(), kHeaderSumAt));
    return info.Env().Undefined();
  });
}

Napi::Value NativeModel::unpack_frame(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Model& model = open_model();
    const FrameRows rows(info, model.kv_layout().row_bytes());
    if (rows.sum(kHeaderSumAt) != xxh64(rows.frame.data(), kHeaderSumAt)) return Napi::Boolean::New(info.Env(), false);
    const auto sum = model.unpack_rows(rows.layer, rows.block, rows.first_row, rows.row_count, rows.payload);
    return Napi::Boolean::New(info.Env(), sum == rows.sum(kPayloadSumAt));
  });
}

Napi::Value NativeModel::copy_block(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Model& model = open_model();
    const auto from = static_cast<std::uint32_t>(to_integer(info[0], "from", 0, UINT32_MAX));
    const auto to = static_cast<std::uint32_t>(to_integer(info[1], "to", 0, UINT32_MAX));
    model.copy_block(from, to);
    return info.Env().Undefined();
  });
}

Napi::Value NativeModel::info(const Napi::CallbackInfo& info) {
  return guarded(info.Env(),
                 [&]() -> Napi::Value { return describe(info.Env(), open_model(), cuda_, isa_, threads_); });
}

// Runs after the step in progress, which keeps its promise. Later calls are refused at once.
Napi::Value NativeModel::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto promise = Napi::Promise::Deferred::New(env);
  if (engine_ == nullptr) {
    promise.Resolve(env.Undefined());
    return promise.Promise();
  }
  close_promises_.push_back(promise);
  if (closing_) return promise.Promise();
  closing_ = true;
  loop_.Ref(env);
  Ref();
  engine_->submit([this] {
    if (ranks_ && model_ != nullptr)
      model_->leave({"rank " + std::to_string(ranks_->view.rank) + " has left this group: it was stopped", true});
    model_.reset();
    post([this](Napi::Env loop_env) {
      shut_down(loop_env);
      for (const auto& waiting : close_promises_) waiting.Resolve(loop_env.Undefined());
      Unref();
    });
  });
  return promise.Promise();
}

// Ends the thread and lets go of the loop: the process may exit.
void NativeModel::shut_down(Napi::Env env) {
  closing_ = true;
  napi_remove_env_cleanup_hook(env, stop_at_exit, this);
  end_engine();
  loop_.Unref(env);
  loop_.Release();
}

Model& NativeModel::open_model() {
  if (closing_ || model_ == nullptr) throw Error(ErrorCode::argument, "the model is closed");
  return *model_;
}

ExpertMover& NativeModel::open_experts() {
  ExpertMover* experts = open_model().experts();
  if (experts == nullptr) throw Error(ErrorCode::argument, "the model was loaded without ranks");
  return *experts;
}

// From here until end_call the process stays alive, and so does this object.
Napi::Promise NativeModel::begin_call(Napi::Env env, const Napi::Value& callback) {
  call_.emplace(Call{Napi::Promise::Deferred::New(env), {}, {}});
  if (callback.IsFunction()) call_->callback = Napi::Persistent(callback.As<Napi::Function>());
  loop_.Ref(env);
  Ref();
  return call_->promise.Promise();
}

// Calls the call's callback. What it throws makes the call fail, and it is not called again.
void NativeModel::notify(Napi::Env env, std::initializer_list<double> arguments) {
  if (!call_->thrown.IsEmpty()) return;
  std::vector<napi_value> values;
  for (const double argument : arguments) values.push_back(Napi::Number::New(env, argument));
  try {
    call_->callback.Call(values);
  } catch (const Napi::Error& error) {
    Napi::Object holder = Napi::Object::New(env);
    holder.Set("error", error.Value());
    call_->thrown = Napi::Persistent(holder);
  }
}

void NativeModel::end_call(Napi::Env env, const std::exception_ptr& failure,
                           const std::function<Napi::Value()>& make_result) {
  const Call call = std::move(*call_);
  call_.reset();
  if (!closing_) loop_.Unref(env);
  Unref();
  if (!call.thrown.IsEmpty()) {
    call.promise.Reject(call.thrown.Value().Get("error"));
  } else if (failure) {
    call.promise.Reject(to_js_error(env, failure).Value());
  } else {
    call.promise.Resolve(make_result());
  }
}

// From the engine thread.
void NativeModel::post(LoopTask task) {
  auto owned = std::make_unique<LoopTask>(std::move(task));
  if (loop_.NonBlockingCall(owned.get()) == napi_ok) owned.release();
}

}  // namespace pelagic
