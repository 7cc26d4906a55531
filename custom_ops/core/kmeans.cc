#include "custom_ops/core/kmeans.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace keras_lsh {
namespace {

constexpr int64_t kPointsAtOnce = 64;
constexpr int64_t kCentroidsAtOnce = 512;
constexpr int64_t kProductsAtOnce = kPointsAtOnce * kCentroidsAtOnce;
constexpr int64_t kPointsOfPiece = 2048;
constexpr int64_t kLanes = 16;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A vector, and how far from a point it is.
struct Near {
  float distance = kInfinity;
  int32_t id = 0;
};

// Some vectors to be near to, laid out for products with many points.
class Centroids {
 public:
  // The rows `ids` of `vectors` [any, width]; `ids` ascend.
  Centroids(const float* vectors, std::vector<int32_t> ids, int64_t width)
      : ids_(std::move(ids)),
        width_(width),
        columns_((size() + kLanes - 1) / kLanes * kLanes),
        half_squares_(columns_, kInfinity),  // nothing is near to the rest
        values_(columns_ * width, 0.0f) {
    for (int64_t c = 0; c < size(); ++c) {
      const float* vector = vectors + ids_[c] * width;
      const int64_t begin = c - c % kCentroidsAtOnce;
      float* out = values_.data() + begin * width + (c - begin);
      half_squares_[c] = 0.0f;
      for (int64_t j = 0; j < width; ++j, out += ColumnsAt(begin)) {
        half_squares_[c] += 0.5f * vector[j] * vector[j];
        *out = vector[j];
      }
    }
  }

  int64_t size() const { return static_cast<int64_t>(ids_.size()); }
  int32_t id(int64_t c) const { return ids_[c]; }

  // So many points make a few products.
  int64_t points_at_once() const {
    return std::clamp<int64_t>(kProductsAtOnce / std::max(columns_, kLanes), 1,
                               kPointsAtOnce);
  }

  // Products with points [count, width]: [count, columns] of some vectors, then
  // of others.
  void Multiply(const float* points, int64_t count,
                const VectorKernels& vector_kernels,
                std::vector<float>* products) const {
    products->resize(count * columns_);
    for (int64_t begin = 0; begin < columns_; begin += kCentroidsAtOnce) {
      vector_kernels.multiply(points, values_.data() + begin * width_, count,
                              width_, ColumnsAt(begin),
                              products->data() + begin * count);
    }
  }

  // The place among these vectors of the nearest to the i-th of `count` points,
  // the first of equals, and half the square of its distance, but for what is
  // the same for all vectors.
  Near Nearest(const std::vector<float>& products, int64_t count, int64_t i,
               const VectorKernels& vector_kernels) const {
    Near nearest;
    for (int64_t begin = 0; begin < columns_; begin += kCentroidsAtOnce) {
      const int64_t columns = ColumnsAt(begin);
      const float* half_squares = half_squares_.data() + begin;
      const float* row = products.data() + begin * count + i * columns;
      const int64_t at = vector_kernels.find_least(half_squares, row, columns);
      const float distance = half_squares[at] - row[at];
      if (distance < nearest.distance) {
        nearest = {distance, static_cast<int32_t>(begin + at)};
      }
    }
    return nearest;
  }

  // Makes `Nearest` pass over a vector for a point.
  void Drop(int64_t c, int64_t count, int64_t i,
            std::vector<float>* products) const {
    const int64_t begin = c - c % kCentroidsAtOnce;
    (*products)[begin * count + i * ColumnsAt(begin) + (c - begin)] =
        std::nanf("");
  }

 private:
  int64_t ColumnsAt(int64_t begin) const {
    return std::min(kCentroidsAtOnce, columns_ - begin);
  }

  std::vector<int32_t> ids_;
  int64_t width_;
  int64_t columns_;
  std::vector<float> half_squares_;  // of norms, [columns]
  std::vector<float> values_;        // some columns [width, some], then others
};

std::vector<int32_t> Everyone(int64_t count) {
  std::vector<int32_t> ids(count);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

bool AllNumbers(const float* values, int64_t count) {
  return std::none_of(values, values + count,
                      [](float value) { return std::isnan(value); });
}

// Looks at all cells.
void NearestOfAll(const CellPoints& p, int64_t t, const float* table,
                  const ParallelFor& parallel_for,
                  const VectorKernels& vector_kernels, int32_t* nearest) {
  const Centroids all(table, Everyone(p.cells), p.width);
  parallel_for(p.count, p.cells * (p.width / 8 + 2),
               [&](int64_t begin, int64_t end) {
                 std::vector<float> products;
                 const int64_t at_once = all.points_at_once();
                 for (int64_t first = begin; first < end; first += at_once) {
                   const int64_t count = std::min(at_once, end - first);
                   all.Multiply(p.points + first * p.width, count,
                                vector_kernels, &products);
                   for (int64_t i = 0; i < count; ++i) {
                     nearest[(first + i) * p.tables + t] =
                         all.Nearest(products, count, i, vector_kernels).id;
                   }
                 }
               });
}

// Looks at the cells of the `near_groups` nearest groups only.
//
//   cells_of   the cells of each group, ascending, groups without left out
//   middles    of the same groups
void NearestOfGroups(const CellPoints& p, int64_t t, const float* table,
                     const std::vector<std::vector<int32_t>>& cells_of,
                     const Centroids& middles, int64_t near_groups,
                     const ParallelFor& parallel_for,
                     const VectorKernels& vector_kernels, int32_t* nearest) {
  const int64_t groups = middles.size();
  std::vector<Centroids> centroids;
  for (const std::vector<int32_t>& cells : cells_of) {
    centroids.emplace_back(table, cells, p.width);
  }
  const int64_t pieces = (p.count + kPointsOfPiece - 1) / kPointsOfPiece;
  const int64_t vectors = groups + near_groups * p.cells / groups;
  parallel_for(
      pieces, kPointsOfPiece * vectors * (p.width / 8 + 2),
      [&](int64_t begin, int64_t end) {
        std::vector<float> members, products;
        std::vector<Near> best;
        std::vector<std::vector<int32_t>> points_of(groups);
        for (int64_t piece = begin; piece < end; ++piece) {
          const int64_t first = piece * kPointsOfPiece;
          const int64_t count = std::min(kPointsOfPiece, p.count - first);
          const float* points = p.points + first * p.width;
          for (std::vector<int32_t>& ids : points_of) ids.clear();
          int64_t at_once = middles.points_at_once();
          for (int64_t i = 0; i < count; i += at_once) {
            const int64_t some = std::min(at_once, count - i);
            middles.Multiply(points + i * p.width, some, vector_kernels,
                             &products);
            for (int64_t k = 0; k < some; ++k) {
              for (int64_t rank = 0; rank < near_groups; ++rank) {
                const int32_t group =
                    middles.Nearest(products, some, k, vector_kernels).id;
                middles.Drop(group, some, k, &products);
                points_of[group].push_back(static_cast<int32_t>(i + k));
              }
            }
          }
          best.assign(count, Near());
          for (int64_t g = 0; g < groups; ++g) {
            const std::vector<int32_t>& ids = points_of[g];
            const auto size = static_cast<int64_t>(ids.size());
            at_once = centroids[g].points_at_once();
            for (int64_t i = 0; i < size; i += at_once) {
              const int64_t some = std::min(at_once, size - i);
              members.resize(some * p.width);
              for (int64_t k = 0; k < some; ++k) {
                std::copy_n(points + ids[i + k] * p.width, p.width,
                            members.data() + k * p.width);
              }
              centroids[g].Multiply(members.data(), some, vector_kernels,
                                    &products);
              for (int64_t k = 0; k < some; ++k) {
                Near found =
                    centroids[g].Nearest(products, some, k, vector_kernels);
                found.id = centroids[g].id(found.id);
                Near& so_far = best[ids[i + k]];
                if (found.distance < so_far.distance ||
                    (found.distance == so_far.distance &&
                     found.id < so_far.id)) {
                  so_far = found;
                }
              }
            }
          }
          for (int64_t i = 0; i < count; ++i) {
            nearest[(first + i) * p.tables + t] = best[i].id;
          }
        }
      });
}

}  // namespace

void NearestCells(const CellPoints& p, const CellGroups& groups,
                  const ParallelFor& parallel_for,
                  const VectorKernels& vector_kernels, int32_t* nearest) {
  for (int64_t t = 0; t < p.tables; ++t) {
    const float* table = p.centroids + t * p.cells * p.width;
    const float* middles = groups.middles + t * groups.count * p.width;
    std::vector<std::vector<int32_t>> cells_of;
    std::vector<int32_t> used;  // groups that have cells
    if (groups.near > 0 && AllNumbers(table, p.cells * p.width) &&
        AllNumbers(middles, groups.count * p.width)) {
      std::vector<std::vector<int32_t>> all(groups.count);
      for (int64_t c = 0; c < p.cells; ++c) {
        all[groups.group_of[t * p.cells + c]].push_back(c);
      }
      for (int64_t g = 0; g < groups.count; ++g) {
        if (all[g].empty()) continue;
        used.push_back(static_cast<int32_t>(g));
        cells_of.push_back(std::move(all[g]));
      }
    }
    if (static_cast<int64_t>(used.size()) <= groups.near) {
      NearestOfAll(p, t, table, parallel_for, vector_kernels, nearest);
    } else {
      const Centroids used_middles(middles, std::move(used), p.width);
      NearestOfGroups(p, t, table, cells_of, used_middles, groups.near,
                      parallel_for, vector_kernels, nearest);
    }
  }
}

Status CellMeans(const CellMembers& m, const ParallelFor& parallel_for,
                 const VectorKernels& vector_kernels, float* means,
                 int32_t* sizes) {
  std::fill_n(sizes, m.tables * m.cells, 0);
  for (int64_t i = 0; i < m.count * m.tables; ++i) {
    const int32_t cell = m.members[i];
    if (cell < -1 || cell >= m.cells) {
      return Status::Invalid("`members` must be in [-1, " +
                             std::to_string(m.cells) +
                             "), the cells. Received: " + std::to_string(cell));
    }
    if (cell >= 0) ++sizes[i % m.tables * m.cells + cell];
  }
  std::vector<const float*> rows(m.count);  // of one cell after the other
  std::vector<int64_t> ends(m.cells);
  const std::vector<float> ones(m.count, 1.0f);
  for (int64_t t = 0; t < m.tables; ++t) {
    const int32_t* size = sizes + t * m.cells;
    int64_t used = 0;
    for (int64_t c = 0; c < m.cells; ++c) {
      ends[c] = used;
      used += size[c];
    }
    for (int64_t i = 0; i < m.count; ++i) {
      const int32_t cell = m.members[i * m.tables + t];
      if (cell >= 0) rows[ends[cell]++] = m.points + i * m.width;
    }
    const int64_t points_of_cell = 1 + used / std::max<int64_t>(1, m.cells);
    parallel_for(m.cells, points_of_cell * (m.width / 8 + 4),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t c = begin; c < end; ++c) {
                     float* mean = means + (t * m.cells + c) * m.width;
                     vector_kernels.weighted_sum(
                         rows.data() + ends[c] - size[c], ones.data(), size[c],
                         0, m.width, mean);
                     if (size[c] == 0) continue;
                     const float divisor = static_cast<float>(size[c]);
                     for (int64_t j = 0; j < m.width; ++j) mean[j] /= divisor;
                   }
                 });
  }
  return Status();
}

}  // namespace keras_lsh
