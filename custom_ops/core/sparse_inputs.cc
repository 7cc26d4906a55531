#include "custom_ops/core/sparse_inputs.h"

#include <algorithm>
#include <cstring>

namespace keras_lsh {
namespace {

// Elements from one look at the count to the next.
constexpr int64_t kStride = 64;

// Comparing integers is quicker than floats, as NaN is no special case.
constexpr uint32_t kNoSign = 0x7fffffff;

uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Whether eight elements are 0 or -0.
bool AreZeros(const float* p) {
  uint32_t bits[8], any = 0;
  std::memcpy(bits, p, sizeof(bits));
  for (uint32_t b : bits) any |= b;
  return (any & kNoSign) == 0;
}

}  // namespace

SparseInputs::SparseInputs(const float* inputs, int64_t batch,
                           int64_t input_dim, const ParallelFor& parallel_for)
    : room_(input_dim / kSparsity + kStride + kLanes),
      counts_(batch, -1),
      columns_(batch * room_),
      values_(batch * room_) {
  parallel_for(batch, input_dim, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const float* input = inputs + b * input_dim;
      int32_t* columns = columns_.data() + b * room_;
      float* values = values_.data() + b * room_;
      int64_t count = 0;
      for (int64_t j = 0; j < input_dim && count * kSparsity <= input_dim;) {
        const int64_t last = std::min(j + kStride, input_dim);
        while (j < last) {
          if (j + 8 <= last && AreZeros(input + j)) {
            j += 8;
            continue;
          }
          // Without a branch: what is not wanted is written over.
          for (const int64_t end_of = std::min(j + 8, last); j < end_of; ++j) {
            columns[count] = static_cast<int32_t>(j);
            values[count] = input[j];
            count += (Bits(input[j]) & kNoSign) != 0;
          }
        }
      }
      if (count * kSparsity > input_dim) continue;
      counts_[b] = count;
      const int32_t column = count > 0 ? columns[count - 1] : 0;
      for (; count % kLanes != 0; ++count) {
        columns[count] = column;
        values[count] = 0.0f;
      }
    }
  });
}

bool SparseInputs::AllAreSparse() const {
  return std::all_of(counts_.begin(), counts_.end(),
                     [](int64_t count) { return count >= 0; });
}

}  // namespace keras_lsh
