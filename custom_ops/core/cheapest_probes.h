#ifndef CUSTOM_OPS_CORE_CHEAPEST_PROBES_H_
#define CUSTOM_OPS_CORE_CHEAPEST_PROBES_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// Chooses the cheapest buckets of all tables without ordering them: whoever can
// list the buckets that cost no more than some limit need not keep a heap.
//
// The limit is guessed (by that of the last sample) and corrected until the
// list is long enough and not much longer. The choice does not depend on the
// guesses: of equal costs those that were listed first are chosen.
class CheapestProbes {
 public:
  explicit CheapestProbes(const VectorKernels& vector_kernels)
      : vector_kernels_(vector_kernels) {}

  // Lists, by calls of Add, buckets in an order that does not depend on the
  // limit. Where Add says no, it may skip the bucket and any whose cost is no
  // smaller and whose place in the order is later. It returns as soon as
  // Overflows.
  using List = std::function<void()>;

  // Writes the `count` cheapest of what `list` lists, in the order of the list.
  // There must be as many if the limit is infinite.
  void Run(int64_t count, const List& list, int32_t* buckets, float* costs);

  // No bucket that costs more can be wanted.
  float limit() const { return limit_; }
  // With more buckets than this, the list is too long.
  int64_t most() const { return most_; }

  // Adds a bucket if it may be wanted, and says so. There must be room: see
  // Overflows. `cost` is neither negative nor NaN.
  bool Add(float cost, int32_t bucket) {
    // No branches: they could not be predicted.
    const bool tie = cost == limit_;
    const bool wanted = (cost < limit_) | (tie & (ties_left_ > 0));
    ties_left_ -= wanted & tie;
    costs_[size_] = cost;
    buckets_[size_] = bucket;
    size_ += wanted;
    return wanted;
  }
  // Whether there is more than can be of use; if not, there is room for so many
  // more.
  bool Overflows(int64_t more) {
    if (size_ > most_) return true;
    if (size_ + more > static_cast<int64_t>(costs_.size()) - 1) {
      costs_.resize(2 * (size_ + more) + 1);
      buckets_.resize(costs_.size());
    }
    return false;
  }
  // Says that there would be too many.
  void Overflow() { size_ = most_ + 1; }

 private:
  bool TryLimit(int64_t count, const List& list);

  const VectorKernels& vector_kernels_;
  float limit_ = 1.0f;
  float guess_ = 1.0f;
  int64_t ties_left_ = 0;
  int64_t size_ = 0;
  int64_t most_ = 0;
  std::vector<float> costs_;
  std::vector<int32_t> buckets_;
  std::vector<int32_t> keys_;
};

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_CHEAPEST_PROBES_H_
