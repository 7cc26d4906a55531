#ifndef CUSTOM_OPS_CORE_RANKING_KEY_H_
#define CUSTOM_OPS_CORE_RANKING_KEY_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace keras_lsh {

// A number that is ordered as floats are, -0 as 0, NaN being the largest; the
// least and the largest int32 are left for other purposes.
inline int32_t RankingKey(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const int32_t order =
      bits < 0 ? std::numeric_limits<int32_t>::min() - bits : bits;
  return std::isnan(value) ? std::numeric_limits<int32_t>::max() - 1 : order;
}

// The value that a key stands for.
inline float RankedValue(int32_t key) {
  const int32_t bits =
      key < 0 ? std::numeric_limits<int32_t>::min() - key : key;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_RANKING_KEY_H_
