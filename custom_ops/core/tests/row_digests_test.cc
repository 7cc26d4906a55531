#include "custom_ops/core/row_digests.h"

#include <cmath>
#include <vector>

#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace testing {
namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;

Ints Digests(const Floats& rows, int64_t count, int64_t width) {
  return InEveryVariant(
      [&](const VectorKernels& kernels, const ParallelFor& split) {
        Ints digests(count, -1);
        RowDigests(rows.data(), count, width, split, kernels, digests.data());
        return digests;
      });
}

TEST(DigestsByExample) {
  CHECK_EQ(Digests({0, 0, 0}, 1, 3), (Ints{0}));
  // 1.0f is 0x3F800000; only its lowest bits outlast the product's high part.
  const uint32_t one = 0x3F800000u * 0x9E3779B1u;
  CHECK_EQ(Digests({1, 0}, 1, 2), (Ints{static_cast<int32_t>(one)}));
  CHECK_EQ(Digests({0, 1}, 1, 2), (Ints{static_cast<int32_t>(3 * one)}));
  CHECK_EQ(Digests({}, 2, 0), (Ints{0, 0}));
}

TEST(TheSmallestChangeChangesTheDigestOfItsRowAlone) {
  Random random(1);
  const int64_t count = 5, width = 19;
  Floats rows = random.Floats(count * width);
  const Ints before = Digests(rows, count, width);
  for (size_t at = 0; at < rows.size(); ++at) {
    const float value = rows[at];
    rows[at] = std::nextafter(value, 9.0f);
    const Ints after = Digests(rows, count, width);
    for (int64_t i = 0; i < count; ++i) {
      const bool changed = i == static_cast<int64_t>(at) / width;
      CHECK_EQ(after[i] != before[i], changed);
    }
    rows[at] = value;
  }
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
