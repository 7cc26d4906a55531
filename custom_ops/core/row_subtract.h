#ifndef CUSTOM_OPS_CORE_ROW_SUBTRACT_H_
#define CUSTOM_OPS_CORE_ROW_SUBTRACT_H_

#include <cstdint>

#include "custom_ops/core/parallel.h"
#include "custom_ops/core/status.h"

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

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_ROW_SUBTRACT_H_
