#include "custom_ops/core/cells.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "custom_ops/core/active_set.h"

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

constexpr int64_t kPointsAtOnce = 16;

// Some of the centroids of a table, laid out for products with many points.
class Centroids {
 public:
  Centroids(int64_t width, const VectorKernels& vector_kernels)
      : width_(width), vector_kernels_(vector_kernels) {}

  // Takes the centroids of `ids`, ascending.
  void Take(const float* table, const std::vector<int32_t>& ids) {
    ids_ = &ids;
    const int64_t count = static_cast<int64_t>(ids.size());
    columns_.resize(width_ * count);
    half_squares_.assign(count, 0.0f);
    for (int64_t c = 0; c < count; ++c) {
      const float* centroid = table + ids[c] * width_;
      for (int64_t j = 0; j < width_; ++j) {
        columns_[j * count + c] = centroid[j];
        half_squares_[c] += 0.5f * centroid[j] * centroid[j];
      }
    }
    products_.resize(kPointsAtOnce * count);
  }

  // The products of at most kPointsAtOnce points with each of the centroids.
  const float* Multiply(const float* points, int64_t count) {
    vector_kernels_.multiply(points, columns_.data(), count, width_, size(),
                             products_.data());
    return products_.data();
  }

  // Calls write(i, id) with the nearest centroid of point i.
  template <typename Write>
  void Nearest(const float* points, int64_t count, const Write& write) {
    for (int64_t first = 0; first < count; first += kPointsAtOnce) {
      const int64_t some = std::min(kPointsAtOnce, count - first);
      const float* products = Multiply(points + first * width_, some);
      for (int64_t i = 0; i < some; ++i) {
        const int64_t best = vector_kernels_.least_difference(
            half_squares_.data(), products + i * size(), size());
        write(first + i, (*ids_)[best]);
      }
    }
  }

  int64_t size() const { return static_cast<int64_t>(ids_->size()); }
  const std::vector<float>& half_squares() const { return half_squares_; }

 private:
  const int64_t width_;
  const VectorKernels& vector_kernels_;
  const std::vector<int32_t>* ids_ = nullptr;
  std::vector<float> columns_;       // [width, size]
  std::vector<float> half_squares_;  // [size], of the norms
  std::vector<float> products_;      // [kPointsAtOnce, size]
};

std::vector<int32_t> Everyone(int64_t count) {
  std::vector<int32_t> ids(count);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

// For each cell of a table, it and the cells nearest to it, ascending:
// [cells, neighbours + 1].
std::vector<int32_t> NearCells(const float* table, int64_t cells, int64_t width,
                               int64_t neighbours,
                               const ParallelFor& parallel_for,
                               const VectorKernels& vector_kernels) {
  std::vector<int32_t> near(cells * (neighbours + 1));
  const std::vector<int32_t> everyone = Everyone(cells);
  parallel_for(
      (cells + kPointsAtOnce - 1) / kPointsAtOnce,
      kPointsAtOnce * cells * (width / 8 + 16),
      [&](int64_t begin, int64_t end) {
        Centroids all(width, vector_kernels);
        all.Take(table, everyone);
        std::vector<std::pair<float, int32_t>> order(cells);
        for (int64_t first = begin * kPointsAtOnce;
             first < std::min(cells, end * kPointsAtOnce);
             first += kPointsAtOnce) {
          const int64_t some = std::min(kPointsAtOnce, cells - first);
          const float* products = all.Multiply(table + first * width, some);
          for (int64_t i = 0; i < some; ++i) {
            for (int64_t c = 0; c < cells; ++c) {
              const float distance =
                  all.half_squares()[c] - products[i * cells + c];
              // Whatever is no number comes last, a cell itself comes first.
              order[c] = {std::isnan(distance) ? HUGE_VALF : distance,
                          static_cast<int32_t>(c)};
            }
            order[first + i].first = -HUGE_VALF;
            std::nth_element(order.begin(), order.begin() + neighbours,
                             order.end());
            int32_t* out = near.data() + (first + i) * (neighbours + 1);
            for (int64_t k = 0; k <= neighbours; ++k) out[k] = order[k].second;
            std::sort(out, out + neighbours + 1);
          }
        }
      });
  return near;
}

// The points by cell: those in no cell, then those of cell 0, and so on.
struct PointsByCell {
  PointsByCell(const int32_t* members, int64_t count, int64_t stride,
               int64_t cells)
      : starts(cells + 2, 0), points(count) {
    for (int64_t i = 0; i < count; ++i) ++starts[members[i * stride] + 2];
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    std::vector<int64_t> next = starts;
    for (int64_t i = 0; i < count; ++i) {
      points[next[members[i * stride] + 1]++] = i;
    }
  }

  std::vector<int64_t> starts;  // [cells + 2], into `points`; 0: of no cell
  std::vector<int64_t> points;
};

}  // namespace

void NearestCells(const CellPoints& p, const int32_t* members,
                  int64_t neighbours, const ParallelFor& parallel_for,
                  const VectorKernels& vector_kernels, int32_t* nearest) {
  const int64_t cost = p.width / 8 + 2;  // of a point and a centroid
  const std::vector<int32_t> everyone = Everyone(p.cells);
  for (int64_t t = 0; t < p.tables; ++t) {
    const float* table = p.centroids + t * p.cells * p.width;
    if (members == nullptr) {
      parallel_for(p.count, p.cells * cost, [&](int64_t begin, int64_t end) {
        Centroids all(p.width, vector_kernels);
        all.Take(table, everyone);
        all.Nearest(p.points + begin * p.width, end - begin,
                    [&](int64_t i, int32_t id) {
                      nearest[(begin + i) * p.tables + t] = id;
                    });
      });
      continue;
    }
    const std::vector<int32_t> near = NearCells(
        table, p.cells, p.width, neighbours, parallel_for, vector_kernels);
    const PointsByCell by_cell(members + t, p.count, p.tables, p.cells);
    parallel_for(
        p.cells + 1, (1 + p.count / p.cells) * neighbours * cost,
        [&](int64_t begin, int64_t end) {
          Centroids some(p.width, vector_kernels);
          std::vector<int32_t> ids;
          std::vector<float> points;
          for (int64_t c = begin; c < end; ++c) {
            const int64_t first = by_cell.starts[c];
            const int64_t count = by_cell.starts[c + 1] - first;
            if (count == 0) continue;
            if (c == 0) {
              ids = everyone;
            } else {
              const int32_t* list = near.data() + (c - 1) * (neighbours + 1);
              ids.assign(list, list + neighbours + 1);
            }
            some.Take(table, ids);
            points.resize(count * p.width);
            for (int64_t i = 0; i < count; ++i) {
              std::copy_n(p.points + by_cell.points[first + i] * p.width,
                          p.width, points.data() + i * p.width);
            }
            some.Nearest(points.data(), count, [&](int64_t i, int32_t id) {
              nearest[by_cell.points[first + i] * p.tables + t] = id;
            });
          }
        });
  }
}

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
