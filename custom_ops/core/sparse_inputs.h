#ifndef CUSTOM_OPS_CORE_SPARSE_INPUTS_H_
#define CUSTOM_OPS_CORE_SPARSE_INPUTS_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/parallel.h"

namespace keras_lsh {

// The samples of a batch that are mostly zeros, as those behind another layer
// of few active neurons are, and their other elements. Whether a sample is one
// depends on nothing but itself.
class SparseInputs {
 public:
  // A sample is sparse if at most one of so many elements is not 0.
  static constexpr int64_t kSparsity = 16;

  static constexpr int64_t kLanes = 4;  // of VectorKernels::sparse_dots

  // inputs: [batch, input_dim].
  SparseInputs(const float* inputs, int64_t batch, int64_t input_dim,
               const ParallelFor& parallel_for);

  bool IsSparse(int64_t sample) const { return counts_[sample] >= 0; }
  bool AllAreSparse() const;

  // Of a sparse sample: how many elements are not 0 (NaN is not), which,
  // ascending, and their values. Behind them, up to the next multiple of
  // kLanes, the last column is repeated, with 0.
  int64_t Count(int64_t sample) const { return counts_[sample]; }
  const int32_t* Columns(int64_t sample) const {
    return columns_.data() + sample * room_;
  }
  const float* Values(int64_t sample) const {
    return values_.data() + sample * room_;
  }

 private:
  int64_t room_;                  // for elements of a sample
  std::vector<int64_t> counts_;   // [batch], -1: not sparse
  std::vector<int32_t> columns_;  // [batch, room]
  std::vector<float> values_;     // [batch, room]
};

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_SPARSE_INPUTS_H_
