#include "custom_ops/core/row_subtract.h"

#include <string>

#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

Status SubtractRows(const int32_t* rows, int64_t num_rows, const float* values,
                    const ParallelFor& parallel_for, int64_t total_rows,
                    int64_t width, float* variable) {
  bool ascending = true;
  for (int64_t i = 0; i < num_rows; ++i) {
    if (rows[i] < 0 || rows[i] >= total_rows) {
      return Status::Invalid("`rows` must lie in [0, " +
                             std::to_string(total_rows) + "). Received: rows[" +
                             std::to_string(i) +
                             "]=" + std::to_string(rows[i]));
    }
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

}  // namespace keras_lsh
