#ifndef CUSTOM_OPS_CORE_BUCKET_TABLES_H_
#define CUSTOM_OPS_CORE_BUCKET_TABLES_H_

#include <cstdint>

#include "custom_ops/core/status.h"

namespace keras_lsh {

// Hash tables in compressed sparse rows: the neurons of bucket c of table t are
// ids[t * units + offsets[c]] ... up to offsets[c + 1], offsets being row t.
// Every neuron stands once in every table, and the ids of a bucket ascend.
struct BucketTables {
  const int32_t* offsets;  // [tables, buckets + 1], each row from 0 to units
  const int32_t* ids;      // [tables, units]
  int64_t tables;
  int64_t buckets;
  int64_t units;
};

// Sorts neurons into buckets, by counting; ids ascend within a bucket.
//
//   codes    [units, tables], in [0, buckets), else an error
//   offsets  [tables, buckets + 1], written
//   ids      [tables, units], written
Status BuildBucketTables(const int32_t* codes, int64_t units, int64_t tables,
                         int64_t buckets, int32_t* offsets, int32_t* ids);

// Finds a bucket's neurons, given its global number table * buckets + code.
// Errors, rather than reading out of bounds, if the number or the offsets are
// out of range (a corrupt checkpoint). The ids themselves are not checked.
Status FindBucket(const BucketTables& tables, int32_t bucket,
                  const int32_t** begin, const int32_t** end);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_BUCKET_TABLES_H_
