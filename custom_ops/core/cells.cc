#include "custom_ops/core/cells.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace keras_lsh {
namespace {

// Writes a row less the centre; zeros, and false, if the row does not count.
bool Centered(const float* row, const float* center, int64_t n, float largest,
              float* out) {
  bool usable = true;
  for (int64_t j = 0; j < n; ++j) {
    usable &= std::fabs(row[j]) < largest;  // not so for NaN
    out[j] = row[j] - center[j];
  }
  if (!usable) std::fill_n(out, n, 0.0f);
  return usable;
}

constexpr int64_t kCellsAtOnce = 48;  // columns of one
constexpr int64_t kLaidOutAtOnce = 8;

// Writes the coordinates of `rows` inputs from `first` on.
void InputCoordinates(const CellQueries& q, int64_t first, int64_t rows,
                      const VectorKernels& vector_kernels,
                      std::vector<float>* centered, float* z) {
  const float* x = q.inputs + first * q.input_dim;
  centered->resize(rows * q.input_dim);
  for (int64_t i = 0; i < rows; ++i) {
    float* row = centered->data() + i * q.input_dim;
    for (int64_t j = 0; j < q.input_dim; ++j) {
      row[j] = x[i * q.input_dim + j] - q.center[j];
    }
  }
  vector_kernels.multiply(centered->data(), q.basis, rows, q.input_dim, q.rank,
                          z);
  for (int64_t i = 0; i < rows; ++i, z += q.rank) {
    for (int64_t k = 0; k < q.rank; ++k) {
      const float scale = q.scales[k];
      const float scaled = scale == 0.0f ? 0.0f : z[k] / scale;
      z[k] = std::isnan(scaled)
                 ? 0.0f
                 : std::min(std::max(scaled, -q.largest), q.largest);
    }
  }
}

}  // namespace

CellProducts::CellProducts(const CellQueries& queries,
                           const ParallelFor& parallel_for,
                           const VectorKernels& vector_kernels,
                           std::vector<float>* columns)
    : queries_(queries), vector_kernels_(vector_kernels), columns_(*columns) {
  // A few side by side, so that a product goes along them; then what is added.
  const CellQueries& q = queries_;
  columns->resize(q.cells * (q.rank + 1));
  float* const last = columns->data() + q.cells * q.rank;
  const int64_t pieces = (q.cells + kCellsAtOnce - 1) / kCellsAtOnce;
  parallel_for(
      pieces, 2 * kCellsAtOnce * q.rank, [&](int64_t begin, int64_t end) {
        for (int64_t piece = begin; piece < end; ++piece) {
          const int64_t first = piece * kCellsAtOnce;
          const int64_t cells = std::min(kCellsAtOnce, q.cells - first);
          const float* centroids = q.centroids + first * (q.rank + 1);
          float* out = columns->data() + first * q.rank;
          int64_t c = 0;
          for (; c + kLaidOutAtOnce <= cells; c += kLaidOutAtOnce) {
            const float* some = centroids + c * (q.rank + 1);
            for (int64_t k = 0; k < q.rank; ++k) {
              for (int64_t i = 0; i < kLaidOutAtOnce; ++i) {
                out[k * cells + c + i] = some[i * (q.rank + 1) + k];
              }
            }
          }
          for (; c < cells; ++c) {
            for (int64_t k = 0; k < q.rank; ++k) {
              out[k * cells + c] = centroids[c * (q.rank + 1) + k];
            }
          }
          for (c = 0; c < cells; ++c) {
            last[first + c] = centroids[c * (q.rank + 1) + q.rank];
          }
        }
      });
}

void CellProducts::Multiply(int64_t first, int64_t count,
                            CellProductsScratch* scratch) const {
  const CellQueries& q = queries_;
  scratch->count = count;
  scratch->coordinates.resize(kInputsAtOnce * q.rank);
  scratch->products.resize(kInputsAtOnce * q.cells);
  InputCoordinates(q, first, count, vector_kernels_, &scratch->centered,
                   scratch->coordinates.data());
  for (int64_t cell = 0; cell < q.cells; cell += kCellsAtOnce) {
    vector_kernels_.multiply(scratch->coordinates.data(),
                             columns_.data() + cell * q.rank, count, q.rank,
                             std::min(kCellsAtOnce, q.cells - cell),
                             scratch->products.data() + cell * count);
  }
}

void CellProducts::Worth(const CellProductsScratch& scratch, int64_t i,
                         float* worth) const {
  const CellQueries& q = queries_;
  const float* last = columns_.data() + q.cells * q.rank;
  for (int64_t cell = 0; cell < q.cells; cell += kCellsAtOnce) {
    const int64_t cells = std::min(kCellsAtOnce, q.cells - cell);
    const float* products =
        scratch.products.data() + cell * scratch.count + i * cells;
    for (int64_t c = 0; c < cells; ++c) {
      worth[cell + c] = products[c] + last[cell + c];
    }
  }
}

void CellWorth(const CellQueries& q, const ParallelFor& parallel_for,
               const VectorKernels& vector_kernels, float* worth) {
  std::vector<float> columns;
  const CellProducts products(q, parallel_for, vector_kernels, &columns);
  constexpr int64_t kAtOnce = CellProducts::kInputsAtOnce;
  parallel_for((q.batch + kAtOnce - 1) / kAtOnce,
               kAtOnce * (q.input_dim + q.cells) * (q.rank / 8 + 1),
               [&](int64_t begin, int64_t end) {
                 CellProductsScratch scratch;
                 const int64_t last = std::min(end * kAtOnce, q.batch);
                 for (int64_t b = begin * kAtOnce; b < last; b += kAtOnce) {
                   const int64_t count = std::min(kAtOnce, last - b);
                   products.Multiply(b, count, &scratch);
                   for (int64_t i = 0; i < count; ++i) {
                     products.Worth(scratch, i, worth + (b + i) * q.cells);
                   }
                 }
               });
}

void RankCells(const float* worth, int64_t batch, int64_t cells,
               const ParallelFor& parallel_for,
               const VectorKernels& vector_kernels, int32_t* buckets,
               int32_t* weights) {
  parallel_for(batch, cells, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      vector_kernels.weigh(worth + b * cells, cells, weights + b * cells);
      std::iota(buckets + b * cells, buckets + (b + 1) * cells, 0);
    }
  });
}

void ObserveInputs(const ObservationOptions& options, const float* inputs,
                   int64_t batch, int64_t input_dim, const float* center,
                   const float* basis, int64_t rank, const InputMoments& old,
                   const ParallelFor& parallel_for,
                   const VectorKernels& vector_kernels, float* new_mean,
                   float* new_moments, float* new_count) {
  const int64_t stride =
      std::max<int64_t>(1, batch / options.rows + (batch % options.rows > 0));
  const int64_t rows = (batch + stride - 1) / stride;
  std::vector<float> centered(rows * input_dim), projected(rows * rank);
  std::vector<const float*> directions(input_dim);  // rows of the basis
  for (int64_t j = 0; j < input_dim; ++j) directions[j] = basis + j * rank;
  std::vector<char> usable(rows);
  parallel_for(
      rows, input_dim * (rank / 8 + 4), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          float* row = centered.data() + i * input_dim;
          usable[i] = Centered(inputs + i * stride * input_dim, center,
                               input_dim, options.largest, row);
          vector_kernels.weighted_sum(directions.data(), row, input_dim, 0,
                                      rank, projected.data() + i * rank);
        }
      });
  const float added =
      static_cast<float>(std::count(usable.begin(), usable.end(), 1));
  const float total = old.count + added;
  const float share = total == 0.0f ? 0.0f : 1.0f / total;
  const float rest = 1.0f - added * share;
  for (float& value : projected) value *= share;

  // Sums of their own, added to the averages at the end: small terms would lose
  // digits beside these.
  parallel_for(
      input_dim, rows * (rank / 8 + 4), [&](int64_t begin, int64_t end) {
        const int64_t columns = end - begin;
        std::vector<float> products(columns * rank), sums(columns);
        std::vector<float*> targets(columns);
        for (int64_t j = 0; j < columns; ++j) {
          targets[j] = products.data() + j * rank;
        }
        for (int64_t i = 0; i < rows; ++i) {
          const float* row = centered.data() + i * input_dim + begin;
          vector_kernels.add_scaled(projected.data() + i * rank, row,
                                    targets.data(), columns, 0, rank);
          for (int64_t j = 0; j < columns; ++j) sums[j] += row[j];
        }
        for (int64_t j = begin; j < end; ++j) {
          new_mean[j] = rest * old.mean[j] + share * sums[j - begin];
        }
        for (int64_t k = begin * rank; k < end * rank; ++k) {
          new_moments[k] = rest * old.moments[k] + products[k - begin * rank];
        }
      });
  *new_count = std::min(total, options.window);
}

}  // namespace keras_lsh
