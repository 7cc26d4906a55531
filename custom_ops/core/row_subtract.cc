#include "custom_ops/core/row_subtract.h"

#include <string>
#include <vector>

#include "custom_ops/core/active_gradients.h"

namespace keras_lsh {
namespace {

Status CheckRow(const int32_t* rows, int64_t i, int64_t total_rows) {
  if (rows[i] >= 0 && rows[i] < total_rows) return Status();
  return Status::Invalid("`rows` must lie in [0, " +
                         std::to_string(total_rows) + "). Received: rows[" +
                         std::to_string(i) + "]=" + std::to_string(rows[i]));
}

}  // namespace

Status SubtractRows(const int32_t* rows, int64_t num_rows, const float* values,
                    const ParallelFor& parallel_for, int64_t total_rows,
                    int64_t width, float* variable) {
  bool ascending = true;
  for (int64_t i = 0; i < num_rows; ++i) {
    const Status status = CheckRow(rows, i, total_rows);
    if (!status.ok()) return status;
    ascending &= i == 0 || rows[i - 1] < rows[i];
  }
  const RangeFn subtract = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i + 1 < end) Prefetch(variable + rows[i + 1] * width, width);
      float* row = variable + rows[i] * width;
      const float* value = values + i * width;
      for (int64_t j = 0; j < width; ++j) row[j] -= value[j];
    }
  };
  if (ascending) {
    parallel_for(num_rows, width + 50, subtract);
  } else {
    subtract(0, num_rows);
  }
  return Status();
}

Status SubtractActiveRows(float scale, const ActiveIds& ids,
                          const NeuronSamples& groups, const float* gradient,
                          const float* inputs, const ParallelFor& parallel_for,
                          const VectorKernels& vector_kernels,
                          int64_t total_rows, int64_t width, float* variable) {
  const std::vector<int32_t>& rows = groups.neurons;
  const int64_t num_rows = static_cast<int64_t>(rows.size());
  for (int64_t i = 0; i < num_rows; ++i) {
    const Status status = CheckRow(rows.data(), i, total_rows);
    if (!status.ok()) return status;
  }
  const UseRows subtract = [&](int64_t first, int64_t last,
                               const float* of_rows) {
    for (int64_t i = first; i < last; ++i) {
      if (i + 1 < num_rows) Prefetch(variable + rows[i + 1] * width, width);
      float* row = variable + rows[i] * width;
      const float* value = of_rows + (i - first) * width;
      for (int64_t j = 0; j < width; ++j) row[j] -= scale * value[j];
    }
  };
  ActiveMatmulGradKernelRows(ids, groups, gradient, inputs, width, parallel_for,
                             vector_kernels, subtract);
  return Status();
}

}  // namespace keras_lsh
