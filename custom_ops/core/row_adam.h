#ifndef CUSTOM_OPS_CORE_ROW_ADAM_H_
#define CUSTOM_OPS_CORE_ROW_ADAM_H_

#include <cstdint>

#include "custom_ops/core/neuron_samples.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/status.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

struct AdamOptions {
  float alpha;  // learning rate * sqrt(1 - beta_2^step) / (1 - beta_1^step)
  // Doubles: 1 - 0.999 in float, from a float 0.999, is off by 5e-5.
  double beta_1;
  double beta_2;
  float epsilon;
  int64_t step;  // number of this step, from 1
};

// A variable of `total_rows` rows with Adam's moments, and for each row the
// step that last changed it (0: none yet).
struct AdamRows {
  float* variable;     // [total_rows, width]
  float* momentum;     // [total_rows, width]
  float* velocity;     // [total_rows, width]
  int32_t* last_step;  // [total_rows]
  int64_t total_rows;
  int64_t width;
};

// One Adam step on the rows that have a gradient; the others are not touched.
// A row whose last step was n + 1 steps ago has skipped n: its moments decay by
// beta^n first, as they would have under zero gradients.
//
//   rows       [num_rows], strictly ascending, in [0, total_rows)
//   gradient   [num_rows, width]
//
// Errors, before anything is changed, if the rows are not as described.
Status RowAdam(const AdamOptions& options, const int32_t* rows,
               int64_t num_rows, const float* gradient,
               const ParallelFor& parallel_for,
               const VectorKernels& vector_kernels, AdamRows* state);

// The same for the gradient of ActiveMatmul by its kernel, the rows being
// `groups.neurons`: each is used as soon as it is known, and not written.
Status ActiveRowAdam(const AdamOptions& options, const ActiveIds& ids,
                     const NeuronSamples& groups, const float* gradient,
                     const float* inputs, const ParallelFor& parallel_for,
                     const VectorKernels& vector_kernels, AdamRows* state);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_ROW_ADAM_H_
