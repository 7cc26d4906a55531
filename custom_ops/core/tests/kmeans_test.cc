#include "custom_ops/core/kmeans.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace testing {
namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;

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

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
