#include "custom_ops/core/hash_codes.h"

#include <limits>

namespace keras_lsh {

void HashCodes(const float* margins, int64_t n, int tables, int bits,
               int32_t* codes) {
  constexpr float kSmallest = std::numeric_limits<float>::min();
  const int64_t total = n * tables;
  for (int64_t i = 0; i < total; ++i) {
    const float* margin = margins + i * bits;
    int32_t code = 0;
    for (int j = 0; j < bits; ++j) {
      code |= static_cast<int32_t>(margin[j] >= kSmallest) << j;
    }
    codes[i] = code;
  }
}

}  // namespace keras_lsh
