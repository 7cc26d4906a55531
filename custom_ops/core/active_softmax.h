#ifndef CUSTOM_OPS_CORE_ACTIVE_SOFTMAX_H_
#define CUSTOM_OPS_CORE_ACTIVE_SOFTMAX_H_

#include <cstdint>

#include "custom_ops/core/parallel.h"
#include "custom_ops/core/status.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// The logits of the active classes of a batch, and its labels.
struct ActiveLogits {
  const float* values;  // [batch, active]
  const int32_t* ids;   // [batch or 1, active], strictly ascending, kNoId last
  bool same_ids;        // one row of `ids` for all samples
  // [batch, num_labels]; kNoId, anywhere, marks an unused place. One that is
  // not among the sample's ids is missing.
  const int32_t* labels;
  // [batch or 1, active], the classes that are there by chance, where they are
  // no labels; or null.
  const bool* drawn;
  bool same_drawn;
  int64_t batch, active, num_labels;
  int64_t units;  // of all classes
  double label_smoothing;
};

// The softmax cross-entropy of each sample over its active classes, as
// reference.active_softmax_crossentropy defines it:
//   log(sum of w exp(z)) - (1 - s) mean(z of labels) - s (weighted mean of z)
// with s the label smoothing, missing labels with the least z of the sample,
// and weights of 1, but for classes that were drawn: these stand for all that
// are neither active nor labels, too. log(units) without active classes.
//
// Sums run as those of VectorKernels::sum_exp, what is of labels in double.
//
//   losses     [batch]
//   largest    [batch], of the sample's z; for the gradient
//   totals     [batch], of w exp(z - largest), with missing labels; likewise
//
// Errors if ids do not ascend, or a sample has no label.
Status ActiveSoftmaxCrossentropy(const ActiveLogits& logits,
                                 const ParallelFor& parallel_for,
                                 const VectorKernels& vector_kernels,
                                 float* losses, float* largest, float* totals);

// The gradient by the values, [batch, active], 0 in unused places: upstream
// [batch] times softmax less target, or with `softmax_only` times the softmax.
// Missing labels give none.
void ActiveSoftmaxCrossentropyGrad(const ActiveLogits& logits,
                                   const float* upstream, const float* largest,
                                   const float* totals, bool softmax_only,
                                   const ParallelFor& parallel_for,
                                   const VectorKernels& vector_kernels,
                                   float* gradient);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_ACTIVE_SOFTMAX_H_
