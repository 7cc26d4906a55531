#include "custom_ops/core/active_matmul.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "custom_ops/core/active_gradients.h"
#include "custom_ops/core/active_set.h"
#include "custom_ops/core/keep_largest.h"
#include "custom_ops/core/sparse_inputs.h"
#include "custom_ops/core/tests/bfloat16s.h"
#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"
#include "custom_ops/core/unit_chunks.h"

namespace keras_lsh {
namespace testing {
namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;

// A batch of active sets, and arrays to work on.
struct Batch {
  int64_t batch, active, units, input_dim;
  Ints ids;
  Floats inputs, kernel, bias, gradient;

  ActiveIds view() const { return {ids.data(), batch, active}; }
  int64_t places() const { return batch * active; }
  NeuronSamples Groups() const {
    NeuronSamples groups;
    CHECK_OK(GroupByNeuron(view(), units, {}, SerialFor, &groups));
    return groups;
  }
};

// Makes 97 % of the inputs of some samples 0.
void MakeSparse(Random* random, double share, int64_t batch, Floats* inputs) {
  for (int64_t b = 0; b < batch; ++b) {
    if (!random->Chance(share)) continue;
    const auto first = inputs->begin() + b * inputs->size() / batch;
    std::for_each(first, first + inputs->size() / batch, [&](float& input) {
      if (random->Chance(0.97)) input = random->Chance(0.5) ? 0.0f : -0.0f;
    });
  }
}

// Different ids, ascending, in each sample, with some places unused at the end
// or, as the core does not mind, anywhere. Unused places have a NaN gradient.
// Of some samples' inputs, hardly any are not 0.
Batch RandomBatch(Random* random, int64_t batch, int64_t active, int64_t units,
                  int64_t input_dim, double unused, double sparse = 0.0) {
  Batch b = {batch,
             active,
             units,
             input_dim,
             Ints(),
             random->Floats(batch * input_dim),
             random->Floats(units * input_dim),
             random->Floats(units),
             random->Floats(batch * active)};
  for (int64_t sample = 0; sample < batch; ++sample) {
    std::set<int32_t> chosen;
    while (static_cast<int64_t>(chosen.size()) < active) {
      chosen.insert(static_cast<int32_t>(random->Below(units)));
    }
    b.ids.insert(b.ids.end(), chosen.begin(), chosen.end());
  }
  for (int64_t i = 0; i < b.places(); ++i) {
    if (!random->Chance(unused)) continue;
    b.ids[i] = kNoId;
    b.gradient[i] = kNan;
  }
  MakeSparse(random, sparse, batch, &b.inputs);
  return b;
}

struct Shape {
  int64_t batch, active, units, input_dim;
};

// One element, vectors that do and do not fill 16 lanes, more samples a neuron
// than one call of a vector kernel takes, more neurons than one radix digit
// holds, nothing at all.
const std::vector<Shape>& Shapes() {
  static const std::vector<Shape> shapes = {
      {1, 1, 1, 1},   {1, 1, 1, 16},   {3, 2, 5, 17},   {5, 3, 3, 1},
      {9, 4, 20, 31}, {16, 5, 50, 33}, {1, 7, 40, 100}, {150, 2, 3, 19},
      {130, 1, 1, 7}, {7, 6, 3000, 5}, {4, 10, 30, 0},  {0, 3, 10, 8},
      {4, 0, 10, 8},  {64, 3, 3, 129}, {2, 40, 64, 145}};
  return shapes;
}

template <typename Check>
void ForEachBatch(uint64_t seed, Check check) {
  Random random(seed);
  for (const Shape& s : Shapes()) {
    for (double unused : {0.0, 0.3, 1.0}) {
      for (double sparse : {0.0, 0.5, 1.0}) {
        const Context context("batch=", s.batch, " active=", s.active,
                              " units=", s.units, " input_dim=", s.input_dim,
                              " unused=", unused, " sparse=", sparse);
        check(RandomBatch(&random, s.batch, s.active, s.units, s.input_dim,
                          unused, sparse));
      }
    }
  }
}

// ---- Groups --------------------------------------------------------------

void CheckGroups(const ActiveIds& ids, int64_t units, NeuronSamples* groups) {
  std::map<int32_t, Ints> expected;  // places by neuron
  for (int64_t i = 0; i < ids.batch * ids.active; ++i) {
    if (ids.ids[i] != kNoId) {
      expected[ids.ids[i]].push_back(static_cast<int32_t>(i));
    }
  }
  NeuronSamples want;
  want.starts = {0};
  for (const auto& [neuron, places] : expected) {
    want.neurons.push_back(neuron);
    want.places.insert(want.places.end(), places.begin(), places.end());
    want.starts.push_back(static_cast<int64_t>(want.places.size()));
  }
  CHECK_OK(GroupByNeuron(ids, units, {}, SerialFor, groups));
  CHECK_EQ(groups->neurons, want.neurons);
  CHECK_EQ(groups->starts, want.starts);
  CHECK_EQ(groups->places, want.places);
}

TEST(GroupsOfBatches) {
  NeuronSamples groups;  // one object for all: what was in it must not matter
  ForEachBatch(
      1, [&](const Batch& b) { CheckGroups(b.view(), b.units, &groups); });
}

// Keys, right or wrong, change the order of the neurons and nothing else.
TEST(GroupsByKey) {
  ForEachBatch(7, [&](const Batch& b) {
    Random random(8);
    Ints keys(2 * b.units);
    for (int32_t& key : keys) key = static_cast<int32_t>(random.Below(5)) - 1;
    const NeuronSamples plain = b.Groups();
    NeuronSamples keyed;
    CHECK_OK(
        GroupByNeuron(b.view(), b.units, {keys.data(), 2}, SerialFor, &keyed));
    std::map<int32_t, Ints> places;
    for (size_t g = 0; g < plain.neurons.size(); ++g) {
      places[plain.neurons[g]] =
          Ints(plain.places.begin() + plain.starts[g],
               plain.places.begin() + plain.starts[g + 1]);
    }
    CHECK_EQ(keyed.neurons.size(), plain.neurons.size());
    for (size_t g = 0; g < keyed.neurons.size(); ++g) {
      CHECK_EQ(Ints(keyed.places.begin() + keyed.starts[g],
                    keyed.places.begin() + keyed.starts[g + 1]),
               places[keyed.neurons[g]]);
    }
    // Tiles cover all neurons; each has one key and is short.
    CHECK_EQ(keyed.tiles.back(), static_cast<int64_t>(keyed.neurons.size()));
    for (size_t t = 0; t + 1 < keyed.tiles.size(); ++t) {
      const int64_t first = keyed.tiles[t], last = keyed.tiles[t + 1];
      CHECK(first < last && last - first <= VectorKernels::kMaxTileRows);
      for (int64_t g = first; g < last; ++g) {
        CHECK_EQ(keys[2 * keyed.neurons[g]], keys[2 * keyed.neurons[first]]);
      }
    }
    // The same products, bit for bit, at every level and split.
    Floats expected(b.places());
    ActiveMatmul(b.view(), plain, b.inputs.data(), b.input_dim, b.kernel.data(),
                 b.bias.data(), SerialFor, GetVectorKernels(SimdLevel::kScalar),
                 expected.data());
    CHECK_EQ(InEveryVariant(
                 [&](const VectorKernels& kernels, const ParallelFor& split) {
                   Floats values(b.places(), kNan);
                   ActiveMatmul(b.view(), keyed, b.inputs.data(), b.input_dim,
                                b.kernel.data(), b.bias.data(), split, kernels,
                                values.data());
                   return values;
                 }),
             expected);
  });
}

// Neurons of one key with the same samples, as cells of neurons have.
TEST(SharedSamples) {
  Random random(9);
  for (int64_t cell : {2, 3, 5, 6, 7, 13}) {
    const int64_t units = 4 * cell, batch = 11;
    for (int64_t input_dim : {1, 15, 16, 33, 100}) {
      Batch b = {batch,
                 2 * cell,
                 units,
                 input_dim,
                 Ints(),
                 random.Floats(batch * input_dim),
                 random.Floats(units * input_dim),
                 random.Floats(units),
                 Floats()};
      MakeSparse(&random, 0.3, batch, &b.inputs);
      Ints keys(units);
      for (int64_t n = 0; n < units; ++n) keys[n] = n % 4;
      for (int64_t s = 0; s < batch; ++s) {
        const int64_t one = random.Below(4), other = (one + 1 + s % 3) % 4;
        for (int64_t n = 0; n < units; ++n) {
          if (n % 4 == one || n % 4 == other) b.ids.push_back(n);
        }
        if (s % 5 == 0) b.ids.back() = kNoId;  // a cell cut short
      }
      NeuronSamples keyed;
      CHECK_OK(
          GroupByNeuron(b.view(), units, {keys.data(), 1}, SerialFor, &keyed));
      Floats expected(b.places());
      ActiveMatmul(b.view(), b.Groups(), b.inputs.data(), input_dim,
                   b.kernel.data(), b.bias.data(), SerialFor,
                   GetVectorKernels(SimdLevel::kScalar), expected.data());
      CHECK_EQ(InEveryVariant(
                   [&](const VectorKernels& kernels, const ParallelFor& split) {
                     Floats values(b.places(), kNan);
                     ActiveMatmul(b.view(), keyed, b.inputs.data(), input_dim,
                                  b.kernel.data(), b.bias.data(), split,
                                  kernels, values.data());
                     return values;
                   }),
               expected);
    }
  }
}

TEST(GroupsOfManyUnits) {
  Random random(2);
  NeuronSamples groups;
  for (int64_t units :
       {int64_t{2047}, int64_t{2048}, int64_t{2049}, int64_t{1} << 22,
        (int64_t{1} << 22) + 1, int64_t{2147483647}}) {
    const Context context("units=", units);
    Ints ids = {0, static_cast<int32_t>(units - 1), kNoId};
    while (ids.size() < 300) {
      const int64_t last =  // often again, or the neighbour, or far away
          std::max<int64_t>(0, ids[random.Below(ids.size())]);
      const int64_t id =
          random.Chance(0.5) ? last + random.Below(3) : random.Below(units);
      ids.push_back(static_cast<int32_t>(std::min(id, units - 1)));
    }
    CheckGroups({ids.data(), 3, 100}, units, &groups);
    CheckGroups({ids.data(), 300, 1}, units, &groups);
  }
}

// Active sets ascend; they are grouped chunk by chunk of the units, in
// parallel.
TEST(GroupsOfAscendingIds) {
  Random random(3);
  NeuronSamples groups;
  for (int64_t units : {3000, 4096, 4097, 20000, 60000}) {
    for (int64_t most : {0, 1, 700}) {  // places of a sample in use
      const Context context("units=", units, " most=", most);
      const int64_t batch = 4, active = 700;
      Ints ids;
      for (int64_t b = 0; b < batch; ++b) {
        std::set<int32_t> row;
        if (b == 1) row = {0, static_cast<int32_t>(units - 1)};
        for (int64_t i = 0; i < most; ++i) {
          row.insert(static_cast<int32_t>(
              random.Chance(0.5) ? random.Below(300) : random.Below(units)));
        }
        ids.insert(ids.end(), row.begin(), row.end());
        ids.resize((b + 1) * active, kNoId);
      }
      CheckGroups({ids.data(), batch, active}, units, &groups);
      const auto variants =
          InEveryVariant([&](const VectorKernels&, const ParallelFor& split) {
            NeuronSamples split_groups;
            CHECK_OK(GroupByNeuron({ids.data(), batch, active}, units, {},
                                   split, &split_groups));
            return split_groups.places;
          });
      CHECK_EQ(variants, groups.places);
      // A gap, and ids out of order.
      std::swap(ids[0], ids[active - 1]);
      CheckGroups({ids.data(), batch, active}, units, &groups);
      std::swap(ids[active], ids[active + 1]);
      CheckGroups({ids.data(), batch, active}, units, &groups);
    }
  }
}

TEST(BadIds) {
  NeuronSamples groups;
  for (int32_t bad : {-2, 9, std::numeric_limits<int32_t>::min(),
                      std::numeric_limits<int32_t>::max()}) {
    for (int64_t at : {0, 5, 11}) {
      Ints ids(12, 8);
      ids[1] = kNoId;
      ids[at] = bad;
      const std::string received = "Received: ids[" + std::to_string(at / 4) +
                                   ", " + std::to_string(at % 4) +
                                   "]=" + std::to_string(bad);
      const ActiveIds view = {ids.data(), 3, 4};
      CHECK_ERROR(CheckIds(view, 9), "`ids` must be numbers in [0, 9)");
      CHECK_ERROR(CheckIds(view, 9), received);
      CHECK_ERROR(GroupByNeuron(view, 9, {}, SerialFor, &groups), received);
    }
  }
  const Ints ids = {-1, 0, 8, -1};
  CHECK_OK(CheckIds({ids.data(), 1, 4}, 9));
  CHECK_OK(CheckIds({nullptr, 0, 4}, 9));
  CHECK_OK(CheckIds({nullptr, 4, 0}, 9));
  CheckGroups({ids.data(), 1, 4}, 9, &groups);
}

TEST(TooManyPlaces) {
  NeuronSamples groups;
  // The size is looked at before the ids are, so none are needed.
  const Status status =
      GroupByNeuron({nullptr, 1 << 16, 1 << 15}, 9, {}, SerialFor, &groups);
  CHECK_ERROR(status, "must be below 2^31. Received: 65536 * 32768");
}

// ---- Forward -------------------------------------------------------------

Floats Forward(const Batch& b, bool with_bias, const VectorKernels& kernels,
               const ParallelFor& parallel_for) {
  Floats values(b.places(), kNan);
  ActiveMatmul(b.view(), b.Groups(), b.inputs.data(), b.input_dim,
               b.kernel.data(), with_bias ? b.bias.data() : nullptr,
               parallel_for, kernels, values.data());
  return values;
}

Floats ForwardBySample(const Batch& b, bool with_bias,
                       const VectorKernels& kernels,
                       const ParallelFor& parallel_for) {
  Floats values(b.places(), kNan);
  ActiveMatmulBySample(b.view(), b.units, b.inputs.data(), b.input_dim,
                       b.kernel.data(), with_bias ? b.bias.data() : nullptr,
                       parallel_for, kernels, values.data());
  return values;
}

// Plain loops in the precision of `T`.
template <typename T>
std::vector<T> PlainForward(const Batch& b, bool with_bias) {
  std::vector<T> values(b.places());
  for (int64_t i = 0; i < b.places(); ++i) {
    if (b.ids[i] == kNoId) continue;
    T sum = 0;
    for (int64_t j = 0; j < b.input_dim; ++j) {
      sum += static_cast<T>(b.kernel[b.ids[i] * b.input_dim + j]) *
             static_cast<T>(b.inputs[i / b.active * b.input_dim + j]);
    }
    values[i] = with_bias ? sum + b.bias[b.ids[i]] : sum;
  }
  return values;
}

TEST(ForwardIsAsExactAsAPlainLoop) {
  ForEachBatch(3, [](const Batch& b) {
    for (bool with_bias : {false, true}) {
      const Context context("with_bias=", with_bias);
      const Floats values = InEveryVariant([&](const auto&... variant) {
        return Forward(b, with_bias, variant...);
      });
      CHECK_EQ(InEveryVariant([&](const auto&... variant) {
                 return ForwardBySample(b, with_bias, variant...);
               }),
               values);
      const std::vector<double> exact = PlainForward<double>(b, with_bias);
      const Floats plain = PlainForward<float>(b, with_bias);
      for (int64_t i = 0; i < b.places(); ++i) {
        if (b.ids[i] == kNoId) CHECK_EQ(values[i], 0.0f);
        // Far more than rounding: no value may be another's.
        CHECK_NEAR(values[i], exact[i], 1e-4);
      }
      // With few values, their errors are a matter of luck.
      if (b.places() >= 50) {
        CHECK_LE(Error(values, exact), 2 * Error(plain, exact));
      }
    }
  });
}

// The same bits as from floats of the same worth, however they are multiplied.
void CheckBfloat16Kernel(Random* random, Batch b) {
  const std::vector<Bfloat16> kernel =
      RandomBfloat16s(random, b.units * b.input_dim, 0.0005);
  b.kernel = Worth(kernel);
  Ints keys(b.units);  // tiles of several neurons
  for (int64_t n = 0; n < b.units; ++n) keys[n] = n % 3;
  NeuronSamples keyed;
  CHECK_OK(
      GroupByNeuron(b.view(), b.units, {keys.data(), 1}, SerialFor, &keyed));
  const NeuronSamples plain = b.Groups();
  for (bool with_bias : {false, true}) {
    const Context context("with_bias=", with_bias);
    const float* bias = with_bias ? b.bias.data() : nullptr;
    const Floats expected =
        Forward(b, with_bias, GetVectorKernels(SimdLevel::kScalar), SerialFor);
    for (const NeuronSamples& groups : {plain, keyed}) {
      CHECK_EQ(InEveryVariant(
                   [&](const VectorKernels& kernels, const ParallelFor& split) {
                     Floats values(b.places(), kNan);
                     ActiveMatmul(b.view(), groups, b.inputs.data(),
                                  b.input_dim, kernel.data(), bias, split,
                                  kernels, values.data());
                     return values;
                   }),
               expected);
    }
    CHECK_EQ(InEveryVariant(
                 [&](const VectorKernels& kernels, const ParallelFor& split) {
                   Floats values(b.places(), kNan);
                   ActiveMatmulBySample(b.view(), b.units, b.inputs.data(),
                                        b.input_dim, kernel.data(), bias, split,
                                        kernels, values.data());
                   return values;
                 }),
             expected);
  }
}

TEST(Bfloat16KernelGivesTheValuesOfTheWidenedOne) {
  Random random(15);
  ForEachBatch(16, [&](const Batch& b) { CheckBfloat16Kernel(&random, b); });
}

// Rows that go past the caches, and samples that share most of their neurons.
TEST(Bfloat16KernelOfLongRows) {
  Random random(17);
  CheckBfloat16Kernel(&random,
                      RandomBatch(&random, 1, 500, 700, 3001, 0.0, 0.0));
  CheckBfloat16Kernel(&random, RandomBatch(&random, 9, 6, 7, 1100, 0.1, 0.3));
}

TEST(ASampleDoesNotDependOnTheOthers) {
  Random random(4);
  const Batch b = RandomBatch(&random, 90, 4, 12, 53, 0.2, 0.5);
  const Floats values = Forward(b, true, GetVectorKernels(), SerialFor);
  for (int64_t sample = 0; sample < b.batch; ++sample) {
    Batch alone = b;
    alone.batch = 1;
    alone.ids.assign(b.ids.begin() + sample * 4,
                     b.ids.begin() + (sample + 1) * 4);
    alone.inputs.assign(b.inputs.begin() + sample * 53,
                        b.inputs.begin() + (sample + 1) * 53);
    CHECK_EQ(
        Forward(alone, true, GetVectorKernels(), SerialFor),
        Floats(values.begin() + sample * 4, values.begin() + (sample + 1) * 4));
  }
}

// Unused places last, as in active sets.
Batch BatchOfSeveralChunks(Random* random, double unused) {
  Batch b = RandomBatch(random, 40, 120, 9000, 128, 0.0, 0.3);
  for (int64_t sample = 0; sample < b.batch; ++sample) {
    for (int64_t slot = b.active; slot > 0 && random->Chance(unused); --slot) {
      b.ids[sample * b.active + slot - 1] = kNoId;
    }
  }
  const int bits = BitsOfCachedChunks(b.view(), b.units, 4 * b.input_dim);
  CHECK(bits > 0 && (b.units - 1) >> bits > 0);
  return b;
}

TEST(SamplesReadRowsChunkByChunk) {
  Random random(18);
  for (const double unused : {0.0, 0.9, 1.0}) {
    const Batch b = BatchOfSeveralChunks(&random, unused);
    CHECK_EQ(InEveryVariant([&](const auto&... variant) {
               return ForwardBySample(b, true, variant...);
             }),
             Forward(b, true, GetVectorKernels(), SerialFor));
  }
}

TEST(SamplesWithoutAnOrderReadRowsAsTheyCome) {
  Random random(19);
  Batch b = BatchOfSeveralChunks(&random, 0.0);
  std::swap(b.ids[0], b.ids[b.active - 1]);
  CHECK_EQ(InEveryVariant([&](const auto&... variant) {
             return ForwardBySample(b, false, variant...);
           }),
           Forward(b, false, GetVectorKernels(), SerialFor));
}

TEST(WhatIsMultipliedBySample) {
  const auto by_sample = [](int64_t batch, int64_t active, int64_t input_dim,
                            int64_t element_bytes) {
    return MultipliesBySample({nullptr, batch, active}, 1 << 20, input_dim,
                              element_bytes);
  };
  CHECK(by_sample(128, 1000, 128, 4));
  CHECK(!by_sample(16, 1000, 129, 4));  // long rows
  CHECK(by_sample(16, 1, 128, 4));      // one chunk
  CHECK(by_sample(15, 1, 128, 4));      // few samples
  // Many samples of few neurons: more chunks than there would be work in.
  CHECK(!by_sample(2000, 8, 128, 4));
  CHECK(by_sample(2000, 8, 32, 4));
  CHECK(by_sample(2000, 8, 64, 2));
}

TEST(WhatIsSparse) {
  for (int64_t n : {0, 1, 15, 16, 17, 64, 100, 1000, 1023}) {
    Random random(n);
    const int64_t most = n / SparseInputs::kSparsity;
    for (int64_t count :
         {int64_t{0}, int64_t{1}, most - 1, most, most + 1, n}) {
      if (count < 0 || count > n) continue;
      const Context context("n=", n, " count=", count);
      Floats inputs(3 * n, -0.0f);  // of the second of three samples
      std::set<int32_t> columns;
      while (static_cast<int64_t>(columns.size()) < count) {
        columns.insert(static_cast<int32_t>(random.Below(n)));
      }
      for (int32_t column : columns) inputs[n + column] = random.Float() + 2;
      if (count > 0) inputs[n + *columns.begin()] = kNan;
      for (const Split& split : Splits()) {
        const SparseInputs sparse(inputs.data(), 3, n, split.parallel_for);
        CHECK(sparse.IsSparse(0) && sparse.IsSparse(2));
        CHECK_EQ(sparse.Count(0), int64_t{0});
        CHECK_EQ(sparse.IsSparse(1), count <= most);
        CHECK_EQ(sparse.AllAreSparse(), count <= most);
        if (count > most) continue;
        CHECK_EQ(sparse.Count(1), count);
        CHECK_EQ(Ints(sparse.Columns(1), sparse.Columns(1) + count),
                 Ints(columns.begin(), columns.end()));
        for (int64_t k = 0; k % SparseInputs::kLanes != 0 || k < count; ++k) {
          const float value = sparse.Values(1)[k];
          CHECK_EQ(value, k < count ? inputs[n + sparse.Columns(1)[k]] : 0.0f);
          CHECK(sparse.Columns(1)[k] >= 0 &&
                (count == 0 || sparse.Columns(1)[k] < n));
        }
      }
    }
  }
}

TEST(NanAndInfinityGoWhereDenseWouldPutThem) {
  Random random(5);
  Batch b = RandomBatch(&random, 6, 3, 8, 35, 0.1);
  b.inputs[2 * 35 + 34] = kNan;  // in the last element, past full vectors
  b.inputs[4 * 35] = kInf;
  b.kernel[5 * 35 + 1] = kNan;
  b.bias[3] = -kInf;
  const Floats values = InEveryVariant(
      [&](const auto&... variant) { return Forward(b, true, variant...); });
  const Floats plain = PlainForward<float>(b, true);
  for (int64_t i = 0; i < b.places(); ++i) {
    if (std::isfinite(plain[i])) {
      CHECK_NEAR(values[i], plain[i], 1e-5);
    } else {
      CHECK_EQ(values[i], plain[i]);
    }
  }
}

TEST(ManyUnitsFewIds) {
  Random random(6);
  constexpr int64_t kUnits = 2000000;
  Batch b = {2,
             2,
             kUnits,
             3,
             {0, kUnits - 1, 1234567, kUnits - 1},
             random.Floats(6),
             Floats(kUnits * 3),
             Floats(kUnits),
             Floats(4)};
  for (int64_t id : b.ids) {
    for (int64_t j = 0; j < 3; ++j) b.kernel[id * 3 + j] = random.Float();
    b.bias[id] = random.Float();
  }
  const Floats values = Forward(b, true, GetVectorKernels(), SerialFor);
  const std::vector<double> exact = PlainForward<double>(b, true);
  for (int i = 0; i < 4; ++i) CHECK_NEAR(values[i], exact[i], 1e-6);
}

// ---- The largest values --------------------------------------------------

struct Kept {
  Ints ids;
  Floats values;

  bool operator==(const Kept& other) const {
    return ids == other.ids &&
           std::equal(values.begin(), values.end(), other.values.begin(),
                      other.values.end(),
                      [](float a, float b) { return Same(a, b); });
  }
};
std::ostream& operator<<(std::ostream& out, const Kept& kept) {
  for (size_t i = 0; i < kept.ids.size(); ++i) {
    out << (i > 0 ? " " : "") << kept.ids[i] << ":" << kept.values[i];
  }
  return out;
}

// `forced`: equally many of each sample.
Kept Keep(const ActiveIds& ids, const Floats& values, const Ints& forced,
          int64_t keep, const ParallelFor& parallel_for,
          const VectorKernels& kernels = GetVectorKernels()) {
  Kept kept = {Ints(ids.batch * keep, -77), Floats(ids.batch * keep, kNan)};
  const int64_t of_sample =
      ids.batch == 0 ? 0 : static_cast<int64_t>(forced.size()) / ids.batch;
  KeepLargest(ids, values.data(), forced.data(), of_sample, keep, parallel_for,
              kernels, kept.ids.data(), kept.values.data());
  return kept;
}

// By counting, for each place, the places that come before it.
Kept ExpectedKept(const ActiveIds& ids, const Floats& values,
                  const Ints& forced, int64_t keep) {
  Kept kept;
  for (int64_t sample = 0; sample < ids.batch; ++sample) {
    const int32_t* id = ids.ids + sample * ids.active;
    const float* value = values.data() + sample * ids.active;
    const auto is_forced = [&](int64_t s) {
      const int64_t end = static_cast<int64_t>(forced.size());
      const auto first = forced.begin() + sample * end / ids.batch;
      const auto last = forced.begin() + (sample + 1) * end / ids.batch;
      return std::find(first, last, id[s]) != last;
    };
    const auto before = [&](int64_t a, int64_t b) {
      if (is_forced(a) != is_forced(b)) return is_forced(a);
      if (is_forced(a)) return id[a] < id[b];
      if (std::isnan(value[a]) && std::isnan(value[b])) return id[a] < id[b];
      if (std::isnan(value[a]) || std::isnan(value[b])) {
        return std::isnan(value[a]);
      }
      return value[a] == value[b] ? id[a] < id[b] : value[a] > value[b];
    };
    for (int64_t s = 0; s < ids.active; ++s) {
      if (id[s] == kNoId) continue;
      int64_t rank = 0;
      for (int64_t other = 0; other < ids.active; ++other) {
        rank += id[other] != kNoId && before(other, s);
      }
      if (rank < keep) {
        kept.ids.push_back(id[s]);
        kept.values.push_back(value[s]);
      }
    }
    kept.ids.resize((sample + 1) * keep, kNoId);
    kept.values.resize((sample + 1) * keep, 0.0f);
  }
  return kept;
}

TEST(KeepsTheLargest) {
  Random random(7);
  for (int64_t active : {1, 2, 3, 10, 60}) {
    for (int64_t batch : {0, 1, 8}) {
      for (int kind = 0; kind < 3; ++kind) {
        Batch b = RandomBatch(&random, batch, active, 100, 0,
                              random.Chance(0.5) ? 0.0 : 0.4);
        Floats values = random.Floats(b.places());
        if (kind == 1) {  // ties, and zeros of either sign
          for (float& value : values) value = std::round(2 * value);
        } else if (kind == 2) {
          AddSpecialValues(&random, 0.6, &values);
        }
        for (int64_t keep : {int64_t{0}, int64_t{1}, active / 2, active}) {
          const Context context("active=", active, " batch=", batch,
                                " kind=", kind, " keep=", keep);
          // Some of the sample's own ids, some that it has not, and none.
          Ints forced;
          const int64_t most = random.Chance(0.5) ? 0 : keep;
          for (int64_t f = 0; f < batch * most; ++f) {
            const int64_t place = random.Below(active) + f / most * active;
            forced.push_back(random.Chance(0.2)   ? kNoId
                             : random.Chance(0.2) ? 100
                                                  : b.ids[place]);
          }
          const Kept expected = ExpectedKept(b.view(), values, forced, keep);
          for (const Split& split : Splits()) {
            CHECK_EQ(Keep(b.view(), values, forced, keep, split.parallel_for),
                     expected);
          }
        }
      }
    }
  }
}

TEST(KeepOrderByExample) {
  const Ints ids = {3, 5, 6, 9, -1};
  const auto keep = [&](const Floats& values, int64_t count) {
    return Keep({ids.data(), 1, 5}, values, {}, count, SerialFor);
  };
  CHECK_EQ(
      Keep({ids.data(), 1, 5}, {1, kNan, 3, 4, 99}, {3, -1, 4}, 2, SerialFor),
      (Kept{{3, 5}, {1, kNan}}));
  CHECK_EQ(keep({1, 2, 2, 2, 99}, 2), (Kept{{5, 6}, {2, 2}}));
  CHECK_EQ(keep({kInf, 2, kNan, 7, 99}, 1), (Kept{{6}, {kNan}}));
  CHECK_EQ(keep({kInf, 2, kNan, 7, 99}, 2), (Kept{{3, 6}, {kInf, kNan}}));
  CHECK_EQ(keep({kNan, kNan, kNan, kNan, 0}, 2), (Kept{{3, 5}, {kNan, kNan}}));
  CHECK_EQ(keep({0.0f, -0.0f, 0.0f, -1, 99}, 2), (Kept{{3, 5}, {0.0f, -0.0f}}));
  CHECK_EQ(keep({-kInf, -2, -3, -4, 99}, 5),
           (Kept{{3, 5, 6, 9, -1}, {-kInf, -2, -3, -4, 0}}));
}

TEST(KeepGoesByIdAndWritesInTheOldOrder) {
  const Ints ids = {9, -1, 5, 6, 3};
  CHECK_EQ(Keep({ids.data(), 1, 5}, {2, 99, 2, 1, 2}, {}, 2, SerialFor),
           (Kept{{5, 3}, {2, 2}}));
}

// ---- Gradients -----------------------------------------------------------

Floats GradInput(const Batch& b, const VectorKernels& kernels,
                 const ParallelFor& parallel_for) {
  Floats result(b.batch * b.input_dim, kNan);
  ActiveMatmulGradInput(b.view(), b.Groups(), b.gradient.data(),
                        b.kernel.data(), b.input_dim, parallel_for, kernels,
                        result.data());
  Floats by_sample(b.batch * b.input_dim, kNan);
  if (ActiveMatmulGradInputBySample(b.view(), b.units, b.gradient.data(),
                                    b.kernel.data(), b.input_dim, parallel_for,
                                    kernels, by_sample.data())) {
    CHECK_EQ(by_sample, result);
  }
  return result;
}

TEST(WhoseInputGradientIsAddedUpBySample) {
  Random random(20);
  const auto by_sample = [](const Batch& b) {
    Floats result(b.batch * b.input_dim);
    return ActiveMatmulGradInputBySample(
        b.view(), b.units, b.gradient.data(), b.kernel.data(), b.input_dim,
        SerialFor, GetVectorKernels(), result.data());
  };
  Batch b = RandomBatch(&random, 10, 100, 1048, 2000, 0.0);
  CHECK(by_sample(b));  // 1,000 rows of 2,000 elements
  b.ids[99] = kNoId;
  CHECK(by_sample(b));
  b.ids[50] = kNoId;  // an unused place that is not the last
  CHECK(!by_sample(b));
  CHECK(!by_sample(RandomBatch(&random, 11, 100, 1049, 2000, 0.0)));
}

// The gradient rows, and behind them the gradient of the biases.
Floats GradKernel(const Batch& b, const VectorKernels& kernels,
                  const ParallelFor& parallel_for) {
  const NeuronSamples groups = b.Groups();
  const int64_t neurons = static_cast<int64_t>(groups.neurons.size());
  Floats rows(neurons * b.input_dim, kNan), bias(neurons, kNan);
  ActiveMatmulGradKernel(b.view(), groups, b.gradient.data(), b.inputs.data(),
                         b.input_dim, parallel_for, kernels, rows.data());
  ActiveMatmulGradBias(groups, b.gradient.data(), parallel_for, bias.data());
  rows.insert(rows.end(), bias.begin(), bias.end());
  return rows;
}

template <typename T>
std::vector<T> PlainGradInput(const Batch& b) {
  std::vector<T> result(b.batch * b.input_dim);
  for (int64_t i = 0; i < b.places(); ++i) {
    if (b.ids[i] == kNoId) continue;
    for (int64_t j = 0; j < b.input_dim; ++j) {
      result[i / b.active * b.input_dim + j] +=
          static_cast<T>(b.gradient[i]) *
          static_cast<T>(b.kernel[b.ids[i] * b.input_dim + j]);
    }
  }
  return result;
}

// A dense gradient, of which only the chosen neurons' rows are returned.
template <typename T>
std::vector<T> PlainGradKernel(const Batch& b) {
  std::vector<T> dense(b.units * b.input_dim), dense_bias(b.units);
  std::set<int32_t> chosen;
  for (int64_t i = 0; i < b.places(); ++i) {
    const int64_t neuron = b.ids[i];
    if (neuron == kNoId) continue;
    chosen.insert(b.ids[i]);
    for (int64_t j = 0; j < b.input_dim; ++j) {
      dense[neuron * b.input_dim + j] +=
          static_cast<T>(b.gradient[i]) *
          static_cast<T>(b.inputs[i / b.active * b.input_dim + j]);
    }
    dense_bias[neuron] += b.gradient[i];
  }
  std::vector<T> result;
  for (int64_t neuron : chosen) {
    result.insert(result.end(), dense.begin() + neuron * b.input_dim,
                  dense.begin() + (neuron + 1) * b.input_dim);
  }
  for (int64_t neuron : chosen) result.push_back(dense_bias[neuron]);
  return result;
}

void CheckGradient(const Floats& values, const Floats& plain,
                   const std::vector<double>& exact) {
  CHECK_EQ(values.size(), exact.size());
  if (values.size() != exact.size()) return;
  for (size_t i = 0; i < exact.size(); ++i) {
    CHECK_NEAR(values[i], exact[i], 1e-4);
  }
  if (exact.size() >= 50) {
    CHECK_LE(Error(values, exact), 2 * Error(plain, exact));
  }
}

TEST(InputGradientIsAsExactAsAPlainLoop) {
  ForEachBatch(8, [](const Batch& b) {
    const Floats values = InEveryVariant(
        [&](const auto&... variant) { return GradInput(b, variant...); });
    CheckGradient(values, PlainGradInput<float>(b), PlainGradInput<double>(b));
  });
}

TEST(KernelGradientIsAsExactAsAPlainLoop) {
  ForEachBatch(9, [](const Batch& b) {
    const Floats values = InEveryVariant(
        [&](const auto&... variant) { return GradKernel(b, variant...); });
    CheckGradient(values, PlainGradKernel<float>(b),
                  PlainGradKernel<double>(b));
  });
}

// At the wanted columns the same bits as everywhere, elsewhere 0.
TEST(InputGradientAtAFewColumns) {
  Random random(13);
  for (const Shape& s : Shapes()) {
    for (int64_t any : {0, 1, 3, 20}) {
      if (any > s.input_dim) continue;
      const Context context("batch=", s.batch, " active=", s.active,
                            " units=", s.units, " input_dim=", s.input_dim,
                            " any=", any);
      const Batch b =
          RandomBatch(&random, s.batch, s.active, s.units, s.input_dim, 0.2);
      const Floats everywhere = GradInput(b, GetVectorKernels(), SerialFor);
      Ints wanted;
      Floats expected(everywhere.size());
      for (int64_t i = 0; i < b.batch * any; ++i) {
        wanted.push_back(random.Chance(0.1) ? kNoId
                                            : random.Below(b.input_dim));
        if (wanted.back() == kNoId) continue;
        const int64_t at = i / any * b.input_dim + wanted.back();
        expected[at] = everywhere[at];
      }
      const Floats at = InEveryVariant(
          [&](const VectorKernels& kernels, const ParallelFor& split) {
            Floats result(b.batch * b.input_dim, kNan);
            ActiveMatmulGradInputAt(b.view(), b.Groups(), b.gradient.data(),
                                    b.kernel.data(), b.input_dim,
                                    {wanted.data(), b.batch, any}, split,
                                    kernels, result.data());
            return result;
          });
      CHECK_EQ(at, expected);
    }
  }
}

// Wide enough for several slabs of columns, for the work to be cut within a
// slab, and for a kernel that no cache holds.
TEST(GradientsOfWideInputs) {
  Random random(11);
  for (const Shape& s : std::vector<Shape>{
           {3, 5, 8, 3000}, {140, 2, 90, 200}, {2, 90, 100, 25000}}) {
    const Context context("input_dim=", s.input_dim);
    const Batch b =
        RandomBatch(&random, s.batch, s.active, s.units, s.input_dim, 0.1);
    CheckGradient(InEveryVariant([&](const auto&... variant) {
                    return GradInput(b, variant...);
                  }),
                  PlainGradInput<float>(b), PlainGradInput<double>(b));
    CheckGradient(InEveryVariant([&](const auto&... variant) {
                    return GradKernel(b, variant...);
                  }),
                  PlainGradKernel<float>(b), PlainGradKernel<double>(b));
  }
}

// The way of working is chosen by the number of rows; the result is the same.
TEST(InputGradientAddsInTheOrderOfTheNeurons) {
  Random random(12);
  for (int64_t input_dim : {40, 30000}) {
    Batch b = RandomBatch(&random, 2, 80, 100, input_dim, 0.1);
    for (int64_t i = 0; i < 40; ++i) {  // one sample's ids in falling order
      std::swap(b.ids[i], b.ids[79 - i]);
      std::swap(b.gradient[i], b.gradient[79 - i]);
    }
    Floats expected(b.batch * input_dim);
    for (int32_t neuron = 0; neuron < b.units; ++neuron) {
      for (int64_t i = 0; i < b.places(); ++i) {
        if (b.ids[i] != neuron) continue;
        for (int64_t j = 0; j < input_dim; ++j) {
          float& sum = expected[i / b.active * input_dim + j];
          sum = std::fma(b.gradient[i], b.kernel[neuron * input_dim + j], sum);
        }
      }
    }
    CHECK_EQ(InEveryVariant([&](const auto&... variant) {
               return GradInput(b, variant...);
             }),
             expected);
  }
}

// The kernel's gradient has the same bits whichever way it is worked out.
TEST(KernelGradientOfSparseInputsIsThatOfDenseOnes) {
  Random random(14);
  for (int64_t input_dim : {33, 200}) {
    Batch b = RandomBatch(&random, 40, 6, 30, input_dim, 0.1, 1.0);
    const Floats sparse = GradKernel(b, GetVectorKernels(), SerialFor);
    // One more sample, of no zeros and no gradient, makes the batch dense.
    ++b.batch;
    b.ids.insert(b.ids.end(), b.ids.begin(), b.ids.begin() + b.active);
    b.gradient.insert(b.gradient.end(), b.active, 0.0f);
    b.inputs.insert(b.inputs.end(), input_dim, 1.0f);
    CHECK_EQ(GradKernel(b, GetVectorKernels(), SerialFor), sparse);
  }
}

TEST(NanGradientStaysInItsSampleAndItsNeuron) {
  Random random(10);
  Batch b = RandomBatch(&random, 5, 3, 10, 21, 0.0);
  b.gradient[2 * 3 + 1] = kNan;
  const Floats inputs = InEveryVariant(
      [&](const auto&... variant) { return GradInput(b, variant...); });
  for (int64_t i = 0; i < 5 * 21; ++i) {
    CHECK_EQ(std::isnan(inputs[i]), i / 21 == 2);
  }
  const Floats kernel = InEveryVariant(
      [&](const auto&... variant) { return GradKernel(b, variant...); });
  const NeuronSamples groups = b.Groups();
  const size_t neurons = groups.neurons.size();
  for (size_t g = 0; g < neurons; ++g) {
    const bool spoilt = groups.neurons[g] == b.ids[2 * 3 + 1];
    for (size_t j = 0; j < 21; ++j) {
      CHECK_EQ(std::isnan(kernel[g * 21 + j]), spoilt);
    }
    CHECK_EQ(std::isnan(kernel[neurons * 21 + g]), spoilt);
  }
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
