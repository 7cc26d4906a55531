#ifndef CUSTOM_OPS_CORE_PARALLEL_H_
#define CUSTOM_OPS_CORE_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace keras_lsh {

// Work on the half-open range [begin, end).
using RangeFn = std::function<void(int64_t begin, int64_t end)>;

// Splits [0, total) into ranges and runs `fn` on each, possibly concurrently,
// returning when all are done. `cost_per_item` is a rough count of processor
// cycles. The kernels pass TensorFlow's own thread pool; every core function
// gives the same result, bit for bit, for any split.
using ParallelFor = std::function<void(int64_t total, int64_t cost_per_item,
                                       const RangeFn& fn)>;

inline void SerialFor(int64_t total, int64_t /*cost_per_item*/,
                      const RangeFn& fn) {
  if (total > 0) fn(0, total);
}

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_PARALLEL_H_
