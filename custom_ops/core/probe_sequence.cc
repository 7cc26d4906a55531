#include "custom_ops/core/probe_sequence.h"

#include <algorithm>
#include <limits>

#include "custom_ops/core/hash_codes.h"

namespace keras_lsh {

ProbeSequencer::ProbeSequencer(int bits, int tables,
                               const VectorKernels& vector_kernels)
    : bits_(bits),
      tables_(tables),
      probes_(vector_kernels),
      codes_(tables),
      squares_(static_cast<size_t>(tables) * bits),
      flips_(static_cast<size_t>(tables) * bits),
      set_costs_(1),
      set_buckets_(1) {}

void ProbeSequencer::SortBits(const float* margins) {
  for (int32_t table = 0; table < tables_; ++table) {
    const float* margin = margins + table * bits_;
    float* squares = squares_.data() + table * bits_;
    int32_t* flips = flips_.data() + table * bits_;
    // Insertion sort: at most kMaxBits items, usually a handful.
    for (int32_t bit = 0; bit < bits_; ++bit) {
      float square = margin[bit] * margin[bit];
      if (!(square < std::numeric_limits<float>::max())) {
        square = std::numeric_limits<float>::max();
      } else if (square < std::numeric_limits<float>::min()) {
        square = 0.0f;
      }
      int32_t at = bit;
      for (; at > 0 && squares[at - 1] > square; --at) {
        squares[at] = squares[at - 1];
        flips[at] = flips[at - 1];
      }
      squares[at] = square;
      flips[at] = 1 << bit;
    }
  }
}

void ProbeSequencer::List() {
  for (int32_t table = 0; table < tables_; ++table) {
    const float* squares = squares_.data() + table * bits_;
    const int32_t* flips = flips_.data() + table * bits_;
    set_costs_[0] = 0.0f;
    set_buckets_[0] = table << bits_ | codes_[table];
    int64_t sets = 1;
    // Position by position, so that masks ascend. A set that is too dear with
    // this position is so with any further one.
    for (int32_t position = 0; position < bits_ && sets > 0; ++position) {
      if (probes_.Overflows(sets)) return;
      if (2 * sets + 1 > static_cast<int64_t>(set_costs_.size())) {
        set_costs_.resize(4 * sets + 1);
        set_buckets_.resize(4 * sets + 1);
      }
      float* costs = set_costs_.data();
      int32_t* buckets = set_buckets_.data();
      int64_t kept = 0;
      for (int64_t i = 0; i < sets; ++i) {
        const float cost = costs[i], joined = cost + squares[position];
        const int32_t bucket = buckets[i], flipped = bucket ^ flips[position];
        const bool wanted = probes_.Add(joined, flipped);
        costs[kept] = cost;
        buckets[kept] = bucket;
        costs[sets + kept] = joined;
        buckets[sets + kept] = flipped;
        kept += wanted;
      }
      std::copy_n(costs + sets, kept, costs + kept);
      std::copy_n(buckets + sets, kept, buckets + kept);
      sets = 2 * kept;
    }
  }
}

void ProbeSequencer::Run(const float* margins, int64_t count, int32_t* buckets,
                         float* costs) {
  HashCodes(margins, 1, tables_, bits_, codes_.data());
  for (int32_t table = 0; table < tables_; ++table) {
    buckets[table] = table << bits_ | codes_[table];
    costs[table] = 0.0f;
  }
  SortBits(margins);
  probes_.Run(
      count - tables_, [this] { List(); }, buckets + tables_, costs + tables_);
}

int32_t ProbeWeight(float cost) {
  return std::max<int32_t>(1, static_cast<int32_t>(65536.0f / (1.0f + cost)));
}

}  // namespace keras_lsh
