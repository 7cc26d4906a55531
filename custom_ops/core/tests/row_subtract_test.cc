#include "custom_ops/core/row_subtract.h"

#include <vector>

#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace testing {
namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;

TEST(SubtractsFromTheRowsGiven) {
  Random random(1);
  const int64_t total = 9;
  for (int64_t width : {0, 1, 5, 40}) {
    for (const Ints& rows : std::vector<Ints>{
             {}, {3}, {0, 2, 8}, {8, 2, 0}, {4, 4}, {1, 5, 1, 1, 7}}) {
      const int64_t count = static_cast<int64_t>(rows.size());
      const Floats before = random.Floats(total * width);
      const Floats values = random.Floats(count * width);
      Floats expected = before;
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t j = 0; j < width; ++j) {
          expected[rows[i] * width + j] -= values[i * width + j];
        }
      }
      for (const Split& split : Splits()) {
        const Context context("width=", width, " rows=", count, split.name);
        Floats variable = before;
        CHECK_OK(SubtractRows(rows.data(), count, values.data(),
                              split.parallel_for, total, width,
                              variable.data()));
        CHECK_EQ(variable, expected);
      }
    }
  }
}

TEST(BadRowsChangeNothing) {
  for (int32_t bad : {-1, 4, 2147483647, -2147483647 - 1}) {
    const Ints rows = {0, bad, 3};
    const Floats values(6, 1.0f);
    Floats variable(8, 5.0f);
    CHECK_ERROR(
        SubtractRows(rows.data(), 3, values.data(), SerialFor, 4, 2,
                     variable.data()),
        "`rows` must lie in [0, 4). Received: rows[1]=" + std::to_string(bad));
    CHECK_EQ(variable, Floats(8, 5.0f));
  }
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
