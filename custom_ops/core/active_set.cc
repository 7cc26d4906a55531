#include "custom_ops/core/active_set.h"

#include <algorithm>
#include <array>
#include <functional>
#include <set>
#include <string>

namespace keras_lsh {
namespace {

constexpr int64_t kBins = 256;
constexpr int32_t kWeightsPerBin = kMaxWeight / kBins;
constexpr int32_t kLargestId = 2147483647;
constexpr int64_t kModulus = 2147483647;  // 2^31 - 1, a prime

bool IsPrime(int64_t n) {
  for (int64_t d = 2; d * d <= n; ++d) {
    if (n % d == 0) return false;
  }
  return n >= 2;
}

// The inverse of a modulo the prime p, 0 < a < p (extended Euclid).
int64_t Inverse(int64_t a, int64_t p) {
  int64_t r0 = p, r1 = a, s0 = 0, s1 = 1;
  while (r1 != 0) {
    const int64_t quotient = r0 / r1;
    r0 -= quotient * r1;
    std::swap(r0, r1);
    s0 -= quotient * s1;
    std::swap(s0, s1);
  }
  return s0 < 0 ? s0 + p : s0;
}

Status OutOfRange(const char* what, int32_t id, int64_t units,
                  const char* hint) {
  return Status::Invalid(std::string(what) + " must lie in [0, " +
                         std::to_string(units) + "), the number of units. " +
                         "Received: " + std::to_string(id) + "." + hint);
}

int64_t CountDifferent(const ActiveSetQuery& query) {
  std::set<int32_t> ids(query.forced, query.forced + query.num_forced);
  ids.erase(kNoId);
  return static_cast<int64_t>(ids.size());
}

}  // namespace

FillOrder::FillOrder(int64_t units)
    : units_(units), prime_(std::max<int64_t>(units, 2)) {
  while (!IsPrime(prime_)) ++prime_;
}

void FillOrder::Reset(int32_t seed) {
  const int64_t s = static_cast<int64_t>(static_cast<uint32_t>(seed));
  const int64_t h1 = (s % kModulus * 48271 + 11) % kModulus;
  const int64_t h2 = (h1 * 16807 + 7) % kModulus;
  const int64_t multiplier = 1 + h1 % (prime_ - 1);
  const int64_t shift = h2 % prime_;
  step_ = Inverse(multiplier, prime_);
  // Rank 0 belongs to n with multiplier * n + shift = 0 (mod prime).
  place_ = (prime_ - shift) % prime_ * step_ % prime_;
}

int32_t FillOrder::Next() {
  int64_t n;
  do {
    n = place_;
    place_ += step_;
    if (place_ >= prime_) place_ -= prime_;
  } while (n >= units_);
  return static_cast<int32_t>(n);
}

ActiveSetSelector::ActiveSetSelector(const BucketTables& tables, int64_t active,
                                     ActiveSetScratch* scratch)
    : tables_(tables),
      active_(active),
      fill_order_(tables.units),
      scores_(scratch->scores),
      touched_(scratch->touched),
      chosen_(scratch->chosen),
      keys_(scratch->keys),
      ascending_(scratch->ascending),
      seen_(scratch->seen) {
  scores_.resize(tables.units, 0);
  touched_.resize(tables.units + 1);  // one place to spare for unneeded writes
  ascending_.resize(active + 1);
}

Status ActiveSetSelector::Force(const ActiveSetQuery& query) {
  for (int64_t i = 0; i < query.num_forced; ++i) {
    const int32_t id = query.forced[i];
    if (id == kNoId) continue;
    if (id < 0 || id >= tables_.units) {
      return OutOfRange("`forced` ids", id, tables_.units, "");
    }
    if (scores_[id] != 0) continue;
    if (static_cast<int64_t>(chosen_.size()) == active_) {
      return Status::Invalid(
          "`active`=" + std::to_string(active_) +
          " neurons do not hold all the `forced` ones of a sample. Raise "
          "`active`. Received: " +
          std::to_string(CountDifferent(query)) + " different `forced` ids");
    }
    scores_[id] = -1;
    chosen_.push_back(id);
  }
  return Status();
}

int32_t ActiveSetSelector::LeastUsefulWeight(const ActiveSetQuery& query) {
  // In several tables a neuron may gather its score from many small weights.
  if (tables_.tables > 1) return 1;
  if (seen_.size() != static_cast<size_t>(tables_.buckets)) {
    seen_.assign(tables_.buckets, 0);
  }
  std::array<int64_t, kBins> sizes{};  // neurons by weight
  bool distinct = true;
  int64_t marked = 0;
  for (; marked < query.num_buckets; ++marked) {
    const int32_t bucket = query.buckets[marked];
    const int32_t *id, *end;
    if (!FindBucket(tables_, bucket, &id, &end).ok())
      break;  // Collect says why
    distinct = distinct && !seen_[bucket];
    seen_[bucket] = 1;
    const int32_t weight =
        std::clamp<int32_t>(query.weights[marked], 1, kMaxWeight);
    sizes[(weight - 1) / kWeightsPerBin] += end - id;
  }
  for (int64_t i = 0; i < marked; ++i) seen_[query.buckets[i]] = 0;
  if (!distinct || marked < query.num_buckets) return 1;
  // Forced neurons may be among those counted.
  int64_t wanted = active_ + query.num_forced;
  int32_t bin = kBins - 1;
  while (bin > 0 && (wanted -= sizes[bin]) > 0) --bin;
  return bin * kWeightsPerBin + 1;
}

Status ActiveSetSelector::Collect(const ActiveSetQuery& query) {
  if (query.num_buckets > kMaxBuckets) {
    return Status::Invalid(
        "`buckets` must be at most " + std::to_string(kMaxBuckets) +
        " a sample. Received: " + std::to_string(query.num_buckets));
  }
  const int32_t least_useful = LeastUsefulWeight(query);
  for (int64_t i = 0; i < query.num_buckets; ++i) {
    const int32_t weight = query.weights[i];
    if (weight < 1 || weight > kMaxWeight) {
      return Status::Invalid("`weights` must lie in [1, " +
                             std::to_string(kMaxWeight) +
                             "]. Received: " + std::to_string(weight));
    }
    const int32_t *id, *end;
    Status status = FindBucket(tables_, query.buckets[i], &id, &end);
    if (!status.ok()) return status;
    if (weight < least_useful) continue;
    for (; id != end; ++id) {
      if (*id < 0 || *id >= tables_.units) {
        return OutOfRange("The hash tables are corrupt: `table_ids`", *id,
                          tables_.units, " Rebuild the tables.");
      }
      // No branch here: whether a neuron was met before cannot be predicted.
      int64_t& score = scores_[*id];
      touched_[num_touched_] = *id;
      num_touched_ += score == 0;
      score += score < 0 ? 0 : weight;
    }
  }
  return Status();
}

void ActiveSetSelector::KeepBest(int64_t room) {
  const auto touched_end = touched_.begin() + num_touched_;
  if (room >= num_touched_) {
    chosen_.insert(chosen_.end(), touched_.begin(), touched_end);
    return;
  }
  // A histogram finds the score at which room ends; only the neurons in that
  // bin have to be ordered. Sorting them all would cost more than finding them.
  int64_t largest = 0;
  for (auto id = touched_.begin(); id != touched_end; ++id) {
    largest = std::max(largest, scores_[*id]);
  }
  int shift = 0;
  while (largest >> shift >= kBins) ++shift;
  std::array<int32_t, kBins> bins{};
  for (auto id = touched_.begin(); id != touched_end; ++id) {
    ++bins[scores_[*id] >> shift];
  }
  int64_t last_bin = kBins - 1;
  int64_t above = 0;
  while (above + bins[last_bin] < room) above += bins[last_bin--];

  // (score descending, id ascending) as one number.
  keys_.clear();
  for (auto id = touched_.begin(); id != touched_end; ++id) {
    const int64_t score = scores_[*id], bin = score >> shift;
    if (bin < last_bin) continue;
    if (bin > last_bin) {
      chosen_.push_back(*id);
    } else {
      keys_.push_back(score << 31 | (kLargestId - *id));
    }
  }
  const int64_t rest = room - above;
  std::nth_element(keys_.begin(), keys_.begin() + rest, keys_.end(),
                   std::greater<int64_t>());
  for (int64_t i = 0; i < rest; ++i) {
    chosen_.push_back(kLargestId - static_cast<int32_t>(keys_[i] & kLargestId));
  }
}

void ActiveSetSelector::WriteAscending(int32_t* ids) {
  const int64_t count = static_cast<int64_t>(chosen_.size());
  if (tables_.units < 16 * count) {
    // Few units for each chosen one: faster to look at all of them than to
    // sort.
    for (int32_t id : chosen_) scores_[id] = -1;
    int64_t place = 0;
    for (int64_t id = 0; id < tables_.units; ++id) {
      ascending_[place] = static_cast<int32_t>(id);
      place += scores_[id] < 0;
    }
    std::copy_n(ascending_.begin(), count, ids);
  } else {
    std::sort(chosen_.begin(), chosen_.end());
    std::copy(chosen_.begin(), chosen_.end(), ids);
  }
  std::fill(ids + count, ids + active_, kNoId);
}

Status ActiveSetSelector::Select(const ActiveSetQuery& query, int32_t* ids) {
  chosen_.clear();
  num_touched_ = 0;
  Status status = Force(query);
  if (status.ok()) status = Collect(query);
  if (status.ok()) {
    KeepBest(active_ - static_cast<int64_t>(chosen_.size()));
    // Here either all touched neurons are chosen or there is no room left, so
    // a neuron is free to fill with exactly if its score is zero.
    if (query.fill && static_cast<int64_t>(chosen_.size()) < active_) {
      fill_order_.Reset(query.fill_seed);
      while (static_cast<int64_t>(chosen_.size()) < active_) {
        const int32_t id = fill_order_.Next();
        if (scores_[id] == 0) chosen_.push_back(id);
      }
    }
    WriteAscending(ids);
  }
  for (int64_t i = 0; i < num_touched_; ++i) scores_[touched_[i]] = 0;
  for (int32_t id : chosen_) scores_[id] = 0;
  return status;
}

}  // namespace keras_lsh
