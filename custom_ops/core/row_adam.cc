#include "custom_ops/core/row_adam.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace keras_lsh {

Status RowAdam(const AdamOptions& options, const int32_t* rows,
               int64_t num_rows, const float* gradient,
               const ParallelFor& parallel_for,
               const VectorKernels& vector_kernels, AdamRows* state) {
  for (int64_t i = 0; i < num_rows; ++i) {
    if (rows[i] < 0 || rows[i] >= state->total_rows) {
      return Status::Invalid("`rows` must lie in [0, " +
                             std::to_string(state->total_rows) +
                             "). Received: rows[" + std::to_string(i) +
                             "]=" + std::to_string(rows[i]));
    }
    if (i > 0 && rows[i] <= rows[i - 1]) {
      return Status::Invalid("`rows` must be strictly ascending. Received: " +
                             std::to_string(rows[i - 1]) + " before " +
                             std::to_string(rows[i]));
    }
  }
  const int64_t width = state->width;
  parallel_for(num_rows, 2 * width + 100, [&](int64_t begin, int64_t end) {
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
      if (i + 1 < end) {
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
      vector_kernels.adam_row(
          step, gradient + i * width, width, state->variable + row * width,
          state->momentum + row * width, state->velocity + row * width);
      state->last_step[row] = static_cast<int32_t>(options.step);
    }
  });
  return Status();
}

}  // namespace keras_lsh
