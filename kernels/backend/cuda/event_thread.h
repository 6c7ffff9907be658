// Calls functions when the card has come so far. A thread of its own, because a function called by the stream itself
// may not use CUDA and would hold the stream up.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "backend/cuda/device_memory.h"

namespace pelagic::cuda {

class EventThread {
 public:
  EventThread() : thread_([this] { run(); }) {}
  ~EventThread() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
    for (const cudaEvent_t event : free_) cudaEventDestroy(event);
  }
  EventThread(const EventThread&) = delete;
  EventThread& operator=(const EventThread&) = delete;

  // fn is called once everything that the stream has been given so far is done; not at all if the card fails.
  void when_done(cudaStream_t stream, std::function<void()> fn) {
    cudaEvent_t event = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        event = free_.back();
        free_.pop_back();
      }
    }
    if (event == nullptr)
      check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync), "cudaEventCreate");
    check(cudaEventRecord(event, stream), "cudaEventRecord");
    {
      const std::lock_guard lock(mutex_);
      waiting_.push_back({event, std::move(fn)});
    }
    changed_.notify_all();
  }

  // Returns when all functions given so far have returned.
  void drain() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_.empty() && !running_; });
  }

 private:
  struct Entry {
    cudaEvent_t event;
    std::function<void()> fn;
  };

  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      const Entry entry = std::move(waiting_.front());
      waiting_.pop_front();
      running_ = true;
      lock.unlock();
      const bool reached = cudaEventSynchronize(entry.event) == cudaSuccess;  // a failure shows at finish() too
      if (reached) entry.fn();
      lock.lock();
      free_.push_back(entry.event);
      running_ = false;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Entry> waiting_;
  std::vector<cudaEvent_t> free_;
  bool running_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace pelagic::cuda
