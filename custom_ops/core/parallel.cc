#include "custom_ops/core/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>

namespace keras_lsh {
namespace {

// Below this, in cycles, others would come too late to help.
constexpr int64_t kWorthSharing = 50'000;
// The least work of a range: taking one costs a hundred cycles or two.
constexpr int64_t kRangeCost = 10'000;
// Ranges for each thread: enough for threads that come late, or are slow.
constexpr int64_t kRangesPerThread = 8;
// How often the caller looks whether the others are done before it sleeps, some
// 20 us: as long as a range takes.
constexpr int kLooks = 2'000;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// The ranges of one call. Threads may look at it after the call has returned,
// when no range is left, but not at `fn`.
class Ranges {
 public:
  Ranges(int64_t total, int64_t count, const RangeFn& fn)
      : total_(total), count_(count), fn_(&fn) {}

  // Works on ranges until none is left.
  void Work() {
    while (true) {
      const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= count_) return;
      (*fn_)(i * total_ / count_, (i + 1) * total_ / count_);
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
        std::lock_guard<std::mutex> lock(mutex_);
        all_done_.notify_all();
      }
    }
  }

  void WaitForOthers() {
    for (int i = 0; i < kLooks; ++i) {
      if (Done()) return;
      Pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return Done(); });
  }

 private:
  bool Done() const { return done_.load(std::memory_order_acquire) == count_; }

  const int64_t total_, count_;
  const RangeFn* const fn_;
  std::atomic<int64_t> next_{0}, done_{0};
  std::mutex mutex_;
  std::condition_variable all_done_;
};

}  // namespace

ParallelFor SharedWork(int threads, Schedule schedule) {
  return [threads, schedule = std::move(schedule)](
             int64_t total, int64_t cost_per_item, const RangeFn& fn) {
    if (total <= 0) return;
    // As a floating-point number, since the product may be more than 2^63.
    const double cost =
        static_cast<double>(total) *
        static_cast<double>(std::max<int64_t>(cost_per_item, 1));
    const auto most = static_cast<double>(
        std::min(total, kRangesPerThread * static_cast<int64_t>(threads)));
    const auto count = static_cast<int64_t>(std::min(cost / kRangeCost, most));
    if (threads <= 1 || cost < kWorthSharing || count <= 1) {
      fn(0, total);
      return;
    }
    const auto ranges = std::make_shared<Ranges>(total, count, fn);
    for (int64_t i = 1; i < std::min<int64_t>(threads, count); ++i) {
      schedule([ranges] { ranges->Work(); });
    }
    ranges->Work();
    ranges->WaitForOthers();
  };
}

}  // namespace keras_lsh
