#include "custom_ops/core/digit_probes.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace testing {
namespace {

struct Probe {
  float cost;
  int32_t table;
  int64_t places;
  int32_t bucket;
};

// The documented choice, by sorting all codes.
std::vector<Probe> AllProbes(const DigitShape& shape,
                             const std::vector<float>& scores, int64_t count) {
  const int values = shape.values();
  const int64_t codes = shape.codes();
  std::vector<Probe> own, others;
  for (int32_t table = 0; table < shape.tables; ++table) {
    std::vector<std::vector<std::pair<float, int>>> digits;
    for (int f = 0; f < shape.functions; ++f) {
      const float* score =
          scores.data() + (table * shape.functions + f) * shape.scores;
      std::vector<float> all(score, score + shape.scores);
      for (int v = 0; shape.negatives && v < shape.scores; ++v) {
        all.push_back(-score[v]);
      }
      float largest = -kInf;
      for (float s : all) largest = s > largest ? s : largest;
      std::vector<std::pair<float, int>> sorted;
      for (int v = 0; v < values; ++v) {
        const float gap = largest - all[v];
        float cost = gap * gap;
        if (!(cost < 1e9f)) cost = 1e9f;
        if (cost < std::numeric_limits<float>::min()) cost = 0.0f;
        sorted.emplace_back(cost, v);
      }
      std::sort(sorted.begin(), sorted.end());
      sorted[0].first = 0.0f;
      digits.push_back(sorted);
    }
    for (int64_t places = 0; places < codes; ++places) {
      float cost = 0.0f;
      int64_t code = 0, rest = codes;
      for (int f = 0; f < shape.functions; ++f) {
        rest /= values;
        const auto& [digit_cost, value] = digits[f][places / rest % values];
        cost += digit_cost;
        code = code * values + value;
      }
      (places == 0 ? own : others)
          .push_back({cost, table, places,
                      static_cast<int32_t>(table * codes + code)});
    }
  }
  std::sort(others.begin(), others.end(), [](const Probe& a, const Probe& b) {
    return std::tie(a.cost, a.table, a.places) <
           std::tie(b.cost, b.table, b.places);
  });
  others.resize(count - shape.tables);
  std::sort(others.begin(), others.end(), [](const Probe& a, const Probe& b) {
    return std::tie(a.table, a.places) < std::tie(b.table, b.places);
  });
  own.insert(own.end(), others.begin(), others.end());
  return own;
}

// For several shapes and counts, on the samples that `make` gives; one prober
// serves several samples.
template <typename Make>
void CheckShapes(Make make) {
  const DigitShape shapes[] = {
      {1, 1, 1, false}, {3, 1, 5, false}, {2, 2, 4, true}, {3, 3, 3, false},
      {2, 4, 1, true},  {1, 2, 20, true}, {4, 2, 7, false}};
  for (const SimdLevel level : Levels()) {
    for (const DigitShape& shape : shapes) {
      DigitProber prober(shape, GetVectorKernels(level));
      const int64_t most = shape.tables * shape.codes();
      for (int64_t count :
           {int64_t{shape.tables}, shape.tables + int64_t{1},
            shape.tables * int64_t{3}, most / 3, most - 1, most}) {
        if (count < shape.tables || count > most) continue;
        const Context context("level=", static_cast<int>(level),
                              " tables=", shape.tables,
                              " functions=", shape.functions,
                              " values=", shape.values(), " count=", count);
        const std::vector<float> scores =
            make(shape.tables * shape.functions * shape.scores);
        std::vector<int32_t> expected_buckets, buckets(count, -1);
        std::vector<float> expected_costs, costs(count, kNan);
        for (const Probe& probe : AllProbes(shape, scores, count)) {
          expected_buckets.push_back(probe.bucket);
          expected_costs.push_back(probe.cost);
        }
        prober.Run(scores.data(), count, buckets.data(), costs.data());
        CHECK_EQ(buckets, expected_buckets);
        CHECK_EQ(costs, expected_costs);
      }
    }
  }
}

TEST(RandomScores) {
  Random random(1);
  for (int repeat = 0; repeat < 5; ++repeat) {
    CheckShapes([&](int64_t n) { return random.Floats(n); });
  }
}

TEST(ExactTies) {
  Random random(2);
  for (int repeat = 0; repeat < 5; ++repeat) {
    CheckShapes([&](int64_t n) {
      std::vector<float> scores(n);
      for (float& s : scores) s = static_cast<float>(random.Below(4)) - 1.0f;
      return scores;
    });
  }
}

TEST(TiesByRounding) {
  Random random(3);
  const float values[] = {1.0f, 1e-4f, 3e-4f, -1.0f, 4096.0f, 4095.0f};
  for (int repeat = 0; repeat < 5; ++repeat) {
    CheckShapes([&](int64_t n) {
      std::vector<float> scores(n);
      for (float& s : scores) s = values[random.Below(6)];
      return scores;
    });
  }
}

TEST(AllScoresEqual) {
  for (float value : {0.0f, -0.0f, 1.0f, -1.0f, kNan, kInf, -kInf, 1e19f}) {
    CheckShapes([&](int64_t n) { return std::vector<float>(n, value); });
  }
}

TEST(SpecialScores) {
  Random random(4);
  for (int repeat = 0; repeat < 5; ++repeat) {
    CheckShapes([&](int64_t n) {
      std::vector<float> scores = random.Floats(n);
      AddSpecialValues(&random, 0.4, &scores);
      return scores;
    });
  }
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
