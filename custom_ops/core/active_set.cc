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

// So few buckets need not become fewer to be counted.
constexpr int64_t kFewBuckets = 64;

// Up to so many words for each chosen neuron, walking through all that say
// which words of bits are used is faster than sorting.
constexpr int64_t kWordsPerChosen = 16;

constexpr uint32_t kWordBits = 64;

uint64_t Bit(uint32_t place) { return uint64_t{1} << place % kWordBits; }

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

void FillOrder::Reset(int32_t seed) {
  if (prime_ == 0) {
    prime_ = std::max<int64_t>(units_, 2);
    while (!IsPrime(prime_)) ++prime_;
  }
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
      used_words_(scratch->used_words),
      heavy_(scratch->heavy),
      heavy_weights_(scratch->heavy_weights),
      heavy_sizes_(scratch->heavy_sizes),
      vector_kernels_(vector_kernels) {
  chosen_.resize(active + 1);  // one place to spare for unneeded writes
  bits_.resize(tables.units / kWordBits + 1, 0);
  used_words_.resize(bits_.size() / kWordBits + 1, 0);
}

void ActiveSetSelector::Choose(int32_t id) {
  const uint32_t word = static_cast<uint32_t>(id) / kWordBits;
  const uint64_t bit = Bit(id);
  // No branch here: in a corrupt table alone a neuron stands twice.
  const bool is_new = (bits_[word] & bit) == 0;
  bits_[word] |= bit;
  used_words_[word / kWordBits] |= Bit(word);
  chosen_[num_chosen_] = id;
  num_chosen_ += is_new;
}

bool ActiveSetSelector::IsChosen(int32_t id) const {
  return (bits_[static_cast<uint32_t>(id) / kWordBits] & Bit(id)) != 0;
}

Status ActiveSetSelector::Force(const ActiveSetQuery& query) {
  for (int64_t i = 0; i < query.num_forced; ++i) {
    const int32_t id = query.forced[i];
    if (id == kNoId) continue;
    if (id < 0 || id >= tables_.units) {
      return OutOfRange("`forced` ids", id, tables_.units, "");
    }
    if (IsChosen(id)) continue;
    if (num_chosen_ == active_) {
      return Status::Invalid(
          "`active`=" + std::to_string(active_) +
          " neurons do not hold all the `forced` ones of a sample. Raise "
          "`active`. Received: " +
          std::to_string(CountDifferent(query)) + " different `forced` ids");
    }
    Choose(id);
  }
  return Status();
}

bool ActiveSetSelector::ScoresAreWeights(const ActiveSetQuery& query) const {
  if (tables_.tables > 1) return false;
  if (query.buckets == nullptr) return true;
  int32_t descents = 0;  // in a form that compilers turn into vectors
  for (int64_t i = 1; i < query.num_buckets; ++i) {
    descents |= query.buckets[i - 1] >= query.buckets[i];
  }
  return descents == 0;
}

bool ActiveSetSelector::RanksAll(const ActiveSetQuery& query) const {
  const int64_t last = query.num_buckets - 1;
  return query.num_buckets == tables_.buckets &&
         (query.buckets == nullptr ||
          (query.buckets[0] == 0 && query.buckets[last] == last));
}

Status ActiveSetSelector::Check(const ActiveSetQuery& query, int64_t i) const {
  if (query.weights[i] < 1 || query.weights[i] > kMaxWeight) {
    return Status::Invalid("`weights` must lie in [1, " +
                           std::to_string(kMaxWeight) +
                           "]. Received: " + std::to_string(query.weights[i]));
  }
  const int32_t *begin, *end;
  return FindBucket(tables_, Bucket(query, i), &begin, &end);
}

Status ActiveSetSelector::CheckAll(const ActiveSetQuery& query) {
  uint32_t bad = 0;  // in a form that compilers turn into vectors
  for (int64_t i = 0; i < query.num_buckets; ++i) {
    bad |= (static_cast<uint32_t>(query.weights[i]) - 1) / kMaxWeight;
  }
  const int32_t units = static_cast<int32_t>(tables_.units);
  if (RanksAll(query)) {  // as a rule, and the offsets are looked at once
    if (!checked_all_) {
      const int32_t* offset = tables_.offsets;
      for (int64_t i = 0; i < query.num_buckets; ++i) {
        bad |= (offset[i] < 0) | (offset[i + 1] < offset[i]) |
               (offset[i + 1] > units);
      }
      checked_all_ = bad == 0;
    }
  } else {
    for (int64_t i = 0; i < query.num_buckets; ++i) {
      const int32_t bucket = query.buckets[i];
      const bool in_range = bucket >= 0 && bucket < tables_.buckets;
      const int32_t* offset = tables_.offsets + (in_range ? bucket : 0);
      bad |= !in_range | (offset[0] < 0) | (offset[1] < offset[0]) |
             (offset[1] > units);
    }
  }
  for (int64_t i = 0; i < query.num_buckets && bad != 0; ++i) {
    Status status = Check(query, i);  // says what is wrong
    if (!status.ok()) return status;
  }
  return Status();
}

int64_t ActiveSetSelector::CountHeavy(int32_t least) const {
  return vector_kernels_.count_from(heavy_weights_.data(), heavy_sizes_.data(),
                                    num_heavy_, least);
}

void ActiveSetSelector::DropLighter(int32_t least) {
  int64_t kept = 0;
  for (int64_t k = 0; k < num_heavy_; ++k) {
    const int32_t weight = heavy_weights_[k];
    heavy_[kept] = heavy_[k];
    heavy_weights_[kept] = weight;
    heavy_sizes_[kept] = heavy_sizes_[k];
    kept += weight >= least;
  }
  num_heavy_ = kept;
}

int32_t ActiveSetSelector::FindHeavy(const ActiveSetQuery& query) {
  if (static_cast<int64_t>(heavy_.size()) < query.num_buckets) {
    heavy_.resize(query.num_buckets);
    heavy_weights_.resize(query.num_buckets);
    heavy_sizes_.resize(query.num_buckets);
  }
  // The weight at which there is no more room, as if no neuron was forced: some
  // of the first `active` may be. It is sought from near the last sample's on,
  // downwards in growing steps.
  int32_t above = kMaxWeight + 1;  // fewer than `active` from `above`
  int32_t step = (above - last_least_) / 8 + 1;
  int32_t least = std::max(last_least_ - step, 1);
  while (true) {
    num_heavy_ = vector_kernels_.find_from(query.weights, query.num_buckets,
                                           least, heavy_.data());
    int64_t count = 0;
    for (int64_t k = 0; k < num_heavy_; ++k) {
      heavy_weights_[k] = query.weights[heavy_[k]];
      const int32_t* offset = tables_.offsets + Bucket(query, heavy_[k]);
      heavy_sizes_[k] = offset[1] - offset[0];
      count += heavy_sizes_[k];
    }
    if (count >= active_ || least == 1) break;
    above = least;
    step = std::min(2 * step, kMaxWeight);
    least = std::max(least - step, 1);
  }
  while (above - least > 1) {
    const int32_t middle = least + (above - least) / 2;
    const int64_t count = CountHeavy(middle);
    if (count < active_) {
      above = middle;
      continue;
    }
    least = middle;
    if (count == active_) break;
    if (num_heavy_ > kFewBuckets) DropLighter(least);
  }
  DropLighter(least);
  last_least_ = least;
  return above;
}

Status ActiveSetSelector::ChooseByWeight(const ActiveSetQuery& query) {
  Status status = CheckAll(query);
  if (!status.ok()) return status;
  // From this weight on, there is room for all whoever is forced.
  int32_t fitting = FindHeavy(query);
  const int64_t room = active_ - num_chosen_;
  if (CountHeavy(1) <= room) fitting = 1;
  for (int32_t step = 1; CountHeavy(fitting) > room; step *= 2) {
    fitting = std::min(fitting + step, kMaxWeight + 1);
  }
  keys_.clear();
  for (int64_t k = 0; k < num_heavy_; ++k) {
    const int32_t* offset = tables_.offsets + Bucket(query, heavy_[k]);
    const int64_t weight = heavy_weights_[k];
    if (k + 1 < num_heavy_) {
      Prefetch(tables_.ids + tables_.offsets[Bucket(query, heavy_[k + 1])],
               heavy_sizes_[k + 1]);
    }
    // The ids of a bucket ascend, so of one that does not fit the first matter.
    int64_t most = weight >= fitting ? tables_.units : room;
    for (int32_t place = offset[0]; place < offset[1] && most > 0; ++place) {
      const int32_t id = tables_.ids[place];
      if (id < 0 || id >= tables_.units) return CorruptIds(id, tables_.units);
      if (weight >= fitting) {
        Choose(id);
      } else if (!IsChosen(id)) {
        keys_.push_back(weight << 31 | (kLargestId - id));
        --most;
      }
    }
  }
  KeepLargestKeys(std::min<int64_t>(active_ - num_chosen_, keys_.size()));
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
    for (auto id = touched_.begin(); id != touched_end; ++id) Choose(*id);
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
      Choose(*id);
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
    Choose(kLargestId - static_cast<int32_t>(keys_[i] & kLargestId));
  }
}

Status ActiveSetSelector::ChooseByScore(const ActiveSetQuery& query) {
  scores_.resize(tables_.units, 0);
  touched_.resize(tables_.units + 1);  // one place to spare, as of the chosen
  num_touched_ = 0;
  for (int64_t i = 0; i < num_chosen_; ++i) scores_[chosen_[i]] = -1;
  Status status = Collect(query);
  if (status.ok()) KeepBest(active_ - num_chosen_);
  for (int64_t i = 0; i < num_touched_; ++i) scores_[touched_[i]] = 0;
  for (int64_t i = 0; i < num_chosen_; ++i) scores_[chosen_[i]] = 0;
  return status;
}

void ActiveSetSelector::Forget() {
  for (int64_t i = 0; i < num_chosen_; ++i) {
    const uint32_t word = static_cast<uint32_t>(chosen_[i]) / kWordBits;
    bits_[word] = 0;
    used_words_[word / kWordBits] = 0;
  }
  num_chosen_ = 0;
}

void ActiveSetSelector::WriteAscending(int32_t* ids) {
  std::fill(ids + num_chosen_, ids + active_, kNoId);
  const int64_t words = static_cast<int64_t>(used_words_.size());
  if (words > kWordsPerChosen * num_chosen_) {
    std::copy_n(chosen_.begin(), num_chosen_, ids);
    std::sort(ids, ids + num_chosen_);
    Forget();
    return;
  }
  for (int64_t i = 0; i < words; ++i) {
    for (uint64_t used = used_words_[i]; used != 0; used &= used - 1) {
      const int64_t word = kWordBits * i + __builtin_ctzll(used);
      for (uint64_t bits = bits_[word]; bits != 0; bits &= bits - 1) {
        *ids++ = static_cast<int32_t>(kWordBits * word + __builtin_ctzll(bits));
      }
      bits_[word] = 0;
    }
    used_words_[i] = 0;
  }
  num_chosen_ = 0;
}

Status ActiveSetSelector::Select(const ActiveSetQuery& query, int32_t* ids) {
  if (query.num_buckets > kMaxBuckets) {
    return Status::Invalid(
        "`buckets` must be at most " + std::to_string(kMaxBuckets) +
        " a sample. Received: " + std::to_string(query.num_buckets));
  }
  Status status = Force(query);
  if (status.ok()) {
    status =
        ScoresAreWeights(query) ? ChooseByWeight(query) : ChooseByScore(query);
  }
  if (!status.ok()) {
    Forget();
    return status;
  }
  // Here either all neurons that were met are chosen or there is no room left,
  // so the tables do not matter any more.
  if (query.fill && num_chosen_ < active_) {
    fill_order_.Reset(query.fill_seed);
    while (num_chosen_ < active_) Choose(fill_order_.Next());
  }
  WriteAscending(ids);
  return Status();
}

}  // namespace keras_lsh
