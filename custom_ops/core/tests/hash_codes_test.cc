#include "custom_ops/core/hash_codes.h"

#include <cmath>
#include <limits>
#include <vector>

#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace testing {
namespace {

constexpr float kSmallestNormal = std::numeric_limits<float>::min();

std::vector<int32_t> Codes(const std::vector<float>& margins, int64_t n,
                           int tables, int bits) {
  constexpr int32_t kFence = -77;
  std::vector<int32_t> codes(n * tables + 1, kFence);
  HashCodes(margins.data(), n, tables, bits, codes.data());
  CHECK_EQ(codes.back(), kFence);
  codes.pop_back();
  return codes;
}

TEST(PacksSigns) {
  Random random(1);
  for (int bits = 1; bits <= kMaxBits; ++bits) {
    for (int tables : {1, 2, 5}) {
      for (int64_t n : {0, 1, 3, 17}) {
        const Context context("bits=", bits, " tables=", tables, " n=", n);
        std::vector<float> margins = random.Floats(n * tables * bits);
        AddSpecialValues(&random, 0.3, &margins);
        std::vector<int32_t> expected;
        for (int64_t i = 0; i < n * tables; ++i) {
          int32_t code = 0, power = 1;
          for (int j = 0; j < bits; ++j, power *= 2) {
            const float margin = margins[i * bits + j];
            if (margin > 0 && !(margin < kSmallestNormal)) code += power;
          }
          expected.push_back(code);
        }
        CHECK_EQ(Codes(margins, n, tables, bits), expected);
      }
    }
  }
}

TEST(FirstBitIsTheLowest) {
  CHECK_EQ(Codes({1, -1, -1, -1, -1, 1}, 1, 2, 3),
           (std::vector<int32_t>{1, 4}));
}

TEST(OnlyPositiveNormalMarginsGiveAOne) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  const float subnormal = std::nextafter(kSmallestNormal, 0.0f);
  const std::vector<float> margins = {
      0.0f,      -0.0f,           kNan, -kNan, -kInf, -tiny, tiny,
      subnormal, kSmallestNormal, 1.0f, kInf};
  const std::vector<int32_t> codes = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1};
  CHECK_EQ(Codes(margins, 11, 1, 1), codes);
  const FlushSubnormals flush;
  CHECK_EQ(Codes(margins, 11, 1, 1), codes);
}

TEST(AllBits) {
  CHECK_EQ(Codes(std::vector<float>(kMaxBits, 1.0f), 1, 1, kMaxBits),
           (std::vector<int32_t>{(1 << kMaxBits) - 1}));
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
