#include "base/thread_pool.h"

#include <chrono>
#include <stdexcept>

namespace pelagic {
namespace {

// Long enough to bridge the serial code between two jobs of a step, short enough not to be seen in a load average, and
// not to take the processor from the Node loop between two steps (200 was measured: slower by a tenth).
constexpr auto kSpinTime = std::chrono::microseconds(30);
// Pauses between looks at the clock while spinning.
constexpr int kPausesPerLook = 32;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

std::uint32_t items_left(std::uint64_t ticket) { return static_cast<std::uint32_t>(ticket); }

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads < 1 || threads > 1024) throw std::invalid_argument("threads must be 1 to 1024");
  workers_.reserve(static_cast<std::size_t>(threads - 1));
  try {
    for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { work(thread); });
  } catch (...) {  // the destructor will not run: end those that started, or their jthreads wait forever
    stopping_.store(true);
    epoch_.fetch_add(1);
    epoch_.notify_all();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
}

void ThreadPool::run_job(int count, Call call, void* context) {
  if (count <= 0) return;
  if (count == 1 || workers_.empty()) {
    for (int index = 0; index < count; ++index) call(context, index, 0);
    return;
  }
  count_ = count;
  call_ = call;
  context_ = context;
  done_.store(0, std::memory_order_relaxed);
  const std::uint64_t job = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store((job << 32) | static_cast<std::uint32_t>(count));
  epoch_.fetch_add(1);
  if (sleepers_.load() > 0) epoch_.notify_all();
  take_items(0);
  // The last items may still run elsewhere. Their threads may have lost the processor to another process: do not starve
  // them.
  for (int spins = 0; done_.load(std::memory_order_acquire) != count; ++spins) {
    pause();
    if (spins >= 20000) std::this_thread::yield();
  }
}

void ThreadPool::take_items(int thread) {
  std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (items_left(ticket) != 0) {
    if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel, std::memory_order_acquire))
      continue;
    call_(context_, count_ - static_cast<int>(items_left(ticket)), thread);
    done_.fetch_add(1, std::memory_order_release);
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void ThreadPool::work(int thread) {
  while (!stopping_.load(std::memory_order_relaxed)) {
    take_items(thread);
    const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
    bool found = false;
    do {
      for (int i = 0; i < kPausesPerLook && !found; ++i) {
        pause();
        found = items_left(ticket_.load(std::memory_order_relaxed)) != 0 || stopping_.load(std::memory_order_relaxed);
      }
    } while (!found && std::chrono::steady_clock::now() < deadline);
    if (found) continue;
    // Announce the sleep, then look again: run_job publishes the job before it looks for sleepers.
    sleepers_.fetch_add(1);
    const std::uint32_t epoch = epoch_.load();
    if (items_left(ticket_.load()) == 0 && !stopping_.load()) epoch_.wait(epoch);
    sleepers_.fetch_sub(1);
  }
}

}  // namespace pelagic
