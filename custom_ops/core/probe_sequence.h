#ifndef CUSTOM_OPS_CORE_PROBE_SEQUENCE_H_
#define CUSTOM_OPS_CORE_PROBE_SEQUENCE_H_

#include <cstdint>
#include <vector>

namespace keras_lsh {

// Query-directed multi-probe (Lv et al. 2007, "Multi-Probe LSH", section 4.4):
// which buckets to look into, most promising first.
//
// A bucket next to the initial one has some bits flipped; its cost is the sum
// of the squared margins of those bits. One heap serves all tables, so a table
// whose margins are small gets more probes than one whose margins are large.
//
// Order: first the initial bucket of each table, in table order (cost 0); then
// by (cost, table, mask) ascending, where the bits of a table are sorted by
// (margin^2, bit) ascending and `mask` is the set of flipped positions in that
// sorting, as a number. A cost is summed in float32 from its lowest position to
// its highest. A squared margin that is not below FLT_MAX (NaN, infinity)
// counts as FLT_MAX, a subnormal one as zero.
class ProbeSequencer {
 public:
  // bits in [1, kMaxBits], tables >= 1.
  ProbeSequencer(int bits, int tables);

  // Writes the first `count` buckets of the sequence of one sample.
  //
  //   margins  [tables * bits]
  //   count    in [tables, tables << bits]
  //   buckets  [count]: table << bits | code
  //   costs    [count]
  //
  // Not thread-safe: the object holds the scratch memory.
  void Run(const float* margins, int64_t count, int32_t* buckets, float* costs);

 private:
  // A perturbation set {..., highest}: its cost is base + the squared margin
  // at position `highest`, `base` being the cost of the positions below.
  struct Perturbation {
    float cost;
    float base;
    int32_t table;
    int32_t mask;
    int32_t highest;
  };
  struct After;
  void Push(int32_t table, int32_t mask, int32_t highest, float base);

  const int bits_;
  const int tables_;
  std::vector<int32_t> codes_;  // [tables], the initial codes
  std::vector<float> squares_;  // [tables, bits], sorted ascending
  std::vector<int32_t> flips_;  // [tables, bits], the bit at each position
  std::vector<Perturbation> heap_;
};

// The weight that a collision in a bucket of this cost gets in the ranking of
// candidates: 2^16 / (1 + cost), truncated, at least 1. Integer weights make
// sums of them independent of the order of addition.
int32_t ProbeWeight(float cost);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_PROBE_SEQUENCE_H_
