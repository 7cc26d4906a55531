#include "custom_ops/core/neuron_samples.h"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include "custom_ops/core/active_set.h"
#include "custom_ops/core/unit_chunks.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {
namespace {

constexpr int64_t kMaxTile = VectorKernels::kMaxTileRows;

constexpr int kDigitBits = 11;  // of the radix sort: 2^11 counters fit L1

// Units of a chunk: so many counters fit the first-level cache, 16 KiB. And at
// most so many chunks, each of which looks at every sample.
constexpr int kChunkBits = 12;
constexpr int64_t kMaxChunks = 512;

// With more units for each place, looking at all counters takes longer than
// sorting.
constexpr int64_t kUnitsAPlace = 64;

struct Item {
  int32_t key;
  int32_t value;
};

// Stable sort by key, all keys being in [0, end).
void RadixSort(int64_t end, std::vector<Item>* items,
               std::vector<Item>* scratch) {
  scratch->resize(items->size());
  constexpr int32_t kMask = (1 << kDigitBits) - 1;
  for (int shift = 0; shift < 31 && (end - 1) >> shift > 0;
       shift += kDigitBits) {
    std::array<int64_t, (1 << kDigitBits) + 1> starts{};
    for (const Item& item : *items) ++starts[(item.key >> shift & kMask) + 1];
    for (size_t i = 1; i < starts.size(); ++i) starts[i] += starts[i - 1];
    for (const Item& item : *items) {
      (*scratch)[starts[item.key >> shift & kMask]++] = item;
    }
    items->swap(*scratch);
  }
}

// Orders neurons, ascending by id, by (key, id).
void SortByKey(const NeuronKeys& keys, std::vector<int32_t>* neurons) {
  std::vector<Item> items, scratch;
  items.reserve(neurons->size());
  int32_t largest = 0;
  for (int32_t neuron : *neurons) {
    // A hint need not be right: a negative key is as good as any.
    const int32_t key = std::max(0, keys.keys[neuron * keys.stride]);
    largest = std::max(largest, key);
    items.push_back({key, neuron});
  }
  RadixSort(int64_t{largest} + 1, &items, &scratch);
  for (size_t i = 0; i < items.size(); ++i) (*neurons)[i] = items[i].value;
}

// Fewer units than places: a counter for each.
void GroupByCounting(const ActiveIds& ids, int64_t units,
                     const NeuronKeys& keys, NeuronSamples* out) {
  const int64_t total = ids.batch * ids.active;
  std::vector<int32_t> counts(units, 0);
  for (int64_t i = 0; i < total; ++i) {
    if (ids.ids[i] != kNoId) ++counts[ids.ids[i]];
  }
  for (int64_t n = 0; n < units; ++n) {
    if (counts[n] > 0) out->neurons.push_back(static_cast<int32_t>(n));
  }
  if (keys.keys != nullptr) SortByKey(keys, &out->neurons);
  int32_t start = 0;
  for (int32_t neuron : out->neurons) {
    out->starts.push_back(start);
    start += std::exchange(counts[neuron], start);
  }
  out->starts.push_back(start);
  out->places.resize(start);
  for (int64_t i = 0; i < total; ++i) {
    if (ids.ids[i] != kNoId) {
      out->places[counts[ids.ids[i]]++] = static_cast<int32_t>(i);
    }
  }
}

// More units than places, in any order: sort the places.
void GroupBySorting(const ActiveIds& ids, int64_t units, NeuronSamples* out) {
  const int64_t total = ids.batch * ids.active;
  std::vector<Item> items, scratch;
  items.reserve(total);
  for (int64_t i = 0; i < total; ++i) {
    if (ids.ids[i] != kNoId) {
      items.push_back({ids.ids[i], static_cast<int32_t>(i)});
    }
  }
  RadixSort(units, &items, &scratch);
  out->places.resize(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    if (out->neurons.empty() || items[i].key != out->neurons.back()) {
      out->neurons.push_back(items[i].key);
      out->starts.push_back(static_cast<int64_t>(i));
    }
    out->places[i] = items[i].value;
  }
  out->starts.push_back(static_cast<int64_t>(items.size()));
}

// Of ids that ascend within each sample: chunk by chunk of the units, with a
// counter for each unit of a chunk, which the first-level cache holds. False if
// they do not.
bool GroupByChunks(const ActiveIds& ids, int64_t units,
                   const ParallelFor& parallel_for, NeuronSamples* out) {
  int bits = kChunkBits;
  while (units >> bits > kMaxChunks) ++bits;
  const int64_t width = int64_t{1} << bits;
  const int64_t chunks = ((units - 1) >> bits) + 1;
  if (width * chunks > kUnitsAPlace * ids.batch * ids.active) return false;
  const UnitChunks by_chunk(ids, units, bits, parallel_for);
  if (!by_chunk.found()) return false;
  // Where the places of a chunk stand in the result.
  std::vector<int32_t> firsts(chunks + 1, 0);
  for (int64_t b = 0; b < ids.batch; ++b) {
    for (int64_t c = 0; c < chunks; ++c) {
      firsts[c + 1] += by_chunk.begin(b, c + 1) - by_chunk.begin(b, c);
    }
  }
  std::partial_sum(firsts.begin(), firsts.end(), firsts.begin());
  const int32_t total = firsts[chunks];
  out->places.resize(total);
  // The neurons of a chunk, and where each one's places begin, at the chunk's
  // places: they are no more than these.
  // Not vectors, which would be cleared first.
  const std::unique_ptr<int32_t[]> neurons(new int32_t[total]);
  const std::unique_ptr<int32_t[]> starts(new int32_t[total]);
  std::vector<int64_t> counts(chunks + 1, 0);
  parallel_for(
      chunks, width / 4 + 8 * total / chunks + 4 * ids.batch,
      [&](int64_t first, int64_t last) {
        std::vector<int32_t> places(width);  // first counts, then places
        for (int64_t c = first; c < last; ++c) {
          std::fill(places.begin(), places.end(), 0);
          const int64_t base = c * width;
          const auto for_each_place = [&](const auto& use) {
            for (int64_t b = 0; b < ids.batch; ++b) {
              const int32_t end = by_chunk.begin(b, c + 1);
              for (int32_t place = by_chunk.begin(b, c); place < end; ++place) {
                use(places[ids.ids[place] - base], place);
              }
            }
          };
          for_each_place([](int32_t& count, int32_t) { ++count; });
          int32_t start = firsts[c];
          int64_t found = start;
          for (int64_t n = 0; n < width && start < firsts[c + 1]; ++n) {
            if (places[n] == 0) continue;
            neurons[found] = static_cast<int32_t>(base + n);
            starts[found++] = start;
            start += std::exchange(places[n], start);
          }
          counts[c + 1] = found - firsts[c];
          for_each_place([out](int32_t& next, int32_t place) {
            out->places[next++] = place;
          });
        }
      });
  std::partial_sum(counts.begin(), counts.end(), counts.begin());
  out->neurons.resize(counts[chunks]);
  out->starts.resize(counts[chunks] + 1);
  for (int64_t c = 0; c < chunks; ++c) {
    const int64_t found = counts[c + 1] - counts[c];
    std::copy_n(neurons.get() + firsts[c], found,
                out->neurons.begin() + counts[c]);
    std::copy_n(starts.get() + firsts[c], found,
                out->starts.begin() + counts[c]);
  }
  out->starts.back() = total;
  return true;
}

// Puts groups in the order of (key, id).
void OrderByKey(const NeuronKeys& keys, NeuronSamples* out) {
  std::vector<int32_t> order = out->neurons;
  SortByKey(keys, &order);
  NeuronSamples ordered;
  ordered.neurons = std::move(order);
  ordered.starts.reserve(out->starts.size());
  ordered.places.resize(out->places.size());
  int64_t start = 0;
  for (const int32_t neuron : ordered.neurons) {
    const auto found =
        std::lower_bound(out->neurons.begin(), out->neurons.end(), neuron) -
        out->neurons.begin();
    const int64_t first = out->starts[found];
    const int64_t size = out->starts[found + 1] - first;
    std::copy_n(out->places.begin() + first, size,
                ordered.places.begin() + start);
    ordered.starts.push_back(start);
    start += size;
  }
  ordered.starts.push_back(start);
  *out = std::move(ordered);
}

// Cuts each run of equal keys into tiles of about equal size.
void MakeTiles(const NeuronKeys& keys, NeuronSamples* out) {
  const auto key = [&](int64_t g) {
    return keys.keys == nullptr ? 0 : keys.keys[out->neurons[g] * keys.stride];
  };
  const int64_t end = static_cast<int64_t>(out->neurons.size());
  out->tiles.clear();
  for (int64_t g = 0; g < end;) {
    const int64_t first = g;
    while (g < end && key(g) == key(first)) ++g;
    const int64_t parts = (g - first + kMaxTile - 1) / kMaxTile;
    for (int64_t part = 0; part < parts; ++part) {
      out->tiles.push_back(first + (g - first) * part / parts);
    }
  }
  out->tiles.push_back(end);
}

}  // namespace

Status CheckIds(const ActiveIds& ids, int64_t units, const char* name) {
  const int64_t total = ids.batch * ids.active;
  // In a form that compilers turn into vector instructions: from kNoId on,
  // which is 0 then, as unsigned numbers.
  const auto end = static_cast<uint32_t>(
      std::min<int64_t>(units, std::numeric_limits<int32_t>::max()));
  bool right = true;
  for (int64_t i = 0; i < total; ++i) {
    right &= static_cast<uint32_t>(ids.ids[i]) + 1u <= end;
  }
  for (int64_t i = 0; i < total && !right; ++i) {
    if (ids.ids[i] < kNoId || ids.ids[i] >= units) {
      return Status::Invalid(
          "`" + std::string(name) + "` must be numbers in [0, " +
          std::to_string(units) + "), or -1 for an unused place. Received: " +
          name + "[" + std::to_string(i / ids.active) + ", " +
          std::to_string(i % ids.active) + "]=" + std::to_string(ids.ids[i]));
    }
  }
  return Status();
}

Status CheckGroups(const NeuronSamples& groups, const ActiveIds& ids,
                   int64_t units) {
  const auto& [neurons, starts, places, tiles] = groups;
  const int64_t end = static_cast<int64_t>(neurons.size());
  const int64_t count = static_cast<int64_t>(places.size());
  bool right = static_cast<int64_t>(starts.size()) == end + 1 &&
               starts.front() == 0 && starts.back() == count;
  // In a form that compilers turn into vector instructions.
  for (int64_t g = 0; right && g < end; ++g) right = starts[g] < starts[g + 1];
  for (int64_t g = 1; g < end; ++g) right &= neurons[g - 1] < neurons[g];
  right =
      right && (end == 0 || (neurons.front() >= 0 && neurons.back() < units));
  bool in_range = true;
  for (int64_t i = 0; i < count; ++i) {
    in_range &= (places[i] >= 0) & (places[i] < ids.batch * ids.active);
  }
  return right && in_range
             ? Status()
             : Status::Invalid(
                   "`neurons`, `starts` and `places` must be what "
                   "LshGroupByNeuron makes of `ids`");
}

Status GroupByNeuron(const ActiveIds& ids, int64_t units,
                     const NeuronKeys& keys, const ParallelFor& parallel_for,
                     NeuronSamples* out) {
  const int64_t total = ids.batch * ids.active;
  if (total > std::numeric_limits<int32_t>::max()) {
    return Status::Invalid(
        "The size of `ids`, batch * active, must be below 2^31. Received: " +
        std::to_string(ids.batch) + " * " + std::to_string(ids.active));
  }
  Status status = CheckIds(ids, units);
  if (!status.ok()) return status;
  out->neurons.clear();
  out->starts.clear();
  if (units <= total) {
    GroupByCounting(ids, units, keys, out);
  } else {
    if (!GroupByChunks(ids, units, parallel_for, out)) {
      GroupBySorting(ids, units, out);
    }
    if (keys.keys != nullptr) OrderByKey(keys, out);
  }
  MakeTiles(keys, out);
  return Status();
}

}  // namespace keras_lsh
