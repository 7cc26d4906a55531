#include "custom_ops/core/probe_sequence.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "custom_ops/core/hash_codes.h"
#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace testing {
namespace {

struct Probe {
  float cost;
  int32_t table;
  int32_t mask;
  int32_t bucket;

  bool operator<(const Probe& other) const {
    return std::tie(cost, table, mask) <
           std::tie(other.cost, other.table, other.mask);
  }
};

// The documented sequence, by sorting all subsets of the first `positions`
// positions.
std::vector<Probe> SortedProbes(const std::vector<float>& margins, int tables,
                                int bits, int positions) {
  std::vector<int32_t> codes(tables);
  HashCodes(margins.data(), 1, tables, bits, codes.data());
  std::vector<Probe> initial, others;
  for (int table = 0; table < tables; ++table) {
    std::vector<std::pair<float, int>> order;  // squared margin, bit
    for (int bit = 0; bit < bits; ++bit) {
      const float margin = margins[table * bits + bit];
      float square = margin * margin;
      if (!(square < std::numeric_limits<float>::max())) {
        square = std::numeric_limits<float>::max();
      } else if (square < std::numeric_limits<float>::min()) {
        square = 0.0f;
      }
      order.emplace_back(square, bit);
    }
    std::sort(order.begin(), order.end());
    for (int32_t mask = 0; mask < 1 << positions; ++mask) {
      float cost = 0.0f;
      int32_t code = codes[table];
      for (int position = 0; position < positions; ++position) {
        if ((mask >> position & 1) == 0) continue;
        cost += order[position].first;
        code ^= 1 << order[position].second;
      }
      (mask == 0 ? initial : others)
          .push_back({cost, table, mask, table * (1 << bits) + code});
    }
  }
  std::sort(others.begin(), others.end());
  initial.insert(initial.end(), others.begin(), others.end());
  return initial;
}

struct Sequence {
  std::vector<int32_t> buckets;
  std::vector<float> costs;
};

Sequence Run(ProbeSequencer* sequencer, const std::vector<float>& margins,
             int64_t count) {
  Sequence sequence = {std::vector<int32_t>(count, -1),
                       std::vector<float>(count, kNan)};
  sequencer->Run(margins.data(), count, sequence.buckets.data(),
                 sequence.costs.data());
  return sequence;
}

void CheckSequence(ProbeSequencer* sequencer, const std::vector<float>& margins,
                   int tables, int bits, int64_t count, int positions) {
  const Context context("tables=", tables, " bits=", bits, " count=", count);
  std::vector<int32_t> buckets;
  std::vector<float> costs;
  std::vector<Probe> probes = SortedProbes(margins, tables, bits, positions);
  probes.resize(count);
  std::sort(probes.begin() + tables, probes.end(),
            [](const Probe& a, const Probe& b) {
              return std::tie(a.table, a.mask) < std::tie(b.table, b.mask);
            });
  for (const Probe& probe : probes) {
    buckets.push_back(probe.bucket);
    costs.push_back(probe.cost);
  }
  const Sequence sequence = Run(sequencer, margins, count);
  CHECK_EQ(sequence.buckets, buckets);
  CHECK_EQ(sequence.costs, costs);
}

// For several shapes and counts, on the samples that `make` gives; one
// sequencer serves several samples.
template <typename Make>
void CheckShapes(Make make) {
  for (int tables : {1, 2, 3, 7}) {
    for (int bits : {1, 2, 3, 5, 8}) {
      ProbeSequencer sequencer(bits, tables, GetVectorKernels());
      const int64_t most = static_cast<int64_t>(tables) << bits;
      for (int64_t count : {int64_t{tables}, tables + int64_t{1},
                            tables * int64_t{2}, most / 2 + 1, most}) {
        if (count < tables || count > most) continue;
        CheckSequence(&sequencer, make(tables * bits), tables, bits, count,
                      bits);
      }
    }
  }
}

TEST(RandomMargins) {
  Random random(1);
  for (int repeat = 0; repeat < 5; ++repeat) {
    CheckShapes([&](int64_t n) { return random.Floats(n); });
  }
}

TEST(ExactTies) {
  Random random(2);
  for (int repeat = 0; repeat < 5; ++repeat) {
    CheckShapes([&](int64_t n) {
      std::vector<float> margins(n);
      for (float& m : margins) m = static_cast<float>(random.Below(5)) - 2.0f;
      return margins;
    });
  }
}

TEST(TiesByRounding) {
  // Sums that only float32 makes equal, and only in the documented order.
  Random random(3);
  const float values[] = {1.0f, 1e-4f, 3e-4f, -1.0f, 4096.0f, -2e-4f};
  for (int repeat = 0; repeat < 5; ++repeat) {
    CheckShapes([&](int64_t n) {
      std::vector<float> margins(n);
      for (float& m : margins) m = values[random.Below(6)];
      return margins;
    });
  }
}

TEST(AllMarginsEqual) {
  for (float value : {0.0f, -0.0f, 1.0f, -1.0f, kNan, kInf, 1e19f, 1e30f}) {
    CheckShapes([&](int64_t n) { return std::vector<float>(n, value); });
  }
}

TEST(SpecialMargins) {
  Random random(4);
  for (int repeat = 0; repeat < 5; ++repeat) {
    CheckShapes([&](int64_t n) {
      std::vector<float> margins = random.Floats(n);
      AddSpecialValues(&random, 0.4, &margins);
      return margins;
    });
  }
}

TEST(SubnormalsCountAsZeroInEveryThread) {
  // Margins whose squares are about the smallest normal number, 2^-126, and
  // subnormal ones, in threads that flush subnormals and in others.
  Random random(10);
  const float edge = std::ldexp(1.0f, -63);
  const float values[] = {
      edge,
      std::nextafter(edge, 0.0f),
      std::nextafter(edge, 1.0f),
      1e-20f,
      1e-30f,
      std::numeric_limits<float>::min(),
      std::nextafter(std::numeric_limits<float>::min(), 0.0f),
      std::numeric_limits<float>::denorm_min()};
  ProbeSequencer sequencer(6, 3, GetVectorKernels());
  for (int repeat = 0; repeat < 100; ++repeat) {
    std::vector<float> margins(18);
    for (float& m : margins) {
      m = random.Chance(0.5) ? values[random.Below(8)]
                             : -values[random.Below(8)];
    }
    CheckSequence(&sequencer, margins, 3, 6, 3 << 6, 6);
    const Sequence sequence = Run(&sequencer, margins, 3 << 6);
    const FlushSubnormals flush;
    const Sequence flushed = Run(&sequencer, margins, 3 << 6);
    CHECK_EQ(flushed.buckets, sequence.buckets);
    CHECK_EQ(flushed.costs, sequence.costs);
  }
}

TEST(ManyBits) {
  Random random(5);
  for (int bits : {13, kMaxBits}) {
    ProbeSequencer sequencer(bits, 1, GetVectorKernels());
    CheckSequence(&sequencer, random.Floats(bits), 1, bits, 3000, bits);
  }
}

TEST(ManyTablesOfManyBits) {
  // Bucket numbers up to nearly 2^31. Of one table's subsets the five cheapest
  // use only its first five positions.
  constexpr int kTables = 2047;
  Random random(6);
  ProbeSequencer sequencer(kMaxBits, kTables, GetVectorKernels());
  CheckSequence(&sequencer, random.Floats(kTables * kMaxBits), kTables,
                kMaxBits, kTables + 5, 5);
}

TEST(WholeSequenceIsEveryBucketOnce) {
  Random random(7);
  ProbeSequencer sequencer(10, 3, GetVectorKernels());
  const Sequence sequence = Run(&sequencer, random.Floats(30), 3 << 10);
  const std::set<int32_t> buckets(sequence.buckets.begin(),
                                  sequence.buckets.end());
  CHECK_EQ(buckets.size(), size_t{3} << 10);
  CHECK_EQ(*buckets.begin(), 0);
  CHECK_EQ(*buckets.rbegin(), (3 << 10) - 1);
}

TEST(MoreProbesHoldTheFewer) {
  Random random(8);
  const std::vector<float> margins = random.Floats(24);
  ProbeSequencer sequencer(6, 4, GetVectorKernels());
  std::set<int32_t> fewer;
  for (int64_t count : {4, 5, 40, 255, 256}) {
    const Sequence some = Run(&sequencer, margins, count);
    const std::set<int32_t> buckets(some.buckets.begin(), some.buckets.end());
    CHECK_EQ(buckets.size(), static_cast<size_t>(count));
    CHECK(std::includes(buckets.begin(), buckets.end(), fewer.begin(),
                        fewer.end()));
    fewer = buckets;
  }
}

TEST(EarlierSamplesChangeNothing) {
  // The limit of costs that is tried first comes from the sample before.
  Random random(11);
  ProbeSequencer used(8, 5, GetVectorKernels());
  for (float scale : {1.0f, 1e-18f, 1e18f, 1e-3f, 0.0f, 1e3f, 1e30f, 1.0f}) {
    std::vector<float> margins = random.Floats(40);
    for (float& margin : margins) margin *= scale;
    ProbeSequencer fresh(8, 5, GetVectorKernels());
    for (int64_t count : {100, 5, 900}) {
      const Sequence expected = Run(&fresh, margins, count);
      const Sequence sequence = Run(&used, margins, count);
      CHECK_EQ(sequence.buckets, expected.buckets);
      CHECK_EQ(sequence.costs, expected.costs);
    }
  }
}

TEST(WeightFallsWithCost) {
  CHECK_EQ(ProbeWeight(0.0f), 65536);
  CHECK_EQ(ProbeWeight(1.0f), 32768);
  CHECK_EQ(ProbeWeight(2.0f), 21845);  // 21845.33
  CHECK_EQ(ProbeWeight(65535.0f), 1);
  CHECK_EQ(ProbeWeight(1e9f), 1);
  CHECK_EQ(ProbeWeight(std::numeric_limits<float>::max()), 1);
  CHECK_EQ(ProbeWeight(kInf), 1);
  Random random(9);
  int32_t last = 65536;
  for (float cost = 0.0f; cost < 1e6f;
       cost += 0.3f * (cost + 0.01f) * std::abs(random.Float())) {
    const int32_t weight = ProbeWeight(cost);
    CHECK(weight <= last);
    const float quotient = 65536.0f / (1.0f + cost);
    CHECK_EQ(weight, std::max(1, static_cast<int32_t>(std::floor(quotient))));
    last = weight;
  }
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
