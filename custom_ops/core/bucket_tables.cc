#include "custom_ops/core/bucket_tables.h"

#include <algorithm>
#include <string>

namespace keras_lsh {

Status BuildBucketTables(const int32_t* codes, int64_t units, int64_t tables,
                         int64_t buckets, int32_t* offsets, int32_t* ids) {
  for (int64_t table = 0; table < tables; ++table) {
    int32_t* offset = offsets + table * (buckets + 1);
    int32_t* id = ids + table * units;
    std::fill_n(offset, buckets + 1, 0);
    for (int64_t n = 0; n < units; ++n) {
      const int32_t code = codes[n * tables + table];
      if (code < 0 || code >= buckets) {
        return Status::Invalid(
            "`codes` must lie in [0, " + std::to_string(buckets) +
            "). Received: codes[" + std::to_string(n) + ", " +
            std::to_string(table) + "]=" + std::to_string(code));
      }
      ++offset[code + 1];
    }
    // offset[c + 1] holds the size of bucket c. Make it the place of its first
    // neuron; placing the neurons then moves it to the end of the bucket.
    int32_t start = 0;
    for (int64_t c = 0; c < buckets; ++c) {
      const int32_t size = offset[c + 1];
      offset[c + 1] = start;
      start += size;
    }
    for (int64_t n = 0; n < units; ++n) {
      const int32_t code = codes[n * tables + table];
      id[offset[code + 1]++] = static_cast<int32_t>(n);
    }
  }
  return Status();
}

Status FindBucket(const BucketTables& tables, int32_t bucket,
                  const int32_t** begin, const int32_t** end) {
  if (bucket < 0 || bucket >= tables.tables * tables.buckets) {
    return Status::Invalid("`buckets` must lie in [0, " +
                           std::to_string(tables.tables * tables.buckets) +
                           ") (tables times buckets per table). Received: " +
                           std::to_string(bucket));
  }
  // A division costs more than all the rest.
  const int64_t table = tables.tables == 1 ? 0 : bucket / tables.buckets;
  const int64_t code = bucket - table * tables.buckets;
  const int32_t* offset = tables.offsets + table * (tables.buckets + 1) + code;
  if (offset[0] < 0 || offset[1] < offset[0] || offset[1] > tables.units) {
    return Status::Invalid("The hash tables are corrupt: `offsets` of bucket " +
                           std::to_string(code) + " of table " +
                           std::to_string(table) + " must ascend within [0, " +
                           std::to_string(tables.units) +
                           "]. Received: " + std::to_string(offset[0]) + ", " +
                           std::to_string(offset[1]) + ". Rebuild the tables.");
  }
  const int32_t* ids = tables.ids + table * tables.units;
  *begin = ids + offset[0];
  *end = ids + offset[1];
  return Status();
}

}  // namespace keras_lsh
