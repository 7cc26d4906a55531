#ifndef CUSTOM_OPS_CORE_CELLS_H_
#define CUSTOM_OPS_CORE_CELLS_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/parallel.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// Inputs, and the cells whose worth for them is asked.
struct CellQueries {
  const float* inputs;  // [batch, input_dim]
  int64_t batch;
  int64_t input_dim;
  const float* center;  // [input_dim]
  const float* basis;   // [input_dim, rank]
  const float* scales;  // [rank]
  int64_t rank;
  float largest;           // what coordinates are cut to, on either side of 0
  const float* centroids;  // [cells, rank + 1]
  int64_t cells;
};

// Scratch memory of CellProducts.
struct CellProductsScratch {
  int64_t count;  // of the inputs
  std::vector<float> centered, coordinates;
  std::vector<float> products;  // of some cells with all inputs, then others
};

// What cells are worth to inputs: the product of each centroid with (z, 1), the
// input's coordinates z = basis' (x - center) / scales: 0 where a scale is 0
// and for NaN. For a few inputs at a time, so that what is done next with their
// worth finds it in the cache.
class CellProducts {
 public:
  static constexpr int64_t kInputsAtOnce = 8;

  // Lays the centroids out in `columns`, for all threads.
  CellProducts(const CellQueries& queries, const ParallelFor& parallel_for,
               const VectorKernels& vector_kernels,
               std::vector<float>* columns);

  // Of the inputs from `first` on, `count` of them, at most kInputsAtOnce.
  void Multiply(int64_t first, int64_t count,
                CellProductsScratch* scratch) const;
  // Writes the worth of all cells to the i-th of these inputs: [cells].
  void Worth(const CellProductsScratch& scratch, int64_t i, float* worth) const;

 private:
  const CellQueries queries_;
  const VectorKernels& vector_kernels_;
  const std::vector<float>& columns_;
};

// Their worth to all inputs.
//
//   worth   [batch, cells], written
void CellWorth(const CellQueries& queries, const ParallelFor& parallel_for,
               const VectorKernels& vector_kernels, float* worth);

// All cells as buckets to look into, weighted by their worth:
//   weights[b, c] = 1 + trunc(65535 * (worth[b, c] - least) / (most - least))
// with the least and the largest worth of the sample; 1 where these are equal.
//
//   worth             [batch, cells], finite
//   buckets, weights  [batch, cells], written
void RankCells(const float* worth, int64_t batch, int64_t cells,
               const ParallelFor& parallel_for,
               const VectorKernels& vector_kernels, int32_t* buckets,
               int32_t* weights);

// What is known of the inputs of a layer, as averages over `count` of them: of
// x - center, and of (x - center) (x - center)' basis.
struct InputMoments {
  const float* mean;     // [input_dim]
  const float* moments;  // [input_dim, rank]
  float count;
};

// Which inputs count, and how long.
struct ObservationOptions {
  int64_t rows;  // of a batch, at most, evenly spaced
  float
      largest;   // a row with an element of this size or more, or NaN, does not
  float window;  // the count does not grow beyond
};

// Adds the inputs of a batch to the averages.
//
//   inputs   [batch, input_dim]
//   center   [input_dim]
//   basis    [input_dim, rank]
//   new_mean, new_moments, new_count   of the shapes of `old`, written
void ObserveInputs(const ObservationOptions& options, const float* inputs,
                   int64_t batch, int64_t input_dim, const float* center,
                   const float* basis, int64_t rank, const InputMoments& old,
                   const ParallelFor& parallel_for,
                   const VectorKernels& vector_kernels, float* new_mean,
                   float* new_moments, float* new_count);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_CELLS_H_
