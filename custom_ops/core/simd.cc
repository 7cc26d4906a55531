#include "custom_ops/core/simd.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace keras_lsh {

SimdLevel BestSimdLevel() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return SimdLevel::kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return SimdLevel::kAvx2;
  }
#endif
  return SimdLevel::kScalar;
}

const char* SimdLevelName(SimdLevel level) {
  switch (level) {
    case SimdLevel::kAvx512:
      return "avx512";
    case SimdLevel::kAvx2:
      return "avx2";
    case SimdLevel::kScalar:
      break;
  }
  return "scalar";
}

SimdLevel ActiveSimdLevel() {
  static const SimdLevel level = [] {
    const SimdLevel best = BestSimdLevel();
    const char* wanted = std::getenv("KERAS_LSH_SIMD");
    if (wanted == nullptr) return best;
    for (SimdLevel candidate :
         {SimdLevel::kScalar, SimdLevel::kAvx2, SimdLevel::kAvx512}) {
      if (std::strcmp(wanted, SimdLevelName(candidate)) == 0 &&
          candidate <= best) {
        return candidate;
      }
    }
    return best;
  }();
  return level;
}

}  // namespace keras_lsh
