#include "custom_ops/core/cheapest_probes.h"

#include <algorithm>
#include <cstring>

namespace keras_lsh {
namespace {

constexpr int32_t kInfinity = 0x7f800000;  // the bits of that float

// Guesses that change the limit by a factor, or halve the range of values;
// after them the bits are halved, which ends for sure.
constexpr int kGuesses = 12;
constexpr float kLower = 0.8f, kHigher = 1.3f;

// Of a limit over what the last sample needed.
constexpr float kMargin = 1.1f;

// Floats that are not negative are ordered as their bits are.
int32_t Bits(float cost) {
  int32_t bits;
  std::memcpy(&bits, &cost, sizeof(bits));
  return bits;
}

float Cost(int32_t bits) {
  float cost;
  std::memcpy(&cost, &bits, sizeof(cost));
  return cost;
}

}  // namespace

bool CheapestProbes::TryLimit(int64_t count, const List& list) {
  size_ = 0;
  ties_left_ = count;
  // At the right limit there are fewer than `count` below, and as many ties.
  // Where a table's own bucket is listed, too, there is one more.
  most_ = 4 * count + 4;
  list();
  return !Overflows(0);
}

void CheapestProbes::Run(int64_t count, const List& list, int32_t* buckets,
                         float* costs) {
  if (count == 0) return;
  // At `low` there are too few, at `high` too many.
  int32_t low = -1, high = kInfinity + 1;
  limit_ = guess_;
  for (int i = 0;; ++i) {
    const bool fits = TryLimit(count, list);
    if (fits && size_ >= count) break;
    (fits ? low : high) = Bits(limit_);
    int32_t next = low + (high - low) / 2;
    if (i < kGuesses) {
      const int32_t bits = Bits(limit_ * (fits ? kHigher : kLower));
      if (bits > low && bits < high) next = bits;
    }
    limit_ = Cost(next);
  }

  // The cost of the last that is chosen: at `low` there are fewer than `count`,
  // at `high` there are not.
  keys_.resize(size_);
  std::memcpy(keys_.data(), costs_.data(), size_ * sizeof(float));
  high = Bits(limit_);
  for (int i = 0; high - low > 1; ++i) {
    int32_t middle = low + (high - low) / 2;
    if (i < kGuesses) {
      const int32_t half = Bits(Cost(std::max(low, 0)) / 2 +
                                Cost(std::min(high, kInfinity)) / 2);
      if (half > low && half < high) middle = half;
    }
    const int64_t cheaper =
        size_ -
        vector_kernels_.count_from(keys_.data(), nullptr, size_, middle + 1);
    if (cheaper == count) {
      high = middle;
      break;
    }
    (cheaper < count ? low : high) = middle;
  }
  const int64_t below =
      size_ - vector_kernels_.count_from(keys_.data(), nullptr, size_, high);
  int64_t ties = count - below;
  for (int64_t i = 0, written = 0; written < count; ++i) {
    buckets[written] = buckets_[i];
    costs[written] = costs_[i];
    const bool tie = keys_[i] == high;
    written += (keys_[i] < high) | (tie & (ties > 0));
    ties -= tie;
  }
  guess_ = std::clamp(kMargin * Cost(high), 1e-30f, 1e30f);
}

}  // namespace keras_lsh
