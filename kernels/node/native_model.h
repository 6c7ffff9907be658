// NativeModel of services/lib/engine/native.ts: a Model on its own engine thread.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "graph/model.h"
#include "node/convert_ranks.h"
#include "node/engine_thread.h"

namespace pelagic {

// Work for the Node loop, given by the engine thread. It may hold nothing of JavaScript's: it is dropped unrun when
// Node shuts down.
using LoopTask = std::function<void(Napi::Env)>;
void run_loop_task(Napi::Env env, Napi::Function callback, std::nullptr_t* context, LoopTask* task);
using LoopQueue = Napi::TypedThreadSafeFunction<std::nullptr_t, LoopTask, run_loop_task>;

class NativeModel : public Napi::ObjectWrap<NativeModel> {
 public:
  // Makes the class for this environment; loadModel uses it, JavaScript never sees it.
  static Napi::Function make_class(Napi::Env env);
  // loadModel(options, onProgress?): Promise<NativeModel>.
  static Napi::Value load(const Napi::Function& model_class, const Napi::CallbackInfo& info);

  explicit NativeModel(const Napi::CallbackInfo& info);
  ~NativeModel() override;

 private:
  // A call whose promise is not settled. Lives on the Node loop only.
  struct Call {
    Napi::Promise::Deferred promise;
    Napi::FunctionReference callback;  // onLayer or onProgress, or empty
    Napi::ObjectReference thrown;      // {error}: what the callback threw, or empty
  };

  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value pack_rows(const Napi::CallbackInfo& info);
  Napi::Value pack_frame(const Napi::CallbackInfo& info);
  Napi::Value unpack_frame(const Napi::CallbackInfo& info);
  Napi::Value copy_block(const Napi::CallbackInfo& info);
  Napi::Value read_weights(const Napi::CallbackInfo& info);
  Napi::Value meet(const Napi::CallbackInfo& info);
  Napi::Value conform(const Napi::CallbackInfo& info);
  Napi::Value stage_plan(const Napi::CallbackInfo& info);
  Napi::Value placement_state(const Napi::CallbackInfo& info);
  Napi::Value plan_in_force(const Napi::CallbackInfo& info);
  Napi::Value rank_port(const Napi::CallbackInfo& info);
  Napi::Value rank_counters(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
  Napi::Value info(const Napi::CallbackInfo& info);

  static void stop_at_exit(void* self);
  void shut_down(Napi::Env env);
  Model& open_model();
  ExpertMover& open_experts();
  Napi::Value between_steps(Napi::Env env, const std::function<std::function<void()>()>& prepare);
  Napi::Promise begin_call(Napi::Env env, const Napi::Value& callback);
  void notify(Napi::Env env, std::initializer_list<double> arguments);
  void end_call(Napi::Env env, const std::exception_ptr& failure, const std::function<Napi::Value()>& make_result);
  void post(LoopTask task);
  void take_part();
  void note_counters();
  void end_engine();

  LoopQueue loop_;  // keeps the process alive while a call runs, and only then
  std::unique_ptr<Model> model_;
  bool cuda_ = false;
  std::string isa_;
  int threads_ = 0;
  std::optional<RankOptions> ranks_;
  std::unique_ptr<RankListener> listener_;
  Napi::FunctionReference on_ranks_lost_;
  std::mutex counters_mutex_;
  RankCounters counters_;
  std::optional<Call> call_;
  bool closing_ = false;
  std::vector<Napi::Promise::Deferred> close_promises_;
  std::unique_ptr<EngineThread> engine_;
};

}  // namespace pelagic
