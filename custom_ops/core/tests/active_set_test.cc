#include "custom_ops/core/active_set.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "custom_ops/core/bucket_tables.h"
#include "custom_ops/core/tests/check.h"
#include "custom_ops/core/tests/variants.h"

namespace keras_lsh {
namespace testing {
namespace {

using Ints = std::vector<int32_t>;

constexpr int32_t kMinInt = std::numeric_limits<int32_t>::min();
constexpr int32_t kMaxInt = std::numeric_limits<int32_t>::max();

bool IsPrime(int64_t n) {
  for (int64_t d = 2; d * d <= n; ++d) {
    if (n % d == 0) return false;
  }
  return n > 1;
}

int64_t FillPrime(int64_t units) {
  int64_t prime = std::max<int64_t>(units, 2);
  while (!IsPrime(prime)) ++prime;
  return prime;
}

// The documented rank of neuron n; `prime` is FillPrime(units).
int64_t FillRank(int64_t n, int64_t prime, int32_t seed) {
  constexpr int64_t kModulus = 2147483647;
  const int64_t s = static_cast<int64_t>(static_cast<uint32_t>(seed));
  const int64_t h1 = (s % kModulus * 48271 + 11) % kModulus;
  const int64_t h2 = (h1 * 16807 + 7) % kModulus;
  return ((1 + h1 % (prime - 1)) * n + h2 % prime) % prime;
}

struct Tables {
  Tables(Random* random, int64_t units, int64_t tables, int64_t buckets)
      : codes(units * tables),
        offsets(tables * (buckets + 1)),
        ids(tables * units),
        view{offsets.data(), ids.data(), tables, buckets, units} {
    for (int32_t& code : codes) {
      code = static_cast<int32_t>(random->Below(buckets));
    }
    CHECK_OK(BuildBucketTables(codes.data(), units, tables, buckets,
                               offsets.data(), ids.data()));
  }
  Tables(const Tables&) = delete;
  Tables& operator=(const Tables&) = delete;

  Ints codes, offsets, ids;
  BucketTables view;
};

struct Query {
  Ints buckets, weights, forced;
  bool fill = false;
  int32_t fill_seed = 0;

  ActiveSetQuery view() const {
    return {buckets.data(),
            weights.data(),
            static_cast<int64_t>(buckets.size()),
            forced.data(),
            static_cast<int64_t>(forced.size()),
            fill,
            fill_seed};
  }
};

// Few different weights, so that scores tie.
Query RandomQuery(Random* random, const BucketTables& tables, int64_t probes,
                  int64_t forced) {
  Query query;
  for (int64_t i = 0; i < probes; ++i) {
    query.buckets.push_back(
        static_cast<int32_t>(random->Below(tables.tables * tables.buckets)));
    query.weights.push_back(static_cast<int32_t>(1 + random->Below(3)));
  }
  for (int64_t i = 0; i < forced; ++i) {
    query.forced.push_back(
        static_cast<int32_t>(random->Below(tables.units + 1) - 1));
  }
  query.fill = random->Chance(0.5);
  query.fill_seed = random->Int32();
  return query;
}

int64_t DistinctForced(const Query& query) {
  std::set<int32_t> forced(query.forced.begin(), query.forced.end());
  forced.erase(kNoId);
  return static_cast<int64_t>(forced.size());
}

// The documented choice, by sorting all neurons, from the codes alone.
Ints Expected(const Tables& tables, const Query& query, int64_t active) {
  const int64_t units = tables.view.units;
  std::set<int32_t> chosen(query.forced.begin(), query.forced.end());
  chosen.erase(kNoId);

  std::vector<int64_t> scores(units);
  for (size_t i = 0; i < query.buckets.size(); ++i) {
    const int64_t table = query.buckets[i] / tables.view.buckets;
    const int64_t code = query.buckets[i] % tables.view.buckets;
    for (int64_t n = 0; n < units; ++n) {
      if (tables.codes[n * tables.view.tables + table] == code) {
        scores[n] += query.weights[i];
      }
    }
  }
  Ints order(units);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  for (int32_t n : order) {
    if (scores[n] > 0 && static_cast<int64_t>(chosen.size()) < active) {
      chosen.insert(n);
    }
  }
  if (query.fill) {
    const int64_t prime = FillPrime(units);
    std::vector<int64_t> ranks(units);
    for (int64_t n = 0; n < units; ++n) {
      ranks[n] = FillRank(n, prime, query.fill_seed);
    }
    std::sort(order.begin(), order.end(),
              [&](int32_t a, int32_t b) { return ranks[a] < ranks[b]; });
    for (int32_t n : order) {
      if (static_cast<int64_t>(chosen.size()) < active) chosen.insert(n);
    }
  }
  Ints ids(chosen.begin(), chosen.end());
  ids.resize(active, kNoId);
  return ids;
}

Ints Select(ActiveSetSelector* selector, const Query& query, int64_t active) {
  Ints ids(active, -77);
  CHECK_OK(selector->Select(query.view(), ids.data()));
  return ids;
}

void CheckClean(const ActiveSetScratch& scratch) {
  CHECK_EQ(scratch.scores, std::vector<int64_t>(scratch.scores.size(), 0));
}

TEST(FillOrderIsThePermutationOfItsFormula) {
  Ints all_units = {500, 997, 1000, 1024};
  for (int32_t units = 1; units <= 130; ++units) all_units.push_back(units);
  for (int32_t units : all_units) {
    FillOrder order(units);
    const int64_t prime = FillPrime(units);
    for (int32_t seed : {0, 1, 2, -1, 12345, kMinInt, kMaxInt, kMaxInt - 1}) {
      const Context context("units=", units, " seed=", seed);
      Ints expected(units);
      std::iota(expected.begin(), expected.end(), 0);
      std::sort(expected.begin(), expected.end(), [&](int32_t a, int32_t b) {
        return FillRank(a, prime, seed) < FillRank(b, prime, seed);
      });
      order.Reset(seed);
      Ints neurons;
      for (int32_t i = 0; i < units; ++i) neurons.push_back(order.Next());
      CHECK_EQ(neurons, expected);
      // A permutation, so the ranks differ and the sorting above is unique.
      std::sort(neurons.begin(), neurons.end());
      for (int32_t i = 0; i < units; ++i) CHECK_EQ(neurons[i], i);
    }
  }
}

TEST(FillOrderOfManyUnits) {
  for (int64_t units : {int64_t{670091}, int64_t{1} << 30, int64_t{2147483646},
                        int64_t{2147483647}}) {
    FillOrder order(units);
    const int64_t prime = FillPrime(units);
    for (int32_t seed : {0, 7, -5}) {
      const Context context("units=", units, " seed=", seed);
      order.Reset(seed);
      int64_t last = -1;
      for (int64_t i = 0; i < 1000; ++i) {
        const int32_t n = order.Next();
        CHECK(n >= 0 && n < units);
        const int64_t rank = FillRank(n, prime, seed);
        // Only the ranks of numbers from `units` to `prime` are left out.
        CHECK(rank > last && rank <= i + prime - units);
        last = rank;
      }
    }
  }
}

TEST(FillOrderDependsOnTheSeed) {
  FillOrder order(10007);
  std::set<int32_t> first;
  for (int32_t seed = 0; seed < 100; ++seed) {
    order.Reset(seed);
    first.insert(order.Next());
  }
  CHECK(first.size() > 90);
}

TEST(RandomQueries) {
  Random random(1);
  ActiveSetScratch scratch;  // shared by tables of all sizes
  for (int repeat = 0; repeat < 400; ++repeat) {
    const int64_t units = 1 + random.Below(random.Chance(0.3) ? 8 : 150);
    const Tables tables(&random, units, 1 + random.Below(4),
                        1 + random.Below(20));
    const int64_t active = 1 + random.Below(units);
    const std::vector<SimdLevel> levels = Levels();
    ActiveSetSelector selector(tables.view, active,
                               GetVectorKernels(levels[repeat % levels.size()]),
                               &scratch);
    for (int sample = 0; sample < 5; ++sample) {
      const Query query = RandomQuery(&random, tables.view, random.Below(20),
                                      random.Below(1 + active / 2));
      const Context context("repeat=", repeat, " sample=", sample,
                            " units=", units, " active=", active,
                            " fill=", query.fill);
      CHECK_EQ(Select(&selector, query, active),
               Expected(tables, query, active));
      CheckClean(scratch);
    }
  }
}

TEST(ForcedUpToTheCap) {
  Random random(2);
  for (int repeat = 0; repeat < 300; ++repeat) {
    const int64_t units = 1 + random.Below(20);
    const Tables tables(&random, units, 2, 4);
    const int64_t active = 1 + random.Below(units);
    ActiveSetScratch scratch;
    ActiveSetSelector selector(tables.view, active, GetVectorKernels(),
                               &scratch);
    const Query query =
        RandomQuery(&random, tables.view, 4, random.Below(2 * units));
    const Context context("repeat=", repeat, " units=", units,
                          " active=", active, " forced=", query.forced.size());
    Ints ids(active);
    const Status status = selector.Select(query.view(), ids.data());
    if (DistinctForced(query) > active) {
      CHECK_ERROR(status, "`active`=" + std::to_string(active));
      CHECK_ERROR(status, "`forced`");
    } else {
      CHECK_OK(status);
      CHECK_EQ(ids, Expected(tables, query, active));
    }
    CheckClean(scratch);
  }
}

TEST(NothingToLookInto) {
  Random random(3);
  const Tables tables(&random, 10, 2, 4);
  ActiveSetScratch scratch;
  ActiveSetSelector selector(tables.view, 4, GetVectorKernels(), &scratch);
  CHECK_EQ(Select(&selector, {}, 4), (Ints{-1, -1, -1, -1}));
  // No pointers are needed where there is nothing.
  Ints ids(4);
  CHECK_OK(
      selector.Select({nullptr, nullptr, 0, nullptr, 0, false, 0}, ids.data()));
  CHECK_EQ(ids, (Ints{-1, -1, -1, -1}));
  Query query;
  query.forced = {-1, 7, -1, 2, 7, -1};
  CHECK_EQ(Select(&selector, query, 4), (Ints{2, 7, -1, -1}));
  query.fill = true;
  query.fill_seed = 3;
  CHECK_EQ(Select(&selector, query, 4), Expected(tables, query, 4));
}

TEST(AllUnitsActive) {
  Random random(4);
  for (int64_t units : {1, 2, 30}) {
    const Tables tables(&random, units, 1, 1);
    ActiveSetScratch scratch;
    ActiveSetSelector selector(tables.view, units, GetVectorKernels(),
                               &scratch);
    Ints all(units);
    std::iota(all.begin(), all.end(), 0);
    Query one_bucket;
    one_bucket.buckets = {0};
    one_bucket.weights = {65536};
    CHECK_EQ(Select(&selector, one_bucket, units), all);
    Query fill;
    fill.fill = true;
    CHECK_EQ(Select(&selector, fill, units), all);
    Query forced;
    forced.forced = Ints(all.rbegin(), all.rend());
    CHECK_EQ(Select(&selector, forced, units), all);
  }
}

TEST(OfEqualScoresTheSmallerIdIsChosen) {
  Random random(5);
  const Tables tables(&random, 100, 1, 1);
  ActiveSetScratch scratch;
  ActiveSetSelector selector(tables.view, 3, GetVectorKernels(), &scratch);
  Query query;
  query.buckets = {0};
  query.weights = {5};
  CHECK_EQ(Select(&selector, query, 3), (Ints{0, 1, 2}));
  query.forced = {50};
  CHECK_EQ(Select(&selector, query, 3), (Ints{0, 1, 50}));
}

TEST(LargestScores) {
  // Neurons 0 and 1 are alone in their buckets; 0 or 1 wins by one point.
  const Ints offsets = {0, 1, 2}, ids = {0, 1};
  const BucketTables tables = {offsets.data(), ids.data(), 1, 2, 2};
  ActiveSetScratch scratch;
  ActiveSetSelector selector(tables, 1, GetVectorKernels(), &scratch);
  for (int32_t winner : {0, 1}) {
    Query query;
    query.buckets.assign(kMaxBuckets, winner);
    query.weights.assign(kMaxBuckets, kMaxWeight);
    CHECK_EQ(Select(&selector, query, 1), (Ints{winner}));
    query.buckets.push_back(winner);
    query.weights.push_back(1);
    CHECK_ERROR(selector.Select(query.view(), Ints(1).data()),
                "`buckets` must be at most 32767 a sample. Received: 32768");
  }
}

// One table, all its buckets or many: those that are not needed are not read.
TEST(CellsByWorth) {
  Random random(11);
  for (int64_t buckets : {1, 2, 7, 40}) {
    const int64_t units = 90;
    const Tables tables(&random, units, 1, buckets);
    for (int64_t active : {1, 5, 30, 90}) {
      ActiveSetScratch scratch;
      ActiveSetSelector selector(tables.view, active, GetVectorKernels(),
                                 &scratch);
      for (int trial = 0; trial < 20; ++trial) {
        Query query;
        for (int32_t bucket = 0; bucket < buckets; ++bucket) {
          if (trial > 10 && random.Chance(0.3)) continue;
          query.buckets.push_back(bucket);
          // Close together, far apart, equal, at the ends of the range.
          const int64_t range = trial % 2 == 0 ? 700 : kMaxWeight;
          query.weights.push_back(
              trial % 5 == 0 ? (random.Chance(0.5) ? 1 : kMaxWeight)
                             : static_cast<int32_t>(1 + random.Below(range)));
        }
        if (trial % 7 == 6 && !query.buckets.empty()) {  // one twice
          query.buckets.push_back(query.buckets[0]);
          query.weights.push_back(static_cast<int32_t>(1 + random.Below(500)));
        }
        if (trial % 3 == 2) {
          for (int64_t f = random.Below(std::min<int64_t>(active, 12)); f >= 0;
               --f) {
            query.forced.push_back(static_cast<int32_t>(random.Below(units)));
          }
          if (random.Chance(0.5)) query.forced.push_back(kNoId);
        }
        query.fill = trial % 4 == 3;
        const Ints expected = Expected(tables, query, active);
        CHECK_EQ(Select(&selector, query, active), expected);
        if (static_cast<int64_t>(query.buckets.size()) != buckets) continue;
        ActiveSetQuery all = query.view();
        std::iota(query.buckets.begin(), query.buckets.end(), 0);
        const Ints in_order = Expected(tables, query, active);
        all.buckets = nullptr;
        Ints ids(active, -77);
        CHECK_OK(selector.Select(all, ids.data()));
        CHECK_EQ(ids, in_order);
      }
    }
  }
}

TEST(ManyUnitsFewActive) {
  Random random(6);
  const Tables tables(&random, 200000, 1, 1 << 14);
  for (int64_t active : {1, 10, 100}) {
    ActiveSetScratch scratch;
    ActiveSetSelector selector(tables.view, active, GetVectorKernels(),
                               &scratch);
    for (int sample = 0; sample < 3; ++sample) {
      Query query = RandomQuery(&random, tables.view, 3, 1);
      query.fill = sample > 0;
      CHECK_EQ(Select(&selector, query, active),
               Expected(tables, query, active));
    }
  }
}

TEST(ThreadsWithScratchOfTheirOwn) {
  Random random(7);
  constexpr int64_t kActive = 12, kSamples = 200;
  const Tables tables(&random, 300, 3, 16);
  std::vector<Query> queries;
  for (int64_t i = 0; i < kSamples; ++i) {
    queries.push_back(RandomQuery(&random, tables.view, 9, 3));
  }
  Ints ids(kSamples * kActive);
  const auto select = [&](int64_t begin, int64_t end) {
    ActiveSetScratch scratch;
    ActiveSetSelector selector(tables.view, kActive, GetVectorKernels(),
                               &scratch);
    for (int64_t i = begin; i < end; ++i) {
      (void)selector.Select(queries[i].view(), ids.data() + i * kActive).ok();
    }
  };
  std::thread first(select, 0, 70), second(select, 70, kSamples);
  first.join();
  second.join();
  for (int64_t i = 0; i < kSamples; ++i) {
    CHECK_EQ(Ints(ids.begin() + i * kActive, ids.begin() + (i + 1) * kActive),
             Expected(tables, queries[i], kActive));
  }
}

// Each error leaves the selector and its scratch usable.
class ErrorCase {
 public:
  static constexpr int64_t kUnits = 30, kActive = 6;

  ErrorCase()
      : random_(8),
        tables_(&random_, kUnits, 2, 4),
        selector_(tables_.view, kActive, GetVectorKernels(), &scratch_) {
    good_.buckets = {0, 1, 6, 1};
    good_.weights = {3, 1, 2, 65536};
    good_.forced = {4, -1, 29};
  }

  Tables& tables() { return tables_; }
  const Query& good() const { return good_; }

  void Check(const Query& bad, const std::string& part) {
    const Context context("expected: ", part);
    Ints ids(kActive);
    CHECK_ERROR(selector_.Select(bad.view(), ids.data()), part);
    CheckClean(scratch_);
  }
  void CheckGood() {
    CHECK_EQ(Select(&selector_, good_, kActive),
             Expected(tables_, good_, kActive));
    CheckClean(scratch_);
  }

 private:
  Random random_;
  Tables tables_;
  ActiveSetScratch scratch_;
  ActiveSetSelector selector_;
  Query good_;
};

TEST(BadBuckets) {
  ErrorCase error_case;
  for (int32_t bad : {-1, 8, kMinInt, kMaxInt}) {
    for (size_t at : {0, 3}) {
      Query query = error_case.good();
      query.buckets[at] = bad;
      error_case.Check(query, "`buckets` must lie in [0, 8)");
      error_case.Check(query, "Received: " + std::to_string(bad));
      error_case.CheckGood();
    }
  }
}

TEST(BadWeights) {
  ErrorCase error_case;
  for (int32_t bad : {0, -1, kMinInt}) {
    for (size_t at : {0, 3}) {
      Query query = error_case.good();
      query.weights[at] = bad;
      error_case.Check(query, "`weights` must lie in [1, 65536]. Received: " +
                                  std::to_string(bad));
      error_case.CheckGood();
    }
  }
}

TEST(BadForced) {
  ErrorCase error_case;
  for (int32_t bad : {-2, 30, kMinInt, kMaxInt}) {
    for (size_t at : {0, 2}) {
      Query query = error_case.good();
      query.forced[at] = bad;
      error_case.Check(query, "`forced` ids must lie in [0, 30)");
      error_case.Check(query, "Received: " + std::to_string(bad));
      error_case.CheckGood();
    }
  }
}

TEST(TooManyForced) {
  ErrorCase error_case;
  Query query = error_case.good();
  query.forced = {0, 1, 2, 3, 4, 5, 5, -1};
  Ints ids = {0, 1, 2, 3, 4, 5};
  error_case.CheckGood();
  query.forced.push_back(6);
  error_case.Check(query, "`forced`");
  error_case.Check(query, "`active`=6");
  error_case.CheckGood();
}

TEST(CorruptOffsets) {
  ErrorCase error_case;
  Ints& offsets = error_case.tables().offsets;
  const Ints good = offsets;
  for (int32_t bad : {-1, 31, kMinInt, kMaxInt}) {
    // In the first, second and last bucket that the query looks into.
    for (size_t at : {0, 1, 2, 7}) {
      offsets[at] = bad;
      error_case.Check(error_case.good(), "corrupt: `offsets`");
      offsets = good;
      error_case.CheckGood();
    }
  }
  std::swap(offsets[1], offsets[2]);
  CHECK(good[1] < good[2]);
  error_case.Check(error_case.good(), "corrupt: `offsets`");
  offsets = good;
  error_case.CheckGood();
}

TEST(CorruptIds) {
  ErrorCase error_case;
  Ints& ids = error_case.tables().ids;
  const Ints& offsets = error_case.tables().offsets;
  const Ints good = ids;
  for (int32_t bad : {-1, 30, kMinInt, kMaxInt}) {
    // In the middle of the first bucket and at the end of the second.
    for (size_t at : {offsets[1] / 2, offsets[2] - 1}) {
      ids[at] = bad;
      error_case.Check(error_case.good(), "`table_ids` must lie in [0, 30)");
      error_case.Check(error_case.good(), "Received: " + std::to_string(bad));
      ids = good;
      error_case.CheckGood();
    }
  }
}

TEST(RepeatedIdsInCorruptTablesAreChosenOnce) {
  const Ints offsets = {0, 3, 5}, ids = {2, 2, 2, 1, 2};
  const BucketTables tables = {offsets.data(), ids.data(), 1, 2, 5};
  ActiveSetScratch scratch;
  ActiveSetSelector selector(tables, 4, GetVectorKernels(), &scratch);
  Query query;
  query.buckets = {0, 1, 0};
  query.weights = {1, 1, 1};
  CHECK_EQ(Select(&selector, query, 4), (Ints{1, 2, -1, -1}));
  CheckClean(scratch);
}

}  // namespace
}  // namespace testing
}  // namespace keras_lsh
