#ifndef CUSTOM_OPS_CORE_PARALLEL_H_
#define CUSTOM_OPS_CORE_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace keras_lsh {

// Work on the half-open range [begin, end).
using RangeFn = std::function<void(int64_t begin, int64_t end)>;

// Splits [0, total) into ranges and runs `fn` on each, possibly concurrently,
// returning when all are done. `cost_per_item` is a rough count of processor
// cycles. Every core function gives the same result, bit for bit, for any
// split.
using ParallelFor = std::function<void(int64_t total, int64_t cost_per_item,
                                       const RangeFn& fn)>;

inline void SerialFor(int64_t total, int64_t /*cost_per_item*/,
                      const RangeFn& fn) {
  if (total > 0) fn(0, total);
}

// Has something run in another thread, some time.
using Schedule = std::function<void(std::function<void()>)>;

// A ParallelFor of the calling thread and `threads` - 1 others. The caller
// starts at once and the others take ranges from it as they come: a thread
// takes some 50 us to wake, as long as many an op, and is never waited for
// unless it has begun a range.
ParallelFor SharedWork(int threads, Schedule schedule);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_PARALLEL_H_
