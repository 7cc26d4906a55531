#include "custom_ops/core/bucket_tables.h"

#include <limits>
#include <map>
#include <string>
#include <vector>

#include "custom_ops/core/tests/check.h"

namespace keras_lsh {
namespace testing {
namespace {

using Ints = std::vector<int32_t>;

Ints RandomCodes(Random* random, int64_t n, int64_t buckets) {
  Ints codes(n);
  for (int32_t& code : codes) {
    code = static_cast<int32_t>(random->Below(buckets));
  }
  return codes;
}

struct Tables {
  Tables(const Ints& codes, int64_t units, int64_t tables, int64_t buckets)
      : offsets(tables * (buckets + 1), -77),
        ids(tables * units, -77),
        view{offsets.data(), ids.data(), tables, buckets, units} {
    CHECK_OK(BuildBucketTables(codes.data(), units, tables, buckets,
                               offsets.data(), ids.data()));
  }
  Tables(const Tables&) = delete;
  Tables& operator=(const Tables&) = delete;

  Ints offsets, ids;
  BucketTables view;
};

TEST(SortsNeuronsIntoBuckets) {
  Random random(1);
  for (int64_t units : {0, 1, 2, 17, 100, 1000}) {
    for (int64_t tables : {1, 2, 5}) {
      for (int64_t buckets : {1, 2, 3, 64, 100, 4096}) {
        const Context context("units=", units, " tables=", tables,
                              " buckets=", buckets);
        const Ints codes = RandomCodes(&random, units * tables, buckets);
        const Tables built(codes, units, tables, buckets);
        Ints offsets, ids;
        for (int64_t table = 0; table < tables; ++table) {
          std::map<int64_t, Ints> neurons;  // by bucket
          for (int64_t n = 0; n < units; ++n) {
            neurons[codes[n * tables + table]].push_back(
                static_cast<int32_t>(n));
          }
          int32_t offset = 0;
          offsets.push_back(0);
          for (int64_t code = 0; code < buckets; ++code) {
            const Ints& bucket = neurons[code];
            offset += static_cast<int32_t>(bucket.size());
            offsets.push_back(offset);
            ids.insert(ids.end(), bucket.begin(), bucket.end());
            const int32_t *begin, *end;
            CHECK_OK(FindBucket(built.view,
                                static_cast<int32_t>(table * buckets + code),
                                &begin, &end));
            CHECK_EQ(Ints(begin, end), bucket);
          }
        }
        CHECK_EQ(built.offsets, offsets);
        CHECK_EQ(built.ids, ids);
      }
    }
  }
}

TEST(AllNeuronsInOneBucket) {
  const Tables built(Ints(50, 3), 50, 1, 8);
  CHECK_EQ(built.offsets, (Ints{0, 0, 0, 0, 50, 50, 50, 50, 50}));
  for (int32_t n = 0; n < 50; ++n) CHECK_EQ(built.ids[n], n);
}

TEST(ManyBuckets) {
  constexpr int64_t kBuckets = 1 << 20;
  const Tables built({kBuckets - 1, 0, kBuckets - 1}, 3, 1, kBuckets);
  CHECK_EQ(built.ids, (Ints{1, 0, 2}));
  CHECK_EQ(built.offsets[1], 1);
  CHECK_EQ(built.offsets[kBuckets - 1], 1);
  CHECK_EQ(built.offsets[kBuckets], 3);
}

TEST(RebuildingChangesNothing) {
  Random random(2);
  const Ints codes = RandomCodes(&random, 300 * 2, 32);
  Tables built(codes, 300, 2, 32);
  const Ints offsets = built.offsets, ids = built.ids;
  CHECK_OK(BuildBucketTables(codes.data(), 300, 2, 32, built.offsets.data(),
                             built.ids.data()));
  CHECK_EQ(built.offsets, offsets);
  CHECK_EQ(built.ids, ids);
}

TEST(CodesOutOfRange) {
  for (int32_t bad : {-1, 16, 17, std::numeric_limits<int32_t>::min(),
                      std::numeric_limits<int32_t>::max()}) {
    for (int64_t at : {0, 7, 19}) {
      Ints codes(20, 15), offsets(2 * 17), ids(20);
      codes[at] = bad;
      const Status status = BuildBucketTables(codes.data(), 10, 2, 16,
                                              offsets.data(), ids.data());
      CHECK_ERROR(status, "`codes` must lie in [0, 16)");
      CHECK_ERROR(status, "codes[" + std::to_string(at / 2) + ", " +
                              std::to_string(at % 2) +
                              "]=" + std::to_string(bad));
    }
  }
}

TEST(BucketOutOfRange) {
  const Tables built(Ints(20, 15), 10, 2, 16);
  const int32_t *begin, *end;
  for (int32_t bad : {-1, 32, 33, std::numeric_limits<int32_t>::min(),
                      std::numeric_limits<int32_t>::max()}) {
    const Status status = FindBucket(built.view, bad, &begin, &end);
    CHECK_ERROR(status, "`buckets` must lie in [0, 32)");
    CHECK_ERROR(status, "Received: " + std::to_string(bad));
  }
  CHECK_OK(FindBucket(built.view, 31, &begin, &end));
}

TEST(CorruptOffsets) {
  Random random(3);
  Tables built(RandomCodes(&random, 20, 16), 10, 2, 16);
  const int32_t *begin, *end;
  const Ints good = built.offsets;
  for (int32_t bad : {-1, 11, std::numeric_limits<int32_t>::min(),
                      std::numeric_limits<int32_t>::max()}) {
    for (size_t at = 0; at < good.size(); ++at) {
      built.offsets[at] = bad;
      // The bucket that ends here and the one that begins here.
      const int32_t table = static_cast<int32_t>(at) / 17;
      const int32_t code = static_cast<int32_t>(at) % 17;
      if (code > 0) {
        CHECK_ERROR(FindBucket(built.view, table * 16 + code - 1, &begin, &end),
                    "corrupt: `offsets` of bucket " + std::to_string(code - 1) +
                        " of table " + std::to_string(table));
      }
      if (code < 16) {
        CHECK_ERROR(FindBucket(built.view, table * 16 + code, &begin, &end),
                    "corrupt: `offsets` of bucket " + std::to_string(code) +
                        " of table " + std::to_string(table));
      }
      built.offsets[at] = good[at];
    }
  }
  // In range, but descending.
  built.offsets[3] = 7;
  built.offsets[4] = 6;
  CHECK_ERROR(FindBucket(built.view, 3, &begin, &end), "Received: 7, 6");
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
