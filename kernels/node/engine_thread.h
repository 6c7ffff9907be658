// The thread on which a model loads and steps run, so that the Node loop never waits for them.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

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

  // A job that gives way: it runs when no other has come for `grace` after the last one ended. At most one waits.
  void submit_idle(std::function<void()> job, std::chrono::microseconds grace) {
    {
      const std::lock_guard lock(mutex_);
      idle_job_ = std::move(job);
      grace_ = grace;
    }
    changed_.notify_one();
  }

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
      changed_.wait(lock, [&] { return stopping_ || !jobs_.empty() || idle_job_; });
      const bool gives_way = jobs_.empty() && !stopping_ && !changed_.wait_until(lock, last_end_ + grace_, [&] {
        return stopping_ || !jobs_.empty();
      });
      std::function<void()> job;
      if (gives_way) {
        job = std::exchange(idle_job_, nullptr);
      } else if (!jobs_.empty()) {
        job = std::move(jobs_.front());
        jobs_.pop_front();
      } else {
        return;  // stopping
      }
      lock.unlock();
      job();
      lock.lock();
      if (!gives_way) last_end_ = std::chrono::steady_clock::now();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  std::function<void()> idle_job_;
  std::chrono::microseconds grace_{0};
  std::chrono::steady_clock::time_point last_end_{};
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace pelagic
