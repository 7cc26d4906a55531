#include "custom_ops/core/sign_sketch.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "custom_ops/core/tests/bfloat16s.h"
#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace {

using namespace testing;

std::vector<float> Signs(Random* random, int64_t n) {
  std::vector<float> signs(n);
  for (float& sign : signs) sign = random->Chance(0.5) ? 1.0f : -1.0f;
  return signs;
}

// H D3 H D2 H D1 x / features, by the definition, in double.
std::vector<double> Rotated(const std::vector<float>& signs, int64_t features,
                            std::vector<double> x) {
  x.resize(features);
  for (int d = 0; d < 3; ++d) {
    std::vector<double> y(features);
    for (int64_t i = 0; i < features; ++i) {
      for (int64_t j = 0; j < features; ++j) {
        const double sign = __builtin_parityll(i & j) ? -1.0 : 1.0;
        y[i] += sign * signs[d * features + j] * x[j];
      }
    }
    x = y;
  }
  for (double& value : x) value /= static_cast<double>(features);
  return x;
}

TEST(RotationByTheDefinition) {
  Random random(1);
  for (const auto& [dim, features] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 16}, {16, 16}, {21, 64}}) {
    const Context context("dim=", dim, " features=", features);
    const std::vector<float> signs = Signs(&random, 3 * features);
    const std::vector<float> x = random.Floats(5 * dim);
    const auto rotated = InEveryVariant(
        [&, dim = dim, features = features](const VectorKernels&,
                                            const ParallelFor& parallel_for) {
          std::vector<float> out(5 * features, kNan);
          RotateVectors({signs.data(), features}, x.data(), 5, dim,
                        parallel_for, out.data());
          return out;
        });
    std::vector<double> expected;
    for (int64_t i = 0; i < 5; ++i) {
      const std::vector<double> y = Rotated(
          signs, features, {x.begin() + i * dim, x.begin() + (i + 1) * dim});
      expected.insert(expected.end(), y.begin(), y.end());
    }
    CHECK_LE(Error(rotated, expected), 1e-6);
  }
}

struct Sketched {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};

bool operator==(const Sketched& a, const Sketched& b) {
  return a.codes == b.codes && a.scales.size() == b.scales.size() &&
         std::equal(a.scales.begin(), a.scales.end(), b.scales.begin(),
                    [](float x, float y) { return Same(x, y); });
}
std::ostream& operator<<(std::ostream& out, const Sketched&) {
  return out << "sketch";
}

template <typename T>
Sketched Sketch(const std::vector<float>& signs, int64_t features,
                const std::vector<T>& kernel, int64_t units) {
  return InEveryVariant([&](const VectorKernels&,
                            const ParallelFor& parallel_for) {
    Sketched s = {std::vector<uint8_t>((units + 31) / 32 * features * 4, 77),
                  std::vector<float>(units, 77.0f)};
    SketchNeurons(
        {signs.data(), features}, kernel.data(), units,
        static_cast<int64_t>(kernel.size()) / std::max<int64_t>(units, 1),
        parallel_for, s.codes.data(), s.scales.data());
    return s;
  });
}

// Bit e of a neuron's signs.
int Bit(const std::vector<uint8_t>& codes, int64_t groups, int64_t unit,
        int64_t e) {
  const uint8_t byte = codes[(unit / 32 * groups + e / 4) * 16 + unit % 16];
  return byte >> (unit % 32 / 16 * 4 + e % 4) & 1;
}

TEST(SketchByTheDefinition) {
  Random random(2);
  for (int64_t units : {1, 2, 31, 33, 70}) {
    for (int64_t dim : {1, 5, 16, 40}) {
      const int64_t features = dim <= 16 ? 16 : 64;
      const Context context("units=", units, " dim=", dim);
      const std::vector<float> signs = Signs(&random, 3 * features);
      std::vector<float> kernel = random.Floats(units * dim);
      if (units > 31) kernel[3 * dim] = kInf, kernel[20 * dim + dim / 2] = kNan;
      const auto is_finite = [&](int64_t u) {
        return units <= 31 || (u != 3 && u != 20);
      };
      const Sketched sketch = Sketch(signs, features, kernel, units);
      std::vector<double> mean(dim);
      double count = 0;
      for (int64_t u = 0; u < units; ++u) {
        if (!is_finite(u)) continue;
        ++count;
        for (int64_t j = 0; j < dim; ++j) mean[j] += kernel[u * dim + j];
      }
      for (int64_t u = 0; u < units; ++u) {
        std::vector<double> row(dim);
        for (int64_t j = 0; j < dim; ++j) {
          row[j] = kernel[u * dim + j] - static_cast<float>(mean[j] / count);
        }
        const std::vector<double> rotated = Rotated(signs, features, row);
        double size = 0;
        for (int64_t e = 0; e < features; ++e) {
          size += std::abs(rotated[e]);
          const int bit = Bit(sketch.codes, features / 4, u, e);
          if (!is_finite(u)) CHECK_EQ(bit, 0);
          if (is_finite(u) && std::abs(rotated[e]) > 1e-5) {
            CHECK_EQ(bit, rotated[e] > 0 ? 1 : 0);
          }
        }
        if (!is_finite(u)) {
          CHECK(std::isnan(sketch.scales[u]));
        } else {
          CHECK_NEAR(sketch.scales[u], size / (features * features), 1e-6);
        }
      }
      for (int64_t u = units; u < (units + 31) / 32 * 32; ++u) {
        for (int64_t e = 0; e < features; ++e) {
          CHECK_EQ(Bit(sketch.codes, features / 4, u, e), 0);
        }
      }
    }
  }
}

TEST(SketchOfBfloat16IsThatOfTheSameNumbers) {
  Random random(3);
  const std::vector<float> signs = Signs(&random, 3 * 32);
  const std::vector<Bfloat16> kernel = RandomBfloat16s(&random, 45 * 20, 0.01);
  std::vector<float> widened;
  for (Bfloat16 value : kernel) widened.push_back(ToFloat(value));
  CHECK_EQ(Sketch(signs, 32, kernel, 45), Sketch(signs, 32, widened, 45));
}

TEST(SketchOfVeryManyOrNoNeurons) {
  Random random(4);
  const std::vector<float> signs = Signs(&random, 3 * 16);
  Sketch(signs, 16, random.Floats(9000), 9000);  // sums of sums
  CHECK(Sketch(signs, 16, std::vector<float>(), 0).codes.empty());
  // Alike, so nothing but the mean; and no finite weights at all.
  const Sketched alike = Sketch(signs, 16, std::vector<float>(90, 3.0f), 30);
  CHECK_EQ(alike.scales, std::vector<float>(30));
  const Sketched bad = Sketch(signs, 16, std::vector<float>(90, kNan), 30);
  CHECK_EQ(bad.scales, std::vector<float>(30, kNan));
  CHECK_EQ(bad.codes, std::vector<uint8_t>(64));
  // So large that sizes are not finite.
  const std::vector<float> most = {3e38f, 3e38f, -3e38f, -3e38f};
  const Sketched large = Sketch(signs, 16, most, 2);
  CHECK_EQ(large.scales, std::vector<float>(2, kNan));
}

// By the definition: the levels of an input, products, a sort.
std::vector<int32_t> Expected(const SketchQueries& q,
                              const std::vector<uint8_t>& codes,
                              int64_t count) {
  std::vector<int32_t> ids;
  const int64_t features = 4 * q.groups;
  for (int64_t b = 0; b < q.batch; ++b) {
    const float* x = q.rotated + b * features;
    float largest = 0.0f;
    bool finite = true;
    for (int64_t e = 0; e < features; ++e) {
      finite &= std::isfinite(x[e]);
      largest = std::max(largest, std::fabs(x[e]));
    }
    const bool used = finite && largest >= 1e-30f;
    const float step = used ? largest / 31 : 0.0f;
    std::vector<float> scores(q.units);
    for (int64_t u = 0; u < q.units; ++u) {
      int32_t sum = 0;
      for (int64_t e = 0; e < features && used; ++e) {
        const auto level =
            static_cast<int32_t>(std::nearbyint(x[e] * (31 / largest)));
        sum += Bit(codes, q.groups, u, e) ? level : -level;
      }
      const float product = step * static_cast<float>(sum);
      scores[u] = q.scales[u] * product;
      scores[u] += q.bias == nullptr ? 0.0f : q.bias[u];
    }
    std::vector<int32_t> order(q.units);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t i, int32_t j) {
      if (std::isnan(scores[j])) return false;
      return std::isnan(scores[i]) || scores[i] > scores[j];
    });
    std::sort(order.begin(), order.begin() + count);
    ids.insert(ids.end(), order.begin(), order.begin() + count);
  }
  return ids;
}

struct Case {
  int64_t units, groups, batch;
};

// Of random codes, for several counts.
template <typename Change>
void CheckSelection(const Case& c, uint64_t seed, bool use_bias,
                    Change change) {
  Random random(seed);
  std::vector<uint8_t> codes((c.units + 31) / 32 * c.groups * 16);
  for (uint8_t& byte : codes) byte = static_cast<uint8_t>(random.Below(256));
  std::vector<float> rotated = random.Floats(c.batch * 4 * c.groups);
  std::vector<float> scales = random.Floats(c.units);
  std::vector<float> bias = random.Floats(c.units);
  change(&random, &rotated, &scales, &bias);
  const SketchQueries queries = {
      rotated.data(), c.batch,       c.groups,
      codes.data(),   scales.data(), use_bias ? bias.data() : nullptr,
      c.units};
  for (int64_t count :
       {int64_t{1}, c.units / 20, c.units / 2, c.units - 1, c.units}) {
    if (count < 1) continue;
    const Context context("units=", c.units, " groups=", c.groups,
                          " batch=", c.batch, " bias=", use_bias,
                          " count=", count);
    const auto ids = InEveryVariant([&](const VectorKernels& vector_kernels,
                                        const ParallelFor& parallel_for) {
      std::vector<int32_t> out(c.batch * count, -7);
      SelectBySketch(queries, count, parallel_for, vector_kernels, out.data());
      return out;
    });
    CHECK_EQ(ids, Expected(queries, codes, count));
  }
}

const std::vector<Case> kCases = {{1, 4, 2},     {2, 4, 1},    {31, 8, 3},
                                  {32, 4, 20},   {33, 64, 2},  {500, 16, 5},
                                  {70, 1024, 2}, {9001, 8, 2}, {40, 4096, 1}};

TEST(Selection) {
  for (const Case& c : kCases) {
    CheckSelection(c, 5, true, [](auto...) {});
    CheckSelection(c, 6, false, [](auto...) {});
  }
}

TEST(TheLargestSums) {
  // Levels of 31 and -31 throughout: no sum may overflow.
  for (const Case& c :
       {Case{33, 4096, 1}, Case{40, 516, 2}, Case{35, 512, 1}}) {
    for (float value : {1.0f, -1.0f}) {
      CheckSelection(c, 7, true, [value](Random*, auto* rotated, auto...) {
        std::fill(rotated->begin(), rotated->end(), value);
      });
    }
  }
}

TEST(TiedScores) {
  for (const Case& c : kCases) {
    if (c.units * c.groups > 100'000) continue;
    CheckSelection(c, 8, true,
                   [](Random* random, auto* rotated, auto* scales, auto* bias) {
                     for (float& x : *rotated) x = random->Below(3) - 1.0f;
                     for (float& scale : *scales) scale = 1.0f;
                     for (float& b : *bias) b = random->Below(2) * 2.0f;
                   });
    CheckSelection(c, 9, false, [](Random*, auto*, auto* scales, auto*) {
      for (float& scale : *scales) scale = 0.0f;  // also -0
    });
  }
}

TEST(WhatIsNotFinite) {
  for (double share : {0.02, 0.7}) {
    for (const Case& c : kCases) {
      if (c.units * c.groups > 100'000) continue;
      const auto special = [share](Random* random, auto* rotated, auto* scales,
                                   auto* bias) {
        if (random->Chance(0.5)) AddSpecialValues(random, 0.01, rotated);
        AddSpecialValues(random, share, scales);
        AddSpecialValues(random, share, bias);
      };
      for (uint64_t seed : {10, 11}) {
        CheckSelection(c, seed, true, special);
        CheckSelection(c, seed, false, special);
      }
    }
  }
}

TEST(InputsThatAreNothing) {
  for (float value :
       {0.0f, 1e-31f, kNan, -kInf, std::numeric_limits<float>::denorm_min()}) {
    CheckSelection({100, 4, 3}, 12, true, [&](Random*, auto* rotated, auto...) {
      std::fill_n(rotated->begin(), 16, value);
    });
  }
}

// So many that a sixty-fourth of them is tried before all others.
TEST(VeryManyNeurons) {
  CheckSelection({40'013, 4, 2}, 15, true, [](auto...) {});
  CheckSelection({40'013, 4, 2}, 16, false,
                 [](Random*, auto*, auto* scales, auto*) {
                   for (float& scale : *scales) scale = 1.0f;  // many ties
                 });
  CheckSelection({40'013, 4, 2}, 17, true, [](Random* random, auto... parts) {
    (AddSpecialValues(random, 0.1, parts), ...);
  });
}

TEST(VeryManyNeuronsThatAreBestWhereTheyAreTried) {
  const int64_t blocks = 1250;
  for (float more : {-100.0f, 100.0f, kNan}) {
    CheckSelection(
        {32 * blocks + 13, 4, 2}, 18, true,
        [more](Random*, auto*, auto*, auto* bias) {
          for (int64_t place = 1; place < 32; place += 2) {
            const auto first = bias->begin() + place * blocks / 32 * 32;
            std::for_each(first, first + 32, [more](float& b) { b += more; });
          }
        });
  }
}

TEST(NoSamples) {
  CheckSelection({50, 4, 0}, 13, true, [](auto...) {});
}

TEST(MoreSamplesThanAreHeldInMemory) {
  CheckSelection({40, 4, 300}, 14, true, [](auto...) {});
}

}  // namespace
}  // namespace keras_lsh
