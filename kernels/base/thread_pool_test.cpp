#include "base/thread_pool.h"

#include <sys/resource.h>

#include <chrono>
#include <stdexcept>

#include "base/test.h"

namespace {

using namespace pelagic;

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST("every index once, thread numbers in range") {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(pool.size() == threads);
    for (const int count : {0, 1, 2, 7, 100, 1000}) {
      std::vector<std::atomic<int>> hits(static_cast<std::size_t>(count));
      std::atomic<bool> in_range{true};
      pool.parallel_for(count, [&](int index, int thread) {
        hits[static_cast<std::size_t>(index)].fetch_add(1);
        if (thread < 0 || thread >= threads) in_range = false;
      });
      CHECK(in_range);
      for (const auto& hit : hits) CHECK(hit == 1);
    }
  }
}

TEST("many short jobs in a row, and jobs after a sleep") {
  ThreadPool pool(4);
  std::atomic<std::int64_t> sum{0};
  std::int64_t expected = 0;
  for (int job = 0; job < 20000; ++job) {
    const int count = job % 6;
    pool.parallel_for(count, [&](int index, int) { sum.fetch_add(index + 1, std::memory_order_relaxed); });
    expected += count * (count + 1) / 2;
    if (job % 4000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  CHECK(sum == expected);
}

TEST("two threads really run at once") {
  ThreadPool pool(2);
  std::atomic<int> arrived{0};
  pool.parallel_for(2, [&](int, int) {
    arrived.fetch_add(1);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (arrived.load() < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  });
  CHECK(arrived == 2);
}

TEST("ranges cover the whole") {
  ThreadPool pool(3);
  std::vector<int> hits(101);
  pool.parallel_ranges(101, 8, [&](int begin, int end, int) {
    for (int i = begin; i < end; ++i) ++hits[static_cast<std::size_t>(i)];
  });
  for (const int hit : hits) CHECK(hit == 1);
}

TEST("an idle pool burns no processor time") {
  ThreadPool pool(4);
  pool.parallel_for(4, [](int, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  CHECK(cpu_seconds() - before < 0.03);
}

TEST("a pool needs a thread") {
  CHECK_THROWS(ThreadPool(0), std::invalid_argument);
  CHECK_THROWS(ThreadPool(-1), std::invalid_argument);
}

}  // namespace

TEST_MAIN
