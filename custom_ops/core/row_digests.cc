#include "custom_ops/core/row_digests.h"

#include <cstring>
#include <vector>

namespace keras_lsh {

void RowDigests(const float* rows, int64_t count, int64_t width,
                const ParallelFor& parallel_for, int32_t* digests) {
  std::vector<uint32_t> odd(width);
  for (int64_t j = 0; j < width; ++j) {
    odd[j] = static_cast<uint32_t>(2 * j + 1) * 0x9E3779B1u;
  }
  parallel_for(count, width, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = rows + i * width;
      uint32_t digest = 0;
      for (int64_t j = 0; j < width; ++j) {
        uint32_t bits;
        std::memcpy(&bits, row + j, sizeof(bits));
        digest += bits * odd[j];
      }
      std::memcpy(digests + i, &digest, sizeof(digest));
    }
  });
}

}  // namespace keras_lsh
