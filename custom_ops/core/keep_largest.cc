#include "custom_ops/core/keep_largest.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "custom_ops/core/active_set.h"
#include "custom_ops/core/ranking_key.h"

namespace keras_lsh {
namespace {

constexpr int32_t kUnused = std::numeric_limits<int32_t>::min();
constexpr int32_t kLargest = std::numeric_limits<int32_t>::max();
constexpr int32_t kForced = kLargest;
constexpr int kValueHalvings = 16;

// Which keys are among the `keep` largest: those of at least `key`, but of
// those equal to `key` only the ones with an id of at most `id`.
struct Limit {
  int32_t key;
  int32_t id;
};

// Narrows the range of keys until it is known where the `keep` largest end:
// counting takes no branches, so that it is faster than any partial sort.
Limit FindLimit(const int32_t* ids, const std::vector<int32_t>& keys,
                int64_t keep, const VectorKernels& vector_kernels) {
  const auto count_from = [&](int32_t least) {
    return vector_kernels.count_from(keys.data(), nullptr,
                                     static_cast<int64_t>(keys.size()), least);
  };
  const auto [least, largest] = std::minmax_element(keys.begin(), keys.end());
  // At least `keep` keys are >= low, fewer are >= high.
  int64_t low = *least, high = int64_t{*largest} + 1;
  for (int i = 0; high - low > 1; ++i) {
    int64_t middle = low + (high - low) / 2;
    if (i < kValueHalvings) {
      // Half-way between the values: they are spread more evenly than keys.
      const float value = RankedValue(static_cast<int32_t>(low)) / 2 +
                          RankedValue(static_cast<int32_t>(high - 1)) / 2;
      const int64_t key = RankingKey(value);
      if (key > low && key < high) middle = key;
    }
    const int64_t count = count_from(static_cast<int32_t>(middle));
    if (count == keep) return {static_cast<int32_t>(middle), kLargest};
    (count > keep ? low : high) = middle;
  }
  const int32_t key = static_cast<int32_t>(low);
  const int64_t above = high > *largest ? 0 : count_from(key + 1);
  std::vector<int32_t> equal;
  for (size_t s = 0; s < keys.size(); ++s) {
    if (keys[s] == key) equal.push_back(ids[s]);
  }
  const auto last = equal.begin() + (keep - above - 1);
  std::nth_element(equal.begin(), last, equal.end());
  return {key, *last};
}

void Force(const int32_t* ids, const int32_t* forced, int64_t num_forced,
           std::vector<int32_t>* keys) {
  const int32_t* end = ids + keys->size();
  while (end > ids && end[-1] == kNoId) --end;
  const bool ascending = std::is_sorted(ids, end);  // as a rule they are
  for (int64_t f = 0; f < num_forced; ++f) {
    if (forced[f] == kNoId) continue;
    const int32_t* place = ascending ? std::lower_bound(ids, end, forced[f])
                                     : std::find(ids, end, forced[f]);
    if (place != end && *place == forced[f]) (*keys)[place - ids] = kForced;
  }
}

}  // namespace

void KeepLargest(const ActiveIds& ids, const float* values,
                 const int32_t* forced, int64_t num_forced, int64_t keep,
                 const ParallelFor& parallel_for,
                 const VectorKernels& vector_kernels, int32_t* kept_ids,
                 float* kept_values) {
  parallel_for(ids.batch, 16 * ids.active, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> keys(ids.active);
    // With one place to spare, for writes that turn out to be unneeded.
    std::vector<int32_t> slots(keep + 1);
    for (int64_t b = begin; b < end; ++b) {
      const int32_t* id = ids.ids + b * ids.active;
      const float* value = values + b * ids.active;
      for (int64_t s = 0; s < ids.active; ++s) {
        keys[s] = id[s] == kNoId ? kUnused : RankingKey(value[s]);
      }
      if (num_forced > 0) {
        Force(id, forced + b * num_forced, num_forced, &keys);
      }
      Limit limit = {kUnused + 1, kLargest};
      if (keep > 0 && keep < ids.active) {
        const Limit found = FindLimit(id, keys, keep, vector_kernels);
        if (found.key > kUnused) limit = found;
      }
      int64_t count = 0;
      for (int64_t s = 0; s < ids.active; ++s) {
        slots[count] = static_cast<int32_t>(s);
        // Of an id that occurs twice, no more than there is room for.
        count += (keys[s] > limit.key ||
                  (keys[s] == limit.key && id[s] <= limit.id)) &
                 (count < keep);
      }
      for (int64_t i = 0; i < count; ++i) {
        kept_ids[b * keep + i] = id[slots[i]];
        kept_values[b * keep + i] = value[slots[i]];
      }
      std::fill_n(kept_ids + b * keep + count, keep - count, kNoId);
      std::fill_n(kept_values + b * keep + count, keep - count, 0.0f);
    }
  });
}

}  // namespace keras_lsh
