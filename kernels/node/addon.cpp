// The addon's entry: NativeModule of services/lib/engine/native.ts.
#include <napi.h>

#include <functional>

#include "backend/cpu/cpu_ops.h"
#include "base/cpu_features.h"
#include "base/measure.h"
#include "base/thread_pool.h"
#include "base/xxh64.h"
#include "node/convert.h"
#include "node/native_model.h"

namespace pelagic {
namespace {

// Per environment (main thread, worker threads): the NativeModel class.
struct AddonData {
  Napi::FunctionReference model_class;
};

Napi::Value load_model(const Napi::CallbackInfo& info) {
  return NativeModel::load(info.Env().GetInstanceData<AddonData>()->model_class.Value(), info);
}

Napi::Value hash(const Napi::CallbackInfo& info) {
  try {
    const auto bytes = to_bytes(info[0], "data");
    const std::uint64_t seed = info[1].IsUndefined() ? 0 : to_uint64(info[1], "seed");
    return Napi::BigInt::New(info.Env(), xxh64(bytes.data(), bytes.size(), seed));
  } catch (const std::runtime_error&) {
    throw to_js_error(info.Env(), std::current_exception());
  }
}

Napi::Value best_isa_name(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), std::string(isa_name(best_isa())));
}

// A measurement with its own pool of threads, off the Node loop.
class Measurement : public Napi::AsyncWorker {
 public:
  using Run = std::function<double(ThreadPool&, const CpuOps&)>;

  Measurement(Napi::Env env, int threads, Run run)
      : Napi::AsyncWorker(env), promise_(Napi::Promise::Deferred::New(env)), threads_(threads), run_(std::move(run)) {}

  Napi::Promise promise() const { return promise_.Promise(); }

 protected:
  void Execute() override {
    try {
      ThreadPool pool(threads_);
      value_ = run_(pool, cpu_ops(best_isa()));
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  void OnOK() override {
    if (failure_) {
      promise_.Reject(to_js_error(Env(), failure_).Value());
    } else {
      promise_.Resolve(Napi::Number::New(Env(), value_));
    }
  }

 private:
  Napi::Promise::Deferred promise_;
  int threads_;
  Run run_;
  double value_ = 0;
  std::exception_ptr failure_;
};

Napi::Value start(const Napi::CallbackInfo& info, const std::function<Measurement*()>& make) {
  try {
    Measurement* measurement = make();  // deletes itself when done
    const Napi::Promise promise = measurement->promise();
    measurement->Queue();
    return promise;
  } catch (const std::runtime_error&) {
    const auto promise = Napi::Promise::Deferred::New(info.Env());
    promise.Reject(to_js_error(info.Env(), std::current_exception()).Value());
    return promise.Promise();
  }
}

Napi::Value measure_bandwidth(const Napi::CallbackInfo& info) {
  return start(info, [&] {
    const auto bytes = static_cast<std::size_t>(to_integer(info[0], "bytes", 1, INT64_C(1) << 40));
    const int threads = static_cast<int>(to_integer(info[1], "threads", 1, 1024));
    return new Measurement(info.Env(), threads, [bytes](ThreadPool& pool, const CpuOps& ops) {
      return measure_read_bandwidth(pool, ops, bytes);
    });
  });
}

Napi::Value measure_fma(const Napi::CallbackInfo& info) {
  return start(info, [&] {
    const int threads = static_cast<int>(to_integer(info[0], "threads", 1, 1024));
    return new Measurement(info.Env(), threads,
                           [](ThreadPool& pool, const CpuOps& ops) { return measure_fma_rate(pool, ops); });
  });
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* data = new AddonData{Napi::Persistent(NativeModel::make_class(env))};
  env.SetInstanceData(data);  // Node deletes it with the environment
  exports.Set("loadModel", Napi::Function::New<load_model>(env, "loadModel"));
  exports.Set("xxh64", Napi::Function::New<hash>(env, "xxh64"));
  exports.Set("bestIsa", Napi::Function::New<best_isa_name>(env, "bestIsa"));
  exports.Set("measureReadBandwidth", Napi::Function::New<measure_bandwidth>(env, "measureReadBandwidth"));
  exports.Set("measureFmaRate", Napi::Function::New<measure_fma>(env, "measureFmaRate"));
  return exports;
}

}  // namespace
}  // namespace pelagic

static Napi::Object init_addon(Napi::Env env, Napi::Object exports) { return pelagic::init(env, exports); }
NODE_API_MODULE(pelagic, init_addon)
