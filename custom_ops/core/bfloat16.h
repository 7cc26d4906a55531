#ifndef CUSTOM_OPS_CORE_BFLOAT16_H_
#define CUSTOM_OPS_CORE_BFLOAT16_H_

#include <cstdint>
#include <cstring>

namespace keras_lsh {

// The upper half of a float: its sign, its exponent and 7 bits of its fraction.
// A storage format: whoever computes widens it, which is exact.
struct Bfloat16 {
  uint16_t bits;
};
static_assert(sizeof(Bfloat16) == 2, "arrays of Bfloat16 have no gaps");

inline float ToFloat(Bfloat16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float widened;
  std::memcpy(&widened, &bits, sizeof widened);
  return widened;
}
inline float ToFloat(float value) { return value; }

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_BFLOAT16_H_
