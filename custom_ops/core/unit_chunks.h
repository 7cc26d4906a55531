#ifndef CUSTOM_OPS_CORE_UNIT_CHUNKS_H_
#define CUSTOM_OPS_CORE_UNIT_CHUNKS_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/neuron_samples.h"
#include "custom_ops/core/parallel.h"

namespace keras_lsh {

// Chunks of 2^bits units, and where the ids of each sample pass from one to the
// next. Working chunk by chunk, and in each sample by sample, finds the rows of
// a chunk in the caches without bringing the samples of a neuron together.
class UnitChunks {
 public:
  // ids: of [0, units), or kNoId.
  UnitChunks(const ActiveIds& ids, int64_t units, int bits,
             const ParallelFor& parallel_for);

  // Whether the ids of each sample ascend, unused places last, as active sets
  // do, and there are less than 2^31. If not, there are no chunks.
  bool found() const { return found_; }
  int64_t count() const { return count_; }
  // The place in `ids` where those of the chunk begin in the sample; of the
  // one behind the last chunk, where the used places end.
  int32_t begin(int64_t sample, int64_t chunk) const {
    return begins_[sample * (count_ + 1) + chunk];
  }

 private:
  const int64_t count_;
  bool found_;
  std::vector<int32_t> begins_;  // [batch, count + 1]
};

// The bits of chunks whose rows, of `row_bytes`, stay in the caches until all
// samples have read theirs; -1 if a sample would find too few ids in a chunk
// for that to pay.
int BitsOfCachedChunks(const ActiveIds& ids, int64_t units, int64_t row_bytes);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_UNIT_CHUNKS_H_
