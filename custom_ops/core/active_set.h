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
  explicit FillOrder(int64_t units) : units_(units) {}

  // Starts the order of `seed` from its beginning.
  void Reset(int32_t seed);
  // The next neuron. Call at most `units` times after a Reset.
  int32_t Next();

 private:
  const int64_t units_;
  int64_t prime_ = 0;  // as long as no order was asked for
  int64_t step_ = 0;   // inverse of the multiplier
  int64_t place_ = 0;  // the number whose rank comes next
};

// What to select for one sample.
struct ActiveSetQuery {
  // The buckets to look into and the weight, in [1, kMaxWeight], of a
  // collision in each.
  const int32_t* buckets;  // [num_buckets], global numbers; null: those of the
                           // only table, all of them, in order
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
  // Zero for every neuron between calls; negative marks a forced one.
  std::vector<int64_t> scores;   // [units], where they are needed
  std::vector<int32_t> touched;  // first the neurons whose score is positive
  std::vector<int32_t> chosen;
  std::vector<int64_t> keys;
  // The bits of the chosen neurons, and of the words of these that are not 0.
  // Both are empty between calls.
  std::vector<uint64_t> bits, used_words;
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
  // Makes a neuron one of the chosen, unless it is.
  void Choose(int32_t id);
  bool IsChosen(int32_t id) const;
  Status Force(const ActiveSetQuery& query);
  // In one table, buckets in ascending order share no neuron, and a neuron's
  // score is the weight of its bucket: as cells ranked by their worth are.
  bool ScoresAreWeights(const ActiveSetQuery& query) const;
  // Whether these are all buckets of the table.
  bool RanksAll(const ActiveSetQuery& query) const;
  // For these, whatever their number: looks into the weightiest buckets only.
  Status ChooseByWeight(const ActiveSetQuery& query);
  static int32_t Bucket(const ActiveSetQuery& query, int64_t i) {
    return query.buckets == nullptr ? static_cast<int32_t>(i)
                                    : query.buckets[i];
  }
  // Errors if a bucket, offset or weight is out of range.
  Status Check(const ActiveSetQuery& query, int64_t i) const;
  Status CheckAll(const ActiveSetQuery& query);
  // Finds buckets that hold `active` neurons, if all do, such that no other is
  // as weighty. Returns a weight that at most some `active` reach.
  int32_t FindHeavy(const ActiveSetQuery& query);
  // Neurons of those of at least a weight.
  int64_t CountHeavy(int32_t least) const;
  // Of the heavy buckets, drops those of less weight.
  void DropLighter(int32_t least);
  // For all others: scores, then the best of these.
  Status ChooseByScore(const ActiveSetQuery& query);
  Status Collect(const ActiveSetQuery& query);
  void KeepBest(int64_t room);
  // Chooses the `room` largest of keys_ (score descending, id ascending).
  void KeepLargestKeys(int64_t room);
  // Writes the chosen ones, and forgets them.
  void WriteAscending(int32_t* ids);
  void Forget();

  const BucketTables tables_;
  const int64_t active_;
  FillOrder fill_order_;
  std::vector<int64_t>& scores_;
  std::vector<int32_t>& touched_;
  int64_t num_touched_ = 0;
  std::vector<int32_t>& chosen_;
  int64_t num_chosen_ = 0;
  std::vector<int64_t>& keys_;
  std::vector<uint64_t>&bits_, &used_words_;
  std::vector<int32_t>&heavy_, &heavy_weights_, &heavy_sizes_;
  int64_t num_heavy_ = 0;
  bool checked_all_ = false;  // the offsets of all buckets
  // From which weight on buckets were worth looking into.
  int32_t last_least_ = kMaxWeight / 8 * 7;
  const VectorKernels& vector_kernels_;
};

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_ACTIVE_SET_H_
