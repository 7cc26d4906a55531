#include "custom_ops/core/parallel.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "custom_ops/core/tests/check.h"

namespace keras_lsh {
namespace testing {
namespace {

constexpr int64_t kDear = 1'000'000;  // cycles an item: worth sharing

// Threads that run what they are handed at once.
class Threads {
 public:
  Schedule schedule() {
    return [this](std::function<void()> task) {
      threads_.emplace_back(std::move(task));
    };
  }
  int64_t Join() {
    for (std::thread& thread : threads_) thread.join();
    return static_cast<int64_t>(threads_.size());
  }

 private:
  std::vector<std::thread> threads_;
};

// How often each of `total` items is worked on.
std::vector<int> Visits(const ParallelFor& parallel_for, int64_t total,
                        int64_t cost) {
  std::vector<std::atomic<int>> visits(total);
  parallel_for(total, cost, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++visits[i];
  });
  return {visits.begin(), visits.end()};
}

TEST(SharedWorkVisitsEachItemOnce) {
  for (int threads : {1, 2, 3, 8}) {
    for (int64_t total : {0, 1, 2, 7, 64, 1000}) {
      for (int64_t cost : {int64_t{0}, int64_t{1}, kDear, int64_t{1} << 62}) {
        const Context context(threads, " threads, total=", total,
                              ", cost=", cost);
        for (int repeat = 0; repeat < 5; ++repeat) {
          Threads others;
          CHECK_EQ(Visits(SharedWork(threads, others.schedule()), total, cost),
                   std::vector<int>(total, 1));
          const int64_t helped = others.Join();
          CHECK_EQ(helped <= threads - 1, true);
          CHECK_EQ(helped > 0, threads > 1 && total > 1 && cost >= kDear);
        }
      }
    }
  }
}

TEST(SharedWorkWaitsForNobodyWhoHasNotBegun) {
  std::vector<std::function<void()>> late;
  const ParallelFor parallel_for = SharedWork(
      4, [&](std::function<void()> task) { late.push_back(std::move(task)); });
  CHECK_EQ(Visits(parallel_for, 100, kDear), std::vector<int>(100, 1));
  CHECK_EQ(static_cast<int>(late.size()), 3);
  for (const auto& task : late) task();  // finds nothing left to do
}

TEST(SharedWorkWaitsForThoseWhoHaveBegun) {
  Threads others;
  std::mutex mutex;
  std::set<std::thread::id> workers;
  std::atomic<int64_t> done{0};
  // Each of two threads holds a range until the other has one, too.
  std::atomic<int> begun{0};
  SharedWork(2, others.schedule())(2, kDear, [&](int64_t begin, int64_t end) {
    ++begun;
    while (begun < 2) std::this_thread::yield();
    {
      std::lock_guard<std::mutex> lock(mutex);
      workers.insert(std::this_thread::get_id());
    }
    if (begin == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    done += end - begin;
  });
  CHECK_EQ(done.load(), int64_t{2});
  CHECK_EQ(static_cast<int>(workers.size()), 2);
  others.Join();
}

TEST(SharedWorkMayBeNested) {
  Threads others;
  std::mutex mutex;  // of the list of threads
  const auto schedule = others.schedule();
  const ParallelFor parallel_for =
      SharedWork(2, [&](std::function<void()> task) {
        std::lock_guard<std::mutex> lock(mutex);
        schedule(std::move(task));
      });
  std::vector<std::vector<int>> visits(4);
  parallel_for(4, kDear, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      visits[i] = Visits(parallel_for, 50, kDear);
    }
  });
  for (const auto& of_one : visits) CHECK_EQ(of_one, std::vector<int>(50, 1));
  others.Join();
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
