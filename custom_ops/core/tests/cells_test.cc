#include "custom_ops/core/cells.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace testing {
namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;

Ints Weights(const Floats& worth, int64_t batch, int64_t cells,
             const ParallelFor& parallel_for = SerialFor,
             const VectorKernels& kernels = GetVectorKernels()) {
  Ints buckets(worth.size(), -1), weights(worth.size(), -1);
  RankCells(worth.data(), batch, cells, parallel_for, kernels, buckets.data(),
            weights.data());
  for (size_t i = 0; i < buckets.size(); ++i) {
    CHECK_EQ(buckets[i], static_cast<int32_t>(i % cells));
  }
  return weights;
}

TEST(WeightsByExample) {
  CHECK_EQ(Weights({2, 1, 1.5, 2}, 1, 4, SerialFor),
           (Ints{65536, 1, 32768, 65536}));
  CHECK_EQ(Weights({7, 7, 7}, 1, 3, SerialFor), (Ints{1, 1, 1}));
  CHECK_EQ(Weights({-1e34f, 1e34f}, 1, 2, SerialFor), (Ints{1, 65536}));
  CHECK_EQ(Weights({-3}, 1, 1, SerialFor), (Ints{1}));
  CHECK_EQ(Weights({}, 0, 5, SerialFor), Ints());
}

TEST(WhatIsNoNumberWeighsLeast) {
  for (size_t at : {0, 3, 30, 39}) {
    Floats worth = Random(2).Floats(40);
    worth[at] = kNan;
    const Ints weights = InEveryVariant(
        [&](const VectorKernels& kernels, const ParallelFor& split) {
          return Weights(worth, 1, 40, split, kernels);
        });
    CHECK_EQ(weights[at], 1);
    const int32_t largest = *std::max_element(weights.begin(), weights.end());
    CHECK_EQ(largest, at == 0 ? 1 : 65536);  // the first is compared with all
  }
}

TEST(WorthIsAProductOfCoordinatesAndCentroids) {
  Random random(4);
  struct Shape {
    int64_t batch, input_dim, rank, cells;
  };
  for (const Shape& s : {Shape{0, 4, 2, 3}, Shape{1, 1, 1, 1},
                         Shape{9, 33, 5, 40}, Shape{21, 100, 17, 7}}) {
    const Context context(s.batch, " inputs of ", s.input_dim);
    const Floats inputs = random.Floats(s.batch * s.input_dim);
    const Floats center = random.Floats(s.input_dim);
    const Floats basis = random.Floats(s.input_dim * s.rank);
    Floats scales = random.Floats(s.rank);
    scales[0] = 0;
    const Floats centroids = random.Floats(s.cells * (s.rank + 1));
    const float largest = 3;
    const Floats worth = InEveryVariant(
        [&](const VectorKernels& kernels, const ParallelFor& split) {
          Floats out(s.batch * s.cells, kNan);
          CellWorth(
              {inputs.data(), s.batch, s.input_dim, center.data(), basis.data(),
               scales.data(), s.rank, largest, centroids.data(), s.cells},
              split, kernels, out.data());
          return out;
        });
    for (int64_t b = 0; b < s.batch; ++b) {
      std::vector<double> z(s.rank + 1, 1.0);
      for (int64_t k = 0; k < s.rank; ++k) {
        double sum = 0;
        for (int64_t j = 0; j < s.input_dim; ++j) {
          sum += static_cast<double>(inputs[b * s.input_dim + j] - center[j]) *
                 basis[j * s.rank + k];
        }
        z[k] =
            scales[k] == 0 ? 0 : std::min(std::max(sum / scales[k], -3.0), 3.0);
      }
      for (int64_t c = 0; c < s.cells; ++c) {
        double expected = 0;
        for (int64_t k = 0; k <= s.rank; ++k) {
          expected += z[k] * centroids[c * (s.rank + 1) + k];
        }
        CHECK_NEAR(worth[b * s.cells + c], expected, 1e-3);
      }
    }
  }
}

TEST(WeightsFollowTheWorth) {
  Random random(1);
  for (int64_t cells : {2, 17, 200}) {
    const int64_t batch = 9;
    const Floats worth = random.Floats(batch * cells);
    const Ints weights = InEveryVariant(
        [&](const VectorKernels& kernels, const ParallelFor& split) {
          return Weights(worth, batch, cells, split, kernels);
        });
    for (int64_t b = 0; b < batch; ++b) {
      const float* w = worth.data() + b * cells;
      const double least = *std::min_element(w, w + cells);
      const double range = *std::max_element(w, w + cells) - least;
      for (int64_t c = 0; c < cells; ++c) {
        CHECK_NEAR(weights[b * cells + c], 1 + 65535 * (w[c] - least) / range,
                   1.01);
      }
    }
  }
}

// Small integers: distances are exact, and many are equal.
Floats SmallIntegers(Random* random, int64_t n) {
  Floats values(n);
  for (float& value : values) value = static_cast<float>(random->Below(5)) - 2;
  return values;
}

double SquaredDistance(const float* a, const float* b, int64_t width) {
  double sum = 0;
  for (int64_t j = 0; j < width; ++j) sum += (a[j] - b[j]) * (a[j] - b[j]);
  return sum;
}

// The nearest of some centroids; the first of equal ones.
int32_t NearestOf(const float* point, const float* table, const Ints& ids,
                  int64_t width) {
  return *std::min_element(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    const double of_a = SquaredDistance(point, table + a * width, width);
    const double of_b = SquaredDistance(point, table + b * width, width);
    return of_a != of_b ? of_a < of_b : a < b;
  });
}

// The cells of a table that a point looks at.
Ints LookedAt(const float* point, const CellGroups& groups, int64_t table,
              int64_t cells, int64_t width) {
  const float* middles = groups.middles + table * groups.count * width;
  const int32_t* group_of = groups.group_of + table * cells;
  std::vector<Ints> all(groups.count);
  Ints everyone;
  for (int32_t c = 0; c < cells; ++c) {
    all[group_of[c]].push_back(c);
    everyone.push_back(c);
  }
  std::vector<std::pair<double, int64_t>> used;
  for (int64_t g = 0; g < groups.count; ++g) {
    if (all[g].empty()) continue;
    used.emplace_back(SquaredDistance(point, middles + g * width, width), g);
  }
  const int64_t near = groups.near;
  if (near == 0 || static_cast<int64_t>(used.size()) <= near) return everyone;
  std::sort(used.begin(), used.end());
  Ints ids;
  for (int64_t k = 0; k < near; ++k) {
    const Ints& group = all[used[k].second];
    ids.insert(ids.end(), group.begin(), group.end());
  }
  return ids;
}

TEST(FindsTheNearestCells) {
  Random random(5);
  for (int64_t count : {0, 1, 15, 16, 1100}) {
    for (int64_t cells : {1, 2, 64, 65, 300, 1300}) {
      for (int64_t width : {1, 3, 17}) {
        for (int64_t groups : {0, 1, 3, 100}) {
          const int64_t tables = 2;
          const Context context("count=", count, " cells=", cells,
                                " width=", width, " groups=", groups);
          const Floats points = SmallIntegers(&random, count * width);
          const Floats centroids =
              SmallIntegers(&random, tables * cells * width);
          const int64_t count_of_groups = cells > 1000 ? 700 : 1 + cells / 20;
          const Floats middles =
              SmallIntegers(&random, tables * count_of_groups * width);
          Ints group_of(tables * cells);
          for (int32_t& group : group_of) {
            // The last group of several has no cells.
            group = random.Below(std::max<int64_t>(1, count_of_groups - 1));
          }
          const CellGroups cell_groups = {middles.data(), count_of_groups,
                                          group_of.data(), groups};
          Ints expected;
          for (int64_t i = 0; i < std::min<int64_t>(count, 40) * tables; ++i) {
            const float* table = centroids.data() + i % tables * cells * width;
            const float* point = points.data() + i / tables * width;
            const Ints ids =
                LookedAt(point, cell_groups, i % tables, cells, width);
            expected.push_back(NearestOf(point, table, ids, width));
          }
          Ints before;
          for (const Split& split : Splits()) {
            Ints nearest(count * tables, -9);
            NearestCells(
                {points.data(), count, width, centroids.data(), tables, cells},
                cell_groups, split.parallel_for, GetVectorKernels(),
                nearest.data());
            if (before.empty()) before = nearest;
            CHECK_EQ(nearest, before);
            nearest.resize(expected.size());
            CHECK_EQ(nearest, expected);
          }
        }
      }
    }
  }
}

TEST(NearestOfWhatIsNoNumber) {
  const float nan = std::nanf("");
  Floats centroids(100, 7.0f), middles = {7, 2, 1};
  centroids[0] = nan;
  centroids[1] = 5;
  centroids[99] = 2;
  Ints group_of(100);
  group_of[1] = group_of[98] = 1;
  group_of[99] = 2;
  const Floats points = {nan, 1};
  const auto nearest = [&](int64_t near) {
    Ints result(2);
    NearestCells({points.data(), 2, 1, centroids.data(), 1, 100},
                 {middles.data(), 3, group_of.data(), near}, SerialFor,
                 GetVectorKernels(), result.data());
    return result;
  };
  CHECK_EQ(nearest(0), (Ints{0, 99}));
  CHECK_EQ(nearest(1), (Ints{0, 99}));
  centroids[0] = 0;
  CHECK_EQ(nearest(1)[0], 0);
  CHECK_EQ(nearest(1)[1], 99);
  middles[2] = nan;  // all cells then, and the first of two as near
  CHECK_EQ(nearest(1)[1], 0);
}

TEST(AveragesCells) {
  Random random(6);
  for (int64_t count : {0, 1, 30, 700}) {
    for (int64_t width : {1, 16, 21, 130}) {
      const int64_t tables = 2, cells = 9;
      const Context context("count=", count, " width=", width);
      const Floats points = SmallIntegers(&random, count * width);
      Ints members(count * tables);
      // The last cell stays empty.
      for (int32_t& member : members) member = random.Below(cells) - 1;
      Floats expected(tables * cells * width);
      Ints numbers(tables * cells);
      for (int64_t i = 0; i < count * tables; ++i) {
        if (members[i] < 0) continue;
        const int64_t cell = i % tables * cells + members[i];
        ++numbers[cell];
        for (int64_t j = 0; j < width; ++j) {
          expected[cell * width + j] += points[i / tables * width + j];
        }
      }
      for (int64_t k = 0; k < tables * cells * width; ++k) {
        expected[k] /= std::max(1, numbers[k / width]);
      }
      for (const Split& split : Splits()) {
        Floats means(expected.size(), kNan);
        Ints sizes(tables * cells, -9);
        CHECK_OK(CellMeans(
            {points.data(), count, width, members.data(), tables, cells},
            split.parallel_for, GetVectorKernels(), means.data(),
            sizes.data()));
        CHECK_EQ(means, expected);
        CHECK_EQ(sizes, numbers);
      }
    }
  }
}

TEST(RefusesCellsThatAreNone) {
  const Floats points = {1, 2};
  for (int32_t bad : {-2, 3}) {
    const Ints members = {0, bad};
    Floats means(3);
    Ints sizes(3);
    CHECK_ERROR(
        CellMeans({points.data(), 2, 1, members.data(), 1, 3}, SerialFor,
                  GetVectorKernels(), means.data(), sizes.data()),
        "Received: " + std::to_string(bad));
  }
}

struct Observation {
  int64_t batch, input_dim, rank;
  Floats inputs, center, basis, mean, moments;
  float count;
};

// The new mean, moments and count, one after the other.
Floats Observe(const Observation& o, const ObservationOptions& options,
               const VectorKernels& kernels, const ParallelFor& parallel_for) {
  const int64_t size = o.input_dim * (1 + o.rank);
  Floats result(size + 1, kNan);
  ObserveInputs(options, o.inputs.data(), o.batch, o.input_dim, o.center.data(),
                o.basis.data(), o.rank,
                {o.mean.data(), o.moments.data(), o.count}, parallel_for,
                kernels, result.data(), result.data() + o.input_dim,
                result.data() + size);
  return result;
}

std::vector<double> PlainObserve(const Observation& o,
                                 const ObservationOptions& options) {
  const int64_t d = o.input_dim, r = o.rank;
  const int64_t stride =
      std::max<int64_t>(1, (o.batch + options.rows - 1) / options.rows);
  std::vector<double> sums(d + d * r);
  double added = 0;
  for (int64_t b = 0; b < o.batch; b += stride) {
    const float* row = o.inputs.data() + b * d;
    if (!std::all_of(row, row + d,
                     [&](float x) { return std::fabs(x) < options.largest; })) {
      continue;
    }
    added += 1;
    for (int64_t k = 0; k < r; ++k) {
      double projected = 0;
      for (int64_t j = 0; j < d; ++j) {
        projected += (double{row[j]} - o.center[j]) * o.basis[j * r + k];
      }
      for (int64_t j = 0; j < d; ++j) {
        sums[d + j * r + k] += (double{row[j]} - o.center[j]) * projected;
      }
    }
    for (int64_t j = 0; j < d; ++j) sums[j] += double{row[j]} - o.center[j];
  }
  const double total = o.count + added;
  for (int64_t i = 0; i < d + d * r; ++i) {
    const double old = i < d ? o.mean[i] : o.moments[i - d];
    sums[i] = total == 0 ? old : (o.count * old + sums[i]) / total;
  }
  sums.push_back(std::min<double>(total, options.window));
  return sums;
}

TEST(AveragesOfInputs) {
  Random random(2);
  for (int64_t batch : {0, 1, 5, 32, 33, 100}) {
    for (int64_t input_dim : {1, 18, 70}) {
      for (int64_t rank : {1, 16, 21}) {
        for (float count : {0.0f, 3.0f, 40.0f}) {
          const Context context("batch=", batch, " input_dim=", input_dim,
                                " rank=", rank, " count=", count);
          Observation o = {batch,
                           input_dim,
                           rank,
                           random.Floats(batch * input_dim),
                           random.Floats(input_dim),
                           random.Floats(input_dim * rank),
                           random.Floats(input_dim),
                           random.Floats(input_dim * rank),
                           count};
          if (batch > 1) o.inputs[input_dim] = kNan;  // row 1
          if (batch > 4) o.inputs[4 * input_dim] = 1e6f;
          const ObservationOptions options = {32, 1e6f, 50.0f};
          const Floats values = InEveryVariant([&](const auto&... variant) {
            return Observe(o, options, variant...);
          });
          const std::vector<double> exact = PlainObserve(o, options);
          for (size_t i = 0; i < exact.size(); ++i) {
            CHECK_NEAR(values[i], exact[i], 1e-4);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
