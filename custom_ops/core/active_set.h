#ifndef CUSTOM_OPS_CORE_ACTIVE_SET_H_
#define CUSTOM_OPS_CORE_ACTIVE_SET_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/bucket_tables.h"
#include "custom_ops/core/status.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// Marks an unused place in a list of neuron ids; such places come last.
inline constexpr int32_t kNoId = -1;

// The largest weight of a probed bucket, and the most buckets of a sample:
// their product fits 31 bits.
inline constexpr int32_t kMaxWeight = 1 << 16;
inline constexpr int64_t kMaxBuckets = (1 << 15) - 1;

// A pseudo-random order of the neurons, different for each seed: neuron n has
// rank (multiplier * n + shift) mod prime, with prime the smallest prime not
// below max(units, 2). With M = 2^31 - 1 and all arithmetic in int64,
//   h1 = (uint32(seed) mod M * 48271 + 11) mod M,  h2 = (h1 * 16807 + 7) mod M,
//   multiplier = 1 + h1 mod (prime - 1),           shift = h2 mod prime.
class FillOrder {
 public:
  explicit FillOrder(int64_t units);

  // Starts the order of `seed` from its beginning.
  void Reset(int32_t seed);
  // The next neuron. Call at most `units` times after a Reset.
  int32_t Next();

 private:
  const int64_t units_;
  int64_t prime_;
  int64_t step_ = 0;   // inverse of the multiplier
  int64_t place_ = 0;  // the number whose rank comes next
};

// What to select for one sample.
struct ActiveSetQuery {
  // The buckets to look into and the weight, in [1, kMaxWeight], of a
  // collision in each.
  const int32_t* buckets;  // [num_buckets], global numbers
  const int32_t* weights;  // [num_buckets]
  int64_t num_buckets;     // at most kMaxBuckets
  // Neurons that are active whatever the tables say; kNoId is skipped,
  // duplicates count once.
  const int32_t* forced;  // [num_forced]
  int64_t num_forced;
  // Whether to fill up with pseudo-randomly chosen neurons if too few are
  // found, and the seed of that choice.
  bool fill;
  int32_t fill_seed;
};

// Scratch memory of an ActiveSetSelector. Its size grows with the number of
// units, so whoever selects often keeps it from one call to the next.
struct ActiveSetScratch {
  // Zero for every neuron between calls; negative marks a chosen one.
  std::vector<int64_t> scores;   // [units]
  std::vector<int32_t> touched;  // first the neurons whose score is positive
  std::vector<int32_t> chosen;
  std::vector<int64_t> keys;
  std::vector<uint64_t> bits;  // of a set of neurons, empty between calls
  std::vector<int32_t> sizes;  // of the buckets
  // The buckets worth looking into: which of a query's, weights and sizes.
  std::vector<int32_t> heavy, heavy_weights, heavy_sizes;
};

// Chooses the active neurons of one sample after another. Use one object, with
// a scratch of its own, a thread.
//
// A neuron's score is the sum of the weights of the buckets that contain it.
// Chosen are the forced neurons, then those with a positive score by (score
// descending, id ascending), then, with `fill`, the others in fill order, until
// there are `active`.
class ActiveSetSelector {
 public:
  // active <= tables.units, units >= 1.
  ActiveSetSelector(const BucketTables& tables, int64_t active,
                    const VectorKernels& vector_kernels,
                    ActiveSetScratch* scratch);

  // Writes the chosen ids [active], ascending, kNoId last. Errors if a bucket,
  // an offset, an id or a forced id is out of range, or if more than `active`
  // different neurons are forced; `ids` is then undefined.
  Status Select(const ActiveSetQuery& query, int32_t* ids);

 private:
  Status Check(const ActiveSetQuery& query, int64_t i) const;
  // Whether the buckets are those of all tables, in order.
  bool RanksAll(const ActiveSetQuery& query) const;
  // In one table, buckets in ascending order share no neuron, and a neuron's
  // score is the weight of its bucket: as cells ranked by their worth are.
  bool ScoresAreWeights(const ActiveSetQuery& query);
  // For these, whatever their number: looks into the weightiest buckets only.
  Status ChooseByWeight(const ActiveSetQuery& query);
  // Writes sizes_; errors if a bucket, offset or weight is out of range.
  Status MeasureBuckets(const ActiveSetQuery& query);
  // Moves the buckets of at least this weight to the heavy ones.
  void FindHeavy(const ActiveSetQuery& query, int32_t least);
  Status CollectByWeight(const ActiveSetQuery& query);
  // For all others: forced neurons, then scores, then the best of these.
  Status ChooseByScore(const ActiveSetQuery& query);
  Status Force(const ActiveSetQuery& query);
  Status Collect(const ActiveSetQuery& query);
  void KeepBest(int64_t room);
  // Chooses the `room` largest of keys_ (score descending, id ascending).
  void KeepLargestKeys(int64_t room);
  void WriteAscending(int32_t* ids);

  const BucketTables tables_;
  const int64_t active_;
  FillOrder fill_order_;
  std::vector<int64_t>& scores_;
  std::vector<int32_t>& touched_;
  int64_t num_touched_ = 0;
  std::vector<int32_t>& chosen_;
  std::vector<int64_t>& keys_;
  std::vector<uint64_t>& bits_;
  std::vector<int32_t>& sizes_;
  std::vector<int32_t>&heavy_, &heavy_weights_, &heavy_sizes_;
  bool ranks_all_ = false;     // the query does
  bool measured_all_ = false;  // sizes_ are those of all buckets, in order
  int32_t last_least_ = 1;     // from which on weights were worth looking into
  const VectorKernels& vector_kernels_;
};

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_ACTIVE_SET_H_
