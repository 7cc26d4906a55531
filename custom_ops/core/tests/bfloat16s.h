#ifndef CUSTOM_OPS_CORE_TESTS_BFLOAT16S_H_
#define CUSTOM_OPS_CORE_TESTS_BFLOAT16S_H_

// Random Bfloat16 numbers, and what they are worth.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "custom_ops/core/bfloat16.h"
#include "custom_ops/core/tests/check.h"

namespace keras_lsh {
namespace testing {

// The upper halves of the floats.
inline std::vector<Bfloat16> Truncated(const std::vector<float>& values) {
  std::vector<Bfloat16> result;
  for (float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    result.push_back({static_cast<uint16_t>(bits >> 16)});
  }
  return result;
}

// In (-1, 1), some of them any bits: infinite, NaN, denormal, or large.
inline std::vector<Bfloat16> RandomBfloat16s(Random* random, int64_t n,
                                             double special = 0.0) {
  std::vector<Bfloat16> values = Truncated(random->Floats(n));
  for (Bfloat16& value : values) {
    if (random->Chance(special)) {
      value.bits = static_cast<uint16_t>(random->Below(1 << 16));
    }
  }
  return values;
}

// By the definition of the format: sign, 8 bits of exponent, 7 of fraction.
inline float Worth(Bfloat16 value) {
  const int exponent = value.bits >> 7 & 0xff, fraction = value.bits & 0x7f;
  const float sign = value.bits >> 15 == 1 ? -1.0f : 1.0f;
  if (exponent == 0xff) return fraction == 0 ? sign * kInf : kNan;
  if (exponent == 0) {
    return sign * std::ldexp(static_cast<float>(fraction), -126 - 7);
  }
  return sign *
         std::ldexp(static_cast<float>(0x80 + fraction), exponent - 127 - 7);
}

inline std::vector<float> Worth(const std::vector<Bfloat16>& values) {
  std::vector<float> result;
  for (Bfloat16 value : values) result.push_back(Worth(value));
  return result;
}

}  // namespace testing
}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_TESTS_BFLOAT16S_H_
