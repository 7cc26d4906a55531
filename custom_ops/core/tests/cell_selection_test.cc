#include "custom_ops/core/cell_selection.h"

#include <algorithm>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace testing {
namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;

struct Shape {
  int64_t batch, input_dim, rank, cells, units, active, num_forced;
};

// Inputs, cells and their neurons.
struct Case {
  Case(Random* random, const Shape& shape)
      : s(shape),
        inputs(random->Floats(s.batch * s.input_dim)),
        center(random->Floats(s.input_dim)),
        basis(random->Floats(s.input_dim * s.rank)),
        scales(random->Floats(s.rank)),
        centroids(random->Floats(s.cells * (s.rank + 1))),
        offsets(s.cells + 1),
        table_ids(s.units),
        forced(s.batch * s.num_forced) {
    Ints codes(s.units);
    for (int32_t& code : codes) {  // some large cells, some empty ones
      code = static_cast<int32_t>(random->Below(1 + random->Below(s.cells)));
    }
    CHECK_OK(BuildBucketTables(codes.data(), s.units, 1, s.cells,
                               offsets.data(), table_ids.data()));
    for (int32_t& id : forced) {
      id = static_cast<int32_t>(random->Below(s.units + 1) - 1);
    }
  }

  CellQueries queries() const {
    return {inputs.data(), s.batch, s.input_dim, center.data(),    basis.data(),
            scales.data(), s.rank,  5.0f,        centroids.data(), s.cells};
  }
  BucketTables tables() const {
    return {offsets.data(), table_ids.data(), 1, s.cells, s.units};
  }

  Status Select(CellSelector* selector, const ParallelFor& split,
                const VectorKernels& kernels, Ints* ids) const {
    ids->assign(s.batch * s.active, -77);
    return selector->Select(queries(), tables(), forced.data(), s.num_forced,
                            s.active, split, kernels, ids->data());
  }

  Shape s;
  Floats inputs, center, basis, scales, centroids;
  Ints offsets, table_ids, forced;
};

// One step after the other, each for all inputs.
Status Expected(const Case& c, Ints* ids) {
  const Shape& s = c.s;
  const VectorKernels& kernels = GetVectorKernels(SimdLevel::kScalar);
  Floats worth(s.batch * s.cells);
  CellWorth(c.queries(), SerialFor, kernels, worth.data());
  Ints buckets(worth.size()), weights(worth.size());
  RankCells(worth.data(), s.batch, s.cells, SerialFor, kernels, buckets.data(),
            weights.data());
  ids->assign(s.batch * s.active, -77);
  ActiveSetScratch scratch;
  ActiveSetSelector selector(c.tables(), s.active, kernels, &scratch);
  for (int64_t b = 0; b < s.batch; ++b) {
    int32_t seed = 0;
    for (int64_t i = 0; i < s.cells; ++i) seed += buckets[b * s.cells + i];
    Status status = selector.Select(
        {buckets.data() + b * s.cells, weights.data() + b * s.cells, s.cells,
         c.forced.data() + b * s.num_forced, s.num_forced, true, seed},
        ids->data() + b * s.active);
    if (!status.ok()) return status;
  }
  return Status();
}

void CheckSelection(const Case& c) {
  Ints expected;
  CHECK_OK(Expected(c, &expected));
  CellSelector selector;
  const Ints ids = InEveryVariant(
      [&](const VectorKernels& kernels, const ParallelFor& split) {
        Ints out;
        CHECK_OK(c.Select(&selector, split, kernels, &out));
        return out;
      });
  CHECK_EQ(ids, expected);
}

std::vector<Shape> Shapes() {
  return {{0, 4, 2, 3, 9, 2, 1},         {1, 1, 1, 1, 1, 1, 1},
          {1, 3, 2, 47, 100, 30, 0},     {9, 33, 5, 48, 500, 60, 2},
          {21, 20, 17, 200, 3000, 7, 1}, {40, 6, 3, 97, 130, 130, 4},
          {17, 5, 4, 300, 20000, 1, 1},  {8, 5, 4, 100, 5000, 900, 30}};
}

TEST(ItIsCellWorthRankCellsAndSelect) {
  Random random(1);
  for (const Shape& shape : Shapes()) {
    const Context context(shape.batch, " inputs, ", shape.cells, " cells, ",
                          shape.units, " units, ", shape.active, " active");
    CheckSelection(Case(&random, shape));
  }
}

TEST(EqualWorth) {
  Random random(2);
  for (const Shape& shape : Shapes()) {
    Case c(&random, shape);
    for (float& x : c.centroids) x = random.Chance(0.5) ? 0.0f : 1.0f;
    std::fill(c.scales.begin(), c.scales.end(), 0.0f);  // only the last counts
    CheckSelection(c);
    std::fill(c.centroids.begin(), c.centroids.end(), 0.0f);
    CheckSelection(c);
  }
}

TEST(WhatIsNoNumber) {
  Random random(3);
  for (const Shape& shape : Shapes()) {
    Case c(&random, shape);
    for (size_t i = 0; i < c.inputs.size(); i += 5) c.inputs[i] = kNan;
    for (size_t i = 0; i < c.inputs.size(); i += 7) c.inputs[i] = -kInf;
    CheckSelection(c);
    c.centroids[c.centroids.size() / 2] = kNan;
    c.centroids.back() = kInf;
    CheckSelection(c);
  }
}

TEST(TablesThatLackNeuronsOrHoldThemTwice) {
  Random random(4);
  for (const Shape& shape : Shapes()) {
    Case c(&random, shape);
    for (int32_t& offset : c.offsets) offset /= 3;
    CheckSelection(c);
    for (int32_t& id : c.table_ids) id /= 2;
    CheckSelection(c);
    std::reverse(c.table_ids.begin(), c.table_ids.end());
    CheckSelection(c);
    std::fill(c.offsets.begin(), c.offsets.end(), 0);
    CheckSelection(c);
  }
}

// Each error is that of one step after the other, and leaves the object usable.
TEST(Errors) {
  Random random(5);
  const Case good(&random, {30, 4, 3, 60, 900, 50, 2});
  CellSelector selector;
  const auto check = [&](const Case& bad, const std::string& part) {
    Ints ids, expected;
    for (const Split& split : Splits()) {
      const Context context(split.name);
      CHECK_ERROR(Expected(bad, &ids), part);
      CHECK_ERROR(
          bad.Select(&selector, split.parallel_for, GetVectorKernels(), &ids),
          part);
      CHECK_OK(
          good.Select(&selector, split.parallel_for, GetVectorKernels(), &ids));
      CHECK_OK(Expected(good, &expected));
      CHECK_EQ(ids, expected);
    }
  };
  for (int32_t id : {-2, 900, std::numeric_limits<int32_t>::max()}) {
    Case bad = good;
    bad.forced[31] = id;
    check(bad,
          "`forced` ids must lie in [0, 900), the number of units. "
          "Received: " +
              std::to_string(id));
    bad = good;
    std::fill(bad.table_ids.begin(), bad.table_ids.end(), id);
    check(bad,
          "`table_ids` must lie in [0, 900), the number of units. "
          "Received: " +
              std::to_string(id));
  }
  for (int32_t offset : {-1, 901, std::numeric_limits<int32_t>::min()}) {
    for (size_t at : {0, 1, 30, 60}) {
      Case bad = good;
      bad.offsets[at] = offset;
      check(bad, "corrupt: `offsets` of bucket");
    }
  }
  Case bad = good;
  bad.s.active = 1;
  bad.forced[40] = 8;
  bad.forced[41] = 9;
  check(bad, "`active`=1 neurons do not hold all the `forced` ones");
}

TEST(TooManyCells) {
  Random random(6);
  const Case c(&random, {1, 1, 1, kMaxBuckets + 1, 3, 1, 0});
  CellSelector selector;
  Ints ids;
  CHECK_ERROR(c.Select(&selector, SerialFor, GetVectorKernels(), &ids),
              "`buckets` must be at most 32767 a sample. Received: 32768");
  CheckSelection(Case(&random, {2, 1, 1, kMaxBuckets, 300, 9, 1}));
}

TEST(ManyThreadsAndShapesAtOnce) {
  Random random(7);
  CellSelector selector;
  std::vector<Case> cases;
  for (const Shape& shape : Shapes()) cases.emplace_back(&random, shape);
  std::vector<Ints> ids(cases.size()), expected(cases.size());
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < cases.size(); ++i) {
      threads.emplace_back([&, i] {
        (void)cases[i]
            .Select(&selector, SerialFor, GetVectorKernels(), &ids[i])
            .ok();
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (size_t i = 0; i < cases.size(); ++i) {
      CHECK_OK(Expected(cases[i], &expected[i]));
      CHECK_EQ(ids[i], expected[i]);
    }
  }
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
