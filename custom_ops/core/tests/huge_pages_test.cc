#include "custom_ops/core/huge_pages.h"

#include <cstdint>
#include <numeric>
#include <thread>
#include <vector>

#include "custom_ops/core/tests/check.h"

namespace keras_lsh {
namespace testing {
namespace {

constexpr int64_t kMegabyte = 1 << 20;

std::vector<int32_t> Numbers(int64_t bytes) {
  std::vector<int32_t> numbers(bytes / sizeof(int32_t));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

TEST(WhatIsInThePagesStays) {
  for (const int64_t bytes : {int64_t{0}, 4 * kMegabyte, 8 * kMegabyte,
                              9 * kMegabyte + 4, 24 * kMegabyte}) {
    std::vector<int32_t> numbers = Numbers(bytes);
    HugePages pages;
    pages.Join(numbers.data(), bytes);
    CHECK(numbers == Numbers(bytes));
    for (int32_t& number : numbers) ++number;
    pages.Join(numbers.data(), bytes);
    int64_t wrong = 0;
    for (size_t i = 0; i < numbers.size(); ++i) {
      wrong += numbers[i] != static_cast<int32_t>(i) + 1;
    }
    CHECK_EQ(wrong, 0);
  }
}

TEST(PagesAreReadWhileTheyAreJoined) {
  const int64_t bytes = 32 * kMegabyte;
  const std::vector<int32_t> numbers = Numbers(bytes);
  HugePages pages;
  bool same = true;
  std::thread reader([&] {
    for (int i = 0; i < 5; ++i) same = same && numbers == Numbers(bytes);
  });
  pages.Join(numbers.data(), bytes);
  reader.join();
  CHECK(same);
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
