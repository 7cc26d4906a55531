#include "custom_ops/core/unit_chunks.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "custom_ops/core/active_set.h"

namespace keras_lsh {
namespace {

// Rows of a chunk if no two samples had one in common. As they do have many in
// common, it is a fraction that has to stay in the second-level cache.
constexpr int64_t kChunkBytes = 1 << 21;

// Of a sample, in a chunk: what begins and ends with a sample takes as long as
// one or two rows.
constexpr int64_t kLeastPlaces = 4;

}  // namespace

UnitChunks::UnitChunks(const ActiveIds& ids, int64_t units, int bits,
                       const ParallelFor& parallel_for)
    : count_(((units - 1) >> bits) + 1), found_(false) {
  // Places are kept in 32 bits.
  if (ids.batch * ids.active > std::numeric_limits<int32_t>::max()) return;
  begins_.resize(ids.batch * (count_ + 1));
  std::atomic<bool> ascend{true};
  parallel_for(ids.batch, 2 * ids.active + count_,
               [&](int64_t first, int64_t last) {
                 for (int64_t b = first; b < last; ++b) {
                   int32_t* begin = begins_.data() + b * (count_ + 1);
                   int64_t chunk = 0;
                   int32_t before = -1;
                   int64_t place = b * ids.active;
                   const int64_t end = place + ids.active;
                   for (; place < end && ids.ids[place] != kNoId; ++place) {
                     const int32_t id = ids.ids[place];
                     if (id < before) ascend = false;
                     before = std::max(before, id);
                     while (chunk <= before >> bits) {
                       begin[chunk++] = static_cast<int32_t>(place);
                     }
                   }
                   while (chunk <= count_) {
                     begin[chunk++] = static_cast<int32_t>(place);
                   }
                   for (; place < end; ++place) {
                     if (ids.ids[place] != kNoId) ascend = false;
                   }
                 }
               });
  found_ = ascend;
}

int BitsOfCachedChunks(const ActiveIds& ids, int64_t units, int64_t row_bytes) {
  const int64_t bytes = std::min(ids.batch * ids.active, units) * row_bytes;
  const int64_t chunks = bytes / kChunkBytes + 1;
  if (chunks > 1 && ids.active / chunks < kLeastPlaces) return -1;
  int bits = 0;
  while ((units - 1) >> bits >= chunks) ++bits;
  return bits;
}

}  // namespace keras_lsh
