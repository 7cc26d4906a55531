#ifndef CUSTOM_OPS_CORE_ROW_SUBTRACT_H_
#define CUSTOM_OPS_CORE_ROW_SUBTRACT_H_

#include <cstdint>

#include "custom_ops/core/neuron_samples.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/status.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// variable[rows[i]] -= values[i], for all i; rows that come more than once are
// subtracted in their order. In ascending order, each once, they are shared out
// among threads.
//
//   variable   [total_rows, width]
//   rows       [num_rows], in [0, total_rows), else an error, before anything
//              is changed
//   values     [num_rows, width]
Status SubtractRows(const int32_t* rows, int64_t num_rows, const float* values,
                    const ParallelFor& parallel_for, int64_t total_rows,
                    int64_t width, float* variable);

// variable[row] -= scale * gradient of ActiveMatmul by that row of its kernel,
// for the rows `groups.neurons`, in [0, total_rows): each is used as soon as it
// is known, and not written.
Status SubtractActiveRows(float scale, const ActiveIds& ids,
                          const NeuronSamples& groups, const float* gradient,
                          const float* inputs, const ParallelFor& parallel_for,
                          const VectorKernels& vector_kernels,
                          int64_t total_rows, int64_t width, float* variable);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_ROW_SUBTRACT_H_
