#include "custom_ops/core/probe_sequence.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "custom_ops/core/hash_codes.h"

namespace keras_lsh {

ProbeSequencer::ProbeSequencer(int bits, int tables)
    : bits_(bits),
      tables_(tables),
      codes_(tables),
      squares_(static_cast<size_t>(tables) * bits),
      flips_(static_cast<size_t>(tables) * bits) {}

// A type, not a function: the heap's algorithms call it inline.
struct ProbeSequencer::After {
  bool operator()(const Perturbation& a, const Perturbation& b) const {
    if (a.cost != b.cost) return a.cost > b.cost;
    return std::tie(a.table, a.mask) > std::tie(b.table, b.mask);
  }
};

void ProbeSequencer::Push(int32_t table, int32_t mask, int32_t highest,
                          float base) {
  const float cost = base + squares_[table * bits_ + highest];
  heap_.push_back({cost, base, table, mask, highest});
  std::push_heap(heap_.begin(), heap_.end(), After());
}

void ProbeSequencer::Run(const float* margins, int64_t count, int32_t* buckets,
                         float* costs) {
  HashCodes(margins, 1, tables_, bits_, codes_.data());
  int64_t written = 0;
  for (int32_t table = 0; table < tables_ && written < count; ++table) {
    buckets[written] = table << bits_ | codes_[table];
    costs[written++] = 0.0f;
  }
  if (written == count) return;

  heap_.clear();
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
      flips[at] = bit;
    }
    Push(table, 1, 0, 0.0f);
  }

  // Each set is reached once: from {..., h} either h moves up one position
  // (shift) or the next position joins (expand). Both have a larger mask and
  // no smaller a cost, so the heap yields the documented order, ties included.
  while (written < count && !heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), After());
    const Perturbation top = heap_.back();
    heap_.pop_back();

    const int32_t* flips = flips_.data() + top.table * bits_;
    int32_t code = codes_[top.table];
    for (int32_t position = 0; position <= top.highest; ++position) {
      if (top.mask >> position & 1) code ^= 1 << flips[position];
    }
    buckets[written] = top.table << bits_ | code;
    costs[written++] = top.cost;

    const int32_t next = top.highest + 1;
    if (next < bits_) {
      const int32_t next_bit = 1 << next;
      Push(top.table, top.mask ^ (next_bit | next_bit >> 1), next, top.base);
      Push(top.table, top.mask | next_bit, next, top.cost);
    }
  }
}

int32_t ProbeWeight(float cost) {
  return std::max<int32_t>(1, static_cast<int32_t>(65536.0f / (1.0f + cost)));
}

}  // namespace keras_lsh
