#include "custom_ops/core/active_softmax.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "custom_ops/core/active_set.h"
#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace testing {
namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;
using Doubles = std::vector<double>;
// std::vector<bool> has no array.
using Flags = std::vector<unsigned char>;

struct Batch {
  int64_t batch, active, num_labels, units;
  Floats values;
  Ints ids;
  bool same_ids;
  Ints labels;
  Flags drawn;  // empty: none
  bool same_drawn;
  double label_smoothing;

  ActiveLogits view() const {
    return {
        values.data(),
        ids.data(),
        same_ids,
        labels.data(),
        drawn.empty() ? nullptr : reinterpret_cast<const bool*>(drawn.data()),
        same_drawn,
        batch,
        active,
        num_labels,
        units,
        label_smoothing};
  }
};

// A random subset of [0, units), ascending.
Ints Subset(Random* random, int64_t count, int64_t units) {
  std::set<int32_t> chosen;
  while (static_cast<int64_t>(chosen.size()) < count) {
    chosen.insert(static_cast<int32_t>(random->Below(units)));
  }
  return {chosen.begin(), chosen.end()};
}

Batch RandomBatch(Random* random, int64_t batch, int64_t active, int64_t units,
                  bool same_ids, bool draws, double label_smoothing) {
  constexpr int64_t kLabels = 4;
  Batch b = {batch, active, kLabels, units,          {}, {}, same_ids,
             {},    {},     false,   label_smoothing};
  for (int64_t i = 0; i < (same_ids ? 1 : batch); ++i) {
    const int64_t used =
        same_ids || random->Chance(0.5) ? active : random->Below(active + 1);
    Ints row = Subset(random, used, units);
    row.resize(active, kNoId);
    b.ids.insert(b.ids.end(), row.begin(), row.end());
  }
  b.values = random->Floats(batch * active);
  for (float& value : b.values) value *= 10.0f;
  for (int64_t i = 0; i < batch; ++i) {
    Ints row = Subset(random, 1 + random->Below(kLabels), units);
    const int32_t* ids = b.ids.data() + (same_ids ? 0 : i * active);
    for (int32_t& label : row) {  // most of them active
      const int32_t id = active > 0 ? ids[random->Below(active)] : kNoId;
      const bool is_new = std::find(row.begin(), row.end(), id) == row.end();
      if (id != kNoId && is_new && random->Chance(0.8)) label = id;
    }
    row.insert(row.begin(), kLabels - row.size(), kNoId);
    std::rotate(row.begin(), row.begin() + random->Below(kLabels), row.end());
    b.labels.insert(b.labels.end(), row.begin(), row.end());
  }
  if (draws) {
    b.same_drawn = same_ids;
    for (size_t i = 0; i < b.ids.size(); ++i) {
      b.drawn.push_back(random->Chance(0.4));
    }
  }
  return b;
}

// The losses, and behind them the gradient.
Floats Compute(const Batch& b, const Floats& upstream,
               const VectorKernels& vector_kernels,
               const ParallelFor& parallel_for) {
  Floats largest(b.batch), totals(b.batch);
  Floats result(b.batch * (1 + b.active), 7.0f);
  CHECK_OK(ActiveSoftmaxCrossentropy(b.view(), parallel_for, vector_kernels,
                                     result.data(), largest.data(),
                                     totals.data()));
  ActiveSoftmaxCrossentropyGrad(b.view(), upstream.data(), largest.data(),
                                totals.data(),
                                /*softmax_only=*/false, parallel_for,
                                vector_kernels, result.data() + b.batch);
  return result;
}

// One sample, class by class, in double: its loss, and the gradient in a row.
double Exact(const Batch& b, int64_t sample, double* gradient) {
  const float* z = b.values.data() + sample * b.active;
  const int32_t* ids = b.ids.data() + (b.same_ids ? 0 : sample * b.active);
  std::set<int32_t> labels;
  for (int64_t i = 0; i < b.num_labels; ++i) {
    const int32_t label = b.labels[sample * b.num_labels + i];
    if (label != kNoId) labels.insert(label);
  }
  const double shares = 1.0 / static_cast<double>(labels.size());
  Doubles weights, logits, targets;
  double least = kInf, number_drawn = 0.0;
  for (int64_t i = 0; i < b.active && ids[i] != kNoId; ++i) {
    const bool is_label = labels.erase(ids[i]) > 0;
    const int64_t place = b.same_drawn ? i : sample * b.active + i;
    const bool is_drawn = !b.drawn.empty() && b.drawn[place] && !is_label;
    weights.push_back(is_drawn ? 0.0 : 1.0);
    number_drawn += is_drawn ? 1.0 : 0.0;
    logits.push_back(z[i]);
    targets.push_back(is_label ? shares : 0.0);
    least = std::min(least, logits.back());
  }
  const size_t used = logits.size();
  if (used == 0) return std::log(static_cast<double>(b.units));
  for (size_t i = 0; i < labels.size(); ++i) {
    weights.push_back(1.0);
    logits.push_back(least);
    targets.push_back(shares);
  }
  const double certain = static_cast<double>(logits.size()) - number_drawn;
  double number = 0.0, sum = 0.0, loss = 0.0;
  const double most = *std::max_element(logits.begin(), logits.end());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (weights[i] == 0.0) {
      weights[i] = (static_cast<double>(b.units) - certain) / number_drawn;
    }
    number += weights[i];
    sum += weights[i] * std::exp(logits[i] - most);
  }
  const double s = b.label_smoothing;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double target = (1.0 - s) * targets[i] + s * weights[i] / number;
    loss -= target * (logits[i] - most);
    if (i < used) {
      gradient[i] = weights[i] * std::exp(logits[i] - most) / sum - target;
    }
  }
  return loss + std::log(sum);
}

TEST(EqualsTheDefinition) {
  Random random(1);
  for (int64_t active : {0, 1, 5, 16, 37, 300}) {
    for (bool same_ids : {false, true}) {
      for (bool draws : {false, true}) {
        for (double smoothing : {0.0, 0.3}) {
          const Context context("active=", active, " same_ids=", same_ids,
                                " draws=", draws, " smoothing=", smoothing);
          const Batch b =
              RandomBatch(&random, 9, active, 400, same_ids, draws, smoothing);
          const Floats upstream = random.Floats(b.batch);
          const Floats result = InEveryVariant(
              [&](const VectorKernels& kernels, const ParallelFor& parallel) {
                return Compute(b, upstream, kernels, parallel);
              });
          Doubles gradient(b.batch * active, 0.0);
          for (int64_t i = 0; i < b.batch; ++i) {
            double* row = gradient.data() + i * active;
            CHECK_NEAR(result[i], Exact(b, i, row), 1e-5);
            for (int64_t j = 0; j < active; ++j) {
              CHECK_NEAR(result[b.batch + i * active + j], upstream[i] * row[j],
                         1e-6);
            }
          }
        }
      }
    }
  }
}

TEST(SpecialValuesAndUnusedPlaces) {
  Random random(2);
  for (bool draws : {false, true}) {
    Batch b = RandomBatch(&random, 40, 21, 60, false, draws, 0.0);
    AddSpecialValues(&random, 0.03, &b.values);
    for (size_t i = 0; i < b.values.size(); ++i) {
      if (b.ids[i] == kNoId) b.values[i] = kNan;  // must not matter
    }
    const Floats upstream = random.Floats(b.batch);
    const Floats result = InEveryVariant(
        [&](const VectorKernels& kernels, const ParallelFor& parallel) {
          return Compute(b, upstream, kernels, parallel);
        });
    for (int64_t i = 0; i < b.batch; ++i) {
      const Context context("sample ", i);
      bool is_bad = false;
      for (int64_t j = i * b.active; j < (i + 1) * b.active; ++j) {
        const bool used = b.ids[j] != kNoId;
        is_bad |= used && (std::isnan(b.values[j]) || b.values[j] == kInf);
        if (!used) CHECK_EQ(result[b.batch + j], 0.0f);
      }
      CHECK_EQ(std::isnan(result[i]), is_bad);
      for (int64_t j = i * b.active; j < (i + 1) * b.active; ++j) {
        if (b.ids[j] == kNoId) continue;
        CHECK_EQ(std::isnan(result[b.batch + j]), is_bad);
      }
    }
  }
}

TEST(RepeatedLabelsHaveLargerShares) {
  const Batch b = {1,
                   3,
                   4,
                   10,
                   {1.0f, 2.0f, 3.0f},
                   {2, 4, 6},
                   false,
                   {2, 2, 6, -1},
                   {1, 1, 1},
                   false,
                   0.0};
  const Floats result =
      Compute(b, {1.0f}, GetVectorKernels(SimdLevel::kScalar), SerialFor);
  // Drawn is the class 4 alone, which stands for 8.
  const double total = std::exp(1.0) + 8 * std::exp(2.0) + std::exp(3.0);
  CHECK_NEAR(result[0], std::log(total) - (1.0 + 1.0 + 3.0) / 3, 1e-6);
  CHECK_NEAR(result[1], std::exp(1.0) / total - 2.0 / 3, 1e-6);
  CHECK_NEAR(result[2], 8 * std::exp(2.0) / total, 1e-6);
  CHECK_NEAR(result[3], std::exp(3.0) / total - 1.0 / 3, 1e-6);
}

TEST(RefusesBadInput) {
  Random random(3);
  const Batch good = RandomBatch(&random, 6, 5, 20, false, false, 0.0);
  const auto refused = [](const Batch& b, const std::string& part) {
    for (const Split& split : Splits()) {
      Floats out(3 * b.batch);
      CHECK_ERROR(ActiveSoftmaxCrossentropy(b.view(), split.parallel_for,
                                            GetVectorKernels(), out.data(),
                                            out.data() + b.batch,
                                            out.data() + 2 * b.batch),
                  part);
    }
  };
  for (const Ints& row : std::vector<Ints>{{1, 1, 2, 3, 4},
                                           {2, 1, 3, 4, 5},
                                           {-1, 1, 2, 3, 4},
                                           {1, 2, 3, -1, 4},
                                           {-2, 1, 2, 3, 4},
                                           {1, 2, 3, 4, -2}}) {
    Batch b = good;
    std::copy(row.begin(), row.end(), b.ids.begin() + 3 * 5);
    refused(b, "`ids` must ascend");
    b.ids = row;
    b.same_ids = true;
    refused(b, "`ids` must ascend");
  }
  Batch b = good;
  std::fill_n(b.labels.begin() + 4, 4, kNoId);
  std::fill_n(b.labels.begin() + 16, 4, kNoId);
  refused(b, "samples of the batch at [1 4]");
  b.num_labels = 0;
  refused(b, "samples of the batch at [0 1 2 3 4 5]");
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
