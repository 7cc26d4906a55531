#ifndef CUSTOM_OPS_CORE_PROBE_SEQUENCE_H_
#define CUSTOM_OPS_CORE_PROBE_SEQUENCE_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/cheapest_probes.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// Query-directed multi-probe (Lv et al. 2007, "Multi-Probe LSH", section 4.4):
// which buckets to look into.
//
// A bucket next to the initial one has some bits flipped; its cost is the sum
// of the squared margins of those bits. All tables compete, so one whose
// margins are small gets more probes than one whose margins are large.
//
// Chosen are the initial bucket of each table, in table order (cost 0), and the
// first others by (cost, table, mask) ascending, where the bits of a table are
// sorted by (margin^2, bit) ascending and `mask` is the set of flipped
// positions in that sorting, as a number. These come by (table, mask). A cost
// is summed in float32 from its lowest position to its highest. A squared
// margin that is not below FLT_MAX (NaN, infinity) counts as FLT_MAX, a
// subnormal one as zero.
class ProbeSequencer {
 public:
  // bits in [1, kMaxBits], tables >= 1.
  ProbeSequencer(int bits, int tables, const VectorKernels& vector_kernels);

  // Writes the chosen `count` buckets of one sample.
  //
  //   margins  [tables * bits]
  //   count    in [tables, tables << bits]
  //   buckets  [count]: table << bits | code
  //   costs    [count]
  //
  // Not thread-safe: the object holds the scratch memory.
  void Run(const float* margins, int64_t count, int32_t* buckets, float* costs);

 private:
  void SortBits(const float* margins);
  // Adds the perturbed buckets of all tables to probes_.
  void List();

  const int bits_;
  const int tables_;
  CheapestProbes probes_;
  std::vector<int32_t> codes_;  // [tables], the initial codes
  std::vector<float> squares_;  // [tables, bits], sorted ascending
  std::vector<int32_t> flips_;  // [tables, bits], the bit at each position
  // Sets of positions that a further one may join: their costs, and buckets.
  std::vector<float> set_costs_;
  std::vector<int32_t> set_buckets_;
};

// The weight that a collision in a bucket of this cost gets in the ranking of
// candidates: 2^16 / (1 + cost), truncated, at least 1. Integer weights make
// sums of them independent of the order of addition.
int32_t ProbeWeight(float cost);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_PROBE_SEQUENCE_H_
