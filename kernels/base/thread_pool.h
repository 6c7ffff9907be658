// The engine's compute threads: the caller and size()-1 workers take items of one job at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace pelagic {

// Which thread runs which item differs from run to run; no result may depend on it.
// Between jobs a worker spins for about 30 microseconds and then sleeps in the kernel, so an idle engine burns no CPU.
class ThreadPool {
 public:
  // threads: compute threads including the caller, at least 1. Throws std::invalid_argument, std::system_error.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls fn(index, thread) once for every index in [0, count), and returns when all calls are done. thread is in
  // [0, size()), 0 being the caller: it names per-thread scratch. Items are handed out in ascending order, one by one,
  // so make an item several microseconds of work and put long ones first. fn must not throw and must not call
  // parallel_for of the same pool; one caller at a time. Allocates nothing.
  template <class Fn>
  void parallel_for(int count, Fn&& fn) {
    using Function = std::remove_reference_t<Fn>;
    run_job(
        count, [](void* context, int index, int thread) { (*static_cast<Function*>(context))(index, thread); },
        const_cast<void*>(static_cast<const void*>(&fn)));
  }

  // The same over ranges: fn(begin, end, thread) on pieces of [0, count) of at most `grain` items.
  template <class Fn>
  void parallel_ranges(int count, int grain, Fn&& fn) {
    const int pieces = (count + grain - 1) / grain;
    parallel_for(pieces, [&](int piece, int thread) {
      const int begin = piece * grain;
      const int end = begin + grain < count ? begin + grain : count;
      fn(begin, end, thread);
    });
  }

 private:
  using Call = void (*)(void* context, int index, int thread);
  void run_job(int count, Call call, void* context);
  void take_items(int thread);
  void work(int thread);

  // Job number (upper 32 bits) and items not yet taken (lower 32). Taking an item is one compare-exchange, which fails
  // if the job has changed: a late worker can never touch a job that is over.
  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<std::uint32_t> epoch_{0};  // what sleeping workers wait on
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  // Written by the caller before ticket_, read by whoever holds an unfinished item.
  int count_ = 0;
  Call call_ = nullptr;
  void* context_ = nullptr;
  std::vector<std::jthread> workers_;
};

}  // namespace pelagic
