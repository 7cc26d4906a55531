#ifndef CUSTOM_OPS_CORE_HASH_CODES_H_
#define CUSTOM_OPS_CORE_HASH_CODES_H_

#include <cstdint>

namespace keras_lsh {

// Most bits a code may have: 2^20 buckets a table.
inline constexpr int kMaxBits = 20;

// Packs the signs of margins into bucket codes.
//
//   margins  [n, tables * bits], row-major
//   codes    [n, tables]: bit j of code t is margins[t * bits + j] > 0; codes
//            lie in [0, 2^bits). NaN gives a 0 bit, and so does a subnormal
//            number, which some threads of TensorFlow flush to zero.
void HashCodes(const float* margins, int64_t n, int tables, int bits,
               int32_t* codes);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_HASH_CODES_H_
