#include "custom_ops/core/cells.h"

#include <algorithm>
#include <cmath>
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

}  // namespace

void RankCells(const float* worth, int64_t batch, int64_t cells,
               const ParallelFor& parallel_for, int32_t* buckets,
               int32_t* weights) {
  parallel_for(batch, 4 * cells, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const float* w = worth + b * cells;
      float least = w[0], most = w[0];
      for (int64_t c = 1; c < cells; ++c) {
        least = w[c] < least ? w[c] : least;
        most = w[c] > most ? w[c] : most;
      }
      const float range = most - least;
      for (int64_t c = 0; c < cells; ++c) {
        const float share = (w[c] - least) / range;
        // 0, too, for what is no number: no integer stands for NaN.
        weights[b * cells + c] =
            share > 0.0f ? 1 + static_cast<int32_t>(65535.0f * share) : 1;
        buckets[b * cells + c] = static_cast<int32_t>(c);
      }
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
          vector_kernels.weighted_sum(directions.data(), row, input_dim, rank,
                                      projected.data() + i * rank);
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
                                    targets.data(), columns, rank);
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
