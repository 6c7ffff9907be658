// The thread on which a model loads and steps run, so that the Node loop never waits for them.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace pelagic {

// Runs jobs in the order given, one at a time. Jobs must not throw.
class EngineThread {
 public:
  EngineThread() : thread_([this] { run(); }) {}
  // Waits for the jobs given so far.
  ~EngineThread() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  void submit(std::function<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    changed_.notify_one();
  }

 private:
  static constexpr auto kSpinTime = std::chrono::microseconds(100);
  static constexpr int kPausesPerLook = 8;
  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      // The next step usually comes as soon as the loop has looked at the last one: sooner than a sleeping thread
      // wakes.
      const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
      while (!stopping_ && jobs_.empty() && std::chrono::steady_clock::now() < deadline) {
        lock.unlock();
        for (int i = 0; i < kPausesPerLook; ++i) pause();
        lock.lock();
      }
      changed_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      const std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace pelagic
