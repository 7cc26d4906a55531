#ifndef CUSTOM_OPS_CORE_KEEP_LARGEST_H_
#define CUSTOM_OPS_CORE_KEEP_LARGEST_H_

#include <cstdint>

#include "custom_ops/core/neuron_samples.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// Keeps the `keep` largest values of each sample: NaN counts as the largest,
// unused places as the smallest, of equal values the smaller id stays. What is
// kept is written in its old order, unused places last (value 0).
//
//   values     [batch, active]
//   forced     [batch, num_forced], ids that count as larger than all others;
//              kNoId, and what is not among the sample's ids, is skipped
//   kept_ids, kept_values   [batch, keep], written; keep <= active
void KeepLargest(const ActiveIds& ids, const float* values,
                 const int32_t* forced, int64_t num_forced, int64_t keep,
                 const ParallelFor& parallel_for,
                 const VectorKernels& vector_kernels, int32_t* kept_ids,
                 float* kept_values);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_KEEP_LARGEST_H_
