#include "custom_ops/core/active_set.h"

#include <algorithm>
#include <array>
#include <functional>
#include <set>
#include <string>

namespace keras_lsh {
namespace {

constexpr int64_t kBins = 256;
constexpr int32_t kLargestId = 2147483647;
constexpr int64_t kModulus = 2147483647;  // 2^31 - 1, a prime

// Buckets that hold this many times the neurons there is room for are few
// enough to be singled out.
constexpr int64_t kFewTimes = 4;

// Up to so many words of bits for each chosen neuron, walking through all bits
// is faster than sorting.
constexpr int64_t kWordsPerChosen = 16;

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

Status CorruptIds(int32_t id, int64_t units) {
  return OutOfRange("The hash tables are corrupt: `table_ids`", id, units,
                    " Rebuild the tables.");
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
                                     const VectorKernels& vector_kernels,
                                     ActiveSetScratch* scratch)
    : tables_(tables),
      active_(active),
      fill_order_(tables.units),
      scores_(scratch->scores),
      touched_(scratch->touched),
      chosen_(scratch->chosen),
      keys_(scratch->keys),
      bits_(scratch->bits),
      sizes_(scratch->sizes),
      heavy_(scratch->heavy),
      heavy_weights_(scratch->heavy_weights),
      heavy_sizes_(scratch->heavy_sizes),
      vector_kernels_(vector_kernels) {
  scores_.resize(tables.units, 0);
  touched_.resize(tables.units + 1);  // one place to spare for unneeded writes
  bits_.resize(tables.units / 64 + 1, 0);
}

Status ActiveSetSelector::Check(const ActiveSetQuery& query, int64_t i) const {
  if (query.weights[i] < 1 || query.weights[i] > kMaxWeight) {
    return Status::Invalid("`weights` must lie in [1, " +
                           std::to_string(kMaxWeight) +
                           "]. Received: " + std::to_string(query.weights[i]));
  }
  const int32_t *begin, *end;
  return FindBucket(tables_, query.buckets[i], &begin, &end);
}

bool ActiveSetSelector::RanksAll(const ActiveSetQuery& query) const {
  if (query.num_buckets != tables_.buckets) return false;
  int32_t different = 0;  // in a form that compilers turn into vectors
  for (int32_t i = 0; i < static_cast<int32_t>(query.num_buckets); ++i) {
    different |= query.buckets[i] ^ i;
  }
  return different == 0;
}

bool ActiveSetSelector::ScoresAreWeights(const ActiveSetQuery& query) {
  if (tables_.tables > 1) return false;
  ranks_all_ = RanksAll(query);
  if (ranks_all_) return true;
  bool ascending = true;
  for (int64_t i = 1; i < query.num_buckets; ++i) {
    ascending &= query.buckets[i - 1] < query.buckets[i];
  }
  return ascending;
}

Status ActiveSetSelector::ChooseByWeight(const ActiveSetQuery& query) {
  Status status = Force(query);
  if (status.ok()) status = CollectByWeight(query);
  for (int64_t i = 0; i < query.num_forced; ++i) {
    const int32_t id = query.forced[i];
    if (id >= 0 && id < tables_.units) scores_[id] = 0;
  }
  return status;
}

Status ActiveSetSelector::MeasureBuckets(const ActiveSetQuery& query) {
  uint32_t too_large = 0;
  for (int64_t i = 0; i < query.num_buckets; ++i) {
    too_large |= (static_cast<uint32_t>(query.weights[i]) - 1) / kMaxWeight;
  }
  bool good = too_large == 0;
  // As a rule samples rank all buckets of a table, and it is looked at once.
  if (!ranks_all_ || !measured_all_) {
    sizes_.resize(query.num_buckets);
    const int32_t units = static_cast<int32_t>(tables_.units);
    for (int64_t i = 0; i < query.num_buckets; ++i) {
      const int32_t bucket = query.buckets[i];
      const bool in_range = bucket >= 0 && bucket < tables_.buckets;
      const int32_t* offset = tables_.offsets + (in_range ? bucket : 0);
      sizes_[i] = static_cast<int32_t>(static_cast<uint32_t>(offset[1]) -
                                       static_cast<uint32_t>(offset[0]));
      good &= in_range & (offset[0] >= 0) & (offset[1] >= offset[0]) &
              (offset[1] <= units);
    }
    measured_all_ = ranks_all_ && good;
  }
  for (int64_t i = 0; i < query.num_buckets && !good; ++i) {
    Status status = Check(query, i);  // says what is wrong
    if (!status.ok()) return status;
  }
  return Status();
}

void ActiveSetSelector::FindHeavy(const ActiveSetQuery& query, int32_t least) {
  heavy_.resize(query.num_buckets);
  heavy_.resize(vector_kernels_.find_from(query.weights, query.num_buckets,
                                          least, heavy_.data()));
  heavy_weights_.clear();
  heavy_sizes_.clear();
  for (const int32_t i : heavy_) {
    heavy_weights_.push_back(query.weights[i]);
    heavy_sizes_.push_back(sizes_[i]);
  }
}

Status ActiveSetSelector::CollectByWeight(const ActiveSetQuery& query) {
  Status status = MeasureBuckets(query);
  if (!status.ok()) return status;
  // The weight at which there is no more room, as if no neuron was forced: some
  // of the first `active` may be. It is sought from near the last sample's on,
  // first downwards in growing steps.
  int32_t least = 1,
          above = kMaxWeight + 1;  // fewer than `active` from `above`
  int32_t step = (kMaxWeight + 1 - last_least_) / 8 + 1;
  int32_t middle = last_least_ - step;
  const int32_t *weights = query.weights, *sizes = sizes_.data();
  int64_t num_buckets = query.num_buckets;
  bool found_heavy = false;
  while (above - least > 1) {
    if (middle <= least || middle >= above) {
      middle = least + (above - least) / 2;
    }
    const int64_t count =
        vector_kernels_.count_from(weights, sizes, num_buckets, middle);
    if (count < active_) {
      above = middle;
      step = std::min(2 * step, kMaxWeight);
      middle = least > 1 ? 0 : above - step;
      continue;
    }
    least = middle;
    if (count == active_) break;
    if (!found_heavy && count <= kFewTimes * active_) {
      FindHeavy(query, least);
      found_heavy = true;
      weights = heavy_weights_.data();
      sizes = heavy_sizes_.data();
      num_buckets = static_cast<int64_t>(heavy_.size());
    }
  }
  last_least_ = least;
  if (!found_heavy) FindHeavy(query, least);
  const bool forced = !chosen_.empty();

  keys_.clear();
  for (const int32_t heavy : heavy_) {
    const int32_t weight = query.weights[heavy];
    if (weight < least) continue;
    const int32_t* offset = tables_.offsets + query.buckets[heavy];
    for (int32_t place = offset[0]; place < offset[1]; ++place) {
      const int32_t id = tables_.ids[place];
      if (id < 0 || id >= tables_.units) return CorruptIds(id, tables_.units);
      if (forced ? scores_[id] == 0 : weight < above) {
        keys_.push_back(int64_t{weight} << 31 | (kLargestId - id));
      } else if (!forced) {
        chosen_.push_back(id);
      }
    }
  }
  const int64_t room = active_ - static_cast<int64_t>(chosen_.size());
  KeepLargestKeys(std::min<int64_t>(room, keys_.size()));
  return Status();
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

Status ActiveSetSelector::Collect(const ActiveSetQuery& query) {
  for (int64_t i = 0; i < query.num_buckets; ++i) {
    const int32_t weight = query.weights[i];
    Status status = Check(query, i);
    if (!status.ok()) return status;
    const int32_t *id, *end;
    (void)FindBucket(tables_, query.buckets[i], &id, &end);
    for (; id != end; ++id) {
      if (*id < 0 || *id >= tables_.units) {
        return CorruptIds(*id, tables_.units);
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
  KeepLargestKeys(room - above);
}

void ActiveSetSelector::KeepLargestKeys(int64_t room) {
  std::nth_element(keys_.begin(), keys_.begin() + room, keys_.end(),
                   std::greater<int64_t>());
  for (int64_t i = 0; i < room; ++i) {
    chosen_.push_back(kLargestId - static_cast<int32_t>(keys_[i] & kLargestId));
  }
}

Status ActiveSetSelector::ChooseByScore(const ActiveSetQuery& query) {
  Status status = Force(query);
  if (status.ok()) status = Collect(query);
  if (status.ok()) KeepBest(active_ - static_cast<int64_t>(chosen_.size()));
  for (int64_t i = 0; i < num_touched_; ++i) scores_[touched_[i]] = 0;
  for (int32_t id : chosen_) scores_[id] = 0;
  return status;
}

void ActiveSetSelector::WriteAscending(int32_t* ids) {
  int64_t count = static_cast<int64_t>(chosen_.size());
  std::fill(ids + count, ids + active_, kNoId);
  const int64_t words = static_cast<int64_t>(bits_.size());
  if (words > kWordsPerChosen * count) {
    std::sort(chosen_.begin(), chosen_.end());
    std::copy(chosen_.begin(), chosen_.end(), ids);
    return;
  }
  for (int64_t word = 0; word < words; ++word) {
    for (uint64_t rest = bits_[word]; rest != 0; rest &= rest - 1) {
      *ids++ = static_cast<int32_t>(64 * word + __builtin_ctzll(rest));
    }
  }
}

Status ActiveSetSelector::Select(const ActiveSetQuery& query, int32_t* ids) {
  chosen_.clear();
  num_touched_ = 0;
  if (query.num_buckets > kMaxBuckets) {
    return Status::Invalid(
        "`buckets` must be at most " + std::to_string(kMaxBuckets) +
        " a sample. Received: " + std::to_string(query.num_buckets));
  }
  Status status =
      ScoresAreWeights(query) ? ChooseByWeight(query) : ChooseByScore(query);
  if (!status.ok()) return status;
  size_t different = 0;  // a corrupt table may hold a neuron twice
  for (int32_t id : chosen_) {
    const uint64_t bit = uint64_t{1} << id % 64;
    chosen_[different] = id;
    different += (bits_[id / 64] & bit) == 0;
    bits_[id / 64] |= bit;
  }
  chosen_.resize(different);
  // Here either all neurons that were met are chosen or there is no room left,
  // so the tables do not matter any more.
  if (query.fill && static_cast<int64_t>(chosen_.size()) < active_) {
    fill_order_.Reset(query.fill_seed);
    while (static_cast<int64_t>(chosen_.size()) < active_) {
      const int32_t id = fill_order_.Next();
      const uint64_t bit = uint64_t{1} << id % 64;
      if ((bits_[id / 64] & bit) == 0) chosen_.push_back(id);
      bits_[id / 64] |= bit;
    }
  }
  WriteAscending(ids);
  for (int32_t id : chosen_) bits_[id / 64] = 0;
  return Status();
}

}  // namespace keras_lsh
