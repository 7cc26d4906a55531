#ifndef CUSTOM_OPS_CORE_TESTS_VARIANTS_H_
#define CUSTOM_OPS_CORE_TESTS_VARIANTS_H_

// The ways to run a core function that must not change its result: every SIMD
// level this machine has, several splits of the work, threads that flush
// subnormal numbers.

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

#include "custom_ops/core/parallel.h"
#include "custom_ops/core/simd.h"
#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {
namespace testing {

// From kScalar to BestSimdLevel().
inline std::vector<SimdLevel> Levels() {
  std::vector<SimdLevel> levels;
  for (int i = 0; i <= static_cast<int>(BestSimdLevel()); ++i) {
    levels.push_back(static_cast<SimdLevel>(i));
  }
  return levels;
}

// Item by item, the last one first.
inline void BackwardFor(int64_t total, int64_t /*cost_per_item*/,
                        const RangeFn& fn) {
  for (int64_t i = total; i-- > 0;) fn(i, i + 1);
}

// Uneven ranges, each on a thread of its own.
template <int kThreads>
void ThreadsFor(int64_t total, int64_t /*cost_per_item*/, const RangeFn& fn) {
  std::vector<std::thread> threads;
  int64_t begin = 0;
  for (int i = 1; i <= kThreads && begin < total; ++i) {
    // The ends grow as squares: with 2 threads a quarter and the rest.
    const int64_t end =
        std::max(begin + 1, total * i * i / kThreads / kThreads);
    threads.emplace_back(fn, begin, end);
    begin = end;
  }
  for (std::thread& thread : threads) thread.join();
}

struct Split {
  const char* name;
  ParallelFor parallel_for;
};

inline std::vector<Split> Splits() {
  return {{"serial", SerialFor},
          {"backward", BackwardFor},
          {"2 threads", ThreadsFor<2>},
          {"5 threads", ThreadsFor<5>}};
}

// Returns compute(vector_kernels, parallel_for) and checks that it is the same,
// bit for bit, at every SIMD level and with every split.
template <typename Compute>
auto InEveryVariant(const Compute& compute) {
  const auto result = compute(GetVectorKernels(SimdLevel::kScalar), SerialFor);
  for (SimdLevel level : Levels()) {
    for (const Split& split : Splits()) {
      const Context context("level ", SimdLevelName(level), ", ", split.name);
      CHECK_EQ(compute(GetVectorKernels(level), split.parallel_for), result);
    }
  }
  return result;
}

// Until the end of the scope, subnormal numbers count as zero in this thread,
// as they do in TensorFlow's (on processors that can).
class FlushSubnormals {
 public:
  FlushSubnormals() { Set(before_ | 0x8040); }  // both results and operands
  ~FlushSubnormals() { Set(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
#if defined(__SSE__)
  static unsigned int Get() { return _mm_getcsr(); }
  static void Set(unsigned int mode) { _mm_setcsr(mode); }
#else
  static unsigned int Get() { return 0; }
  static void Set(unsigned int) {}
#endif

  const unsigned int before_ = Get();
};

}  // namespace testing
}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_TESTS_VARIANTS_H_
