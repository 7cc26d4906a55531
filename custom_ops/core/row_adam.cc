#include "custom_ops/core/row_adam.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "custom_ops/core/active_gradients.h"

namespace keras_lsh {
namespace {

// Errors if the rows are not strictly ascending and in [0, total_rows).
Status CheckRows(const int32_t* rows, int64_t num_rows, int64_t total_rows) {
  for (int64_t i = 0; i < num_rows; ++i) {
    if (rows[i] < 0 || rows[i] >= total_rows) {
      return Status::Invalid("`rows` must lie in [0, " +
                             std::to_string(total_rows) + "). Received: rows[" +
                             std::to_string(i) +
                             "]=" + std::to_string(rows[i]));
    }
    if (i > 0 && rows[i] <= rows[i - 1]) {
      return Status::Invalid("`rows` must be strictly ascending. Received: " +
                             std::to_string(rows[i - 1]) + " before " +
                             std::to_string(rows[i]));
    }
  }
  return Status();
}

// The step on rows [begin, end) of num_rows, given the gradient of these.
void UpdateRows(const AdamOptions& options, const int32_t* rows,
                int64_t num_rows, int64_t begin, int64_t end,
                const float* gradient, const VectorKernels& vector_kernels,
                AdamRows* state) {
  const int64_t width = state->width;
  AdamRowStep step = {1.0f,
                      1.0f,
                      static_cast<float>(1.0 - options.beta_1),
                      static_cast<float>(1.0 - options.beta_2),
                      options.alpha,
                      options.epsilon};
  const float beta_1 = static_cast<float>(options.beta_1);
  const float beta_2 = static_cast<float>(options.beta_2);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = rows[i];
    if (i + 1 < num_rows) {
      const int64_t next = rows[i + 1];
      Prefetch(state->variable + next * width, width);
      Prefetch(state->momentum + next * width, width);
      Prefetch(state->velocity + next * width, width);
      __builtin_prefetch(state->last_step + next);
    }
    const int64_t skipped =
        std::max<int64_t>(0, options.step - 1 - state->last_step[row]);
    step.momentum_decay = std::pow(beta_1, static_cast<float>(skipped));
    step.velocity_decay = std::pow(beta_2, static_cast<float>(skipped));
    vector_kernels.adam_row(step, gradient + (i - begin) * width, width,
                            state->variable + row * width,
                            state->momentum + row * width,
                            state->velocity + row * width);
    state->last_step[row] = static_cast<int32_t>(options.step);
  }
}

}  // namespace

Status RowAdam(const AdamOptions& options, const int32_t* rows,
               int64_t num_rows, const float* gradient,
               const ParallelFor& parallel_for,
               const VectorKernels& vector_kernels, AdamRows* state) {
  const Status status = CheckRows(rows, num_rows, state->total_rows);
  if (!status.ok()) return status;
  const int64_t width = state->width;
  parallel_for(num_rows, 2 * width + 100, [&](int64_t begin, int64_t end) {
    UpdateRows(options, rows, num_rows, begin, end, gradient + begin * width,
               vector_kernels, state);
  });
  return Status();
}

Status ActiveRowAdam(const AdamOptions& options, const ActiveIds& ids,
                     const NeuronSamples& groups, const float* gradient,
                     const float* inputs, const ParallelFor& parallel_for,
                     const VectorKernels& vector_kernels, AdamRows* state) {
  const int32_t* rows = groups.neurons.data();
  const int64_t num_rows = static_cast<int64_t>(groups.neurons.size());
  const Status status = CheckRows(rows, num_rows, state->total_rows);
  if (!status.ok()) return status;
  ActiveMatmulGradKernelRows(
      ids, groups, gradient, inputs, state->width, parallel_for, vector_kernels,
      [&](int64_t first, int64_t last, const float* of_rows) {
        UpdateRows(options, rows, num_rows, first, last, of_rows,
                   vector_kernels, state);
      });
  return Status();
}

}  // namespace keras_lsh
