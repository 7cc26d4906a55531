#ifndef CUSTOM_OPS_CORE_ROW_DIGESTS_H_
#define CUSTOM_OPS_CORE_ROW_DIGESTS_H_

#include <cstdint>

#include "custom_ops/core/parallel.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// A number for each row that tells whether the row has changed: the sum of its
// elements' bits, modulo 2^32, element j times the odd number
// (2 j + 1) * 0x9E3779B1.
//
//   rows      [count, width]
//   digests   [count], written
void RowDigests(const float* rows, int64_t count, int64_t width,
                const ParallelFor& parallel_for,
                const VectorKernels& vector_kernels, int32_t* digests);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_ROW_DIGESTS_H_
