#include "custom_ops/core/neuron_samples.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <utility>

#include "custom_ops/core/active_set.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {
namespace {

constexpr int64_t kMaxTile = VectorKernels::kMaxTileRows;

constexpr int kDigitBits = 11;  // of the radix sort: 2^11 counters fit L1

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

// More units than places: sort the places.
void GroupBySorting(const ActiveIds& ids, int64_t units, const NeuronKeys& keys,
                    NeuronSamples* out) {
  const int64_t total = ids.batch * ids.active;
  std::vector<Item> items, scratch;
  items.reserve(total);
  for (int64_t i = 0; i < total; ++i) {
    if (ids.ids[i] != kNoId) {
      items.push_back({ids.ids[i], static_cast<int32_t>(i)});
    }
  }
  RadixSort(units, &items, &scratch);
  if (keys.keys != nullptr) {
    int32_t largest = 0;
    for (Item& item : items) {
      item.key = std::max(0, keys.keys[item.key * keys.stride]);
      largest = std::max(largest, item.key);
    }
    RadixSort(int64_t{largest} + 1, &items, &scratch);
  }
  out->places.resize(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    const int32_t neuron = ids.ids[items[i].value];
    if (out->neurons.empty() || neuron != out->neurons.back()) {
      out->neurons.push_back(neuron);
      out->starts.push_back(static_cast<int64_t>(i));
    }
    out->places[i] = items[i].value;
  }
  out->starts.push_back(static_cast<int64_t>(items.size()));
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
  for (int64_t i = 0; i < ids.batch * ids.active; ++i) {
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
  bool right = static_cast<int64_t>(starts.size()) == end + 1 &&
               starts.front() == 0 &&
               starts.back() == static_cast<int64_t>(places.size());
  for (int64_t g = 0; right && g < end; ++g) {
    right = neurons[g] >= 0 && neurons[g] < units &&
            (g == 0 || neurons[g - 1] < neurons[g]) &&
            starts[g] < starts[g + 1] && starts[g + 1] <= starts.back();
    for (int64_t i = starts[g]; right && i < starts[g + 1]; ++i) {
      right = places[i] >= 0 && places[i] < ids.batch * ids.active &&
              (i == starts[g] || places[i - 1] < places[i]) &&
              ids.ids[places[i]] == neurons[g];
    }
  }
  return right ? Status()
               : Status::Invalid(
                     "`neurons`, `starts` and `places` must be what "
                     "LshGroupByNeuron makes of `ids`");
}

Status GroupByNeuron(const ActiveIds& ids, int64_t units,
                     const NeuronKeys& keys, NeuronSamples* out) {
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
    GroupBySorting(ids, units, keys, out);
  }
  MakeTiles(keys, out);
  return Status();
}

}  // namespace keras_lsh
