#include "custom_ops/core/row_digests.h"

#include <cstring>
#include <vector>

namespace keras_lsh {

void RowDigests(const float* rows, int64_t count, int64_t width,
                const ParallelFor& parallel_for,
                const VectorKernels& vector_kernels, int32_t* digests) {
  std::vector<uint32_t> odd(width);
  for (int64_t j = 0; j < width; ++j) {
    odd[j] = static_cast<uint32_t>(2 * j + 1) * 0x9E3779B1u;
  }
  parallel_for(count, width, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint32_t digest =
          vector_kernels.bits_times(rows + i * width, odd.data(), width);
      std::memcpy(digests + i, &digest, sizeof(digest));
    }
  });
}

}  // namespace keras_lsh
