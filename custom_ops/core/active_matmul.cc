#include "custom_ops/core/active_matmul.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "custom_ops/core/active_set.h"

namespace keras_lsh {
namespace {

// Vectors handed to one call of a vector kernel: enough to keep its registers
// busy, few enough for the pointers to stay on the stack.
constexpr int64_t kChunk = 64;

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

// (value descending, id ascending) as one number, NaN being the largest value;
// 0 for an unused place.
uint64_t RankingKey(int32_t id, float value) {
  if (id == kNoId) return 0;
  if (value == 0.0f) value = 0.0f;  // -0 is 0
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t negative = bits >> 31;
  const uint32_t order =
      std::isnan(value) ? 0xffffffffu : bits ^ (negative ? ~0u : 1u << 31);
  return static_cast<uint64_t>(order) << 32 | ~static_cast<uint32_t>(id);
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

Status CheckIds(const ActiveIds& ids, int64_t units) {
  for (int64_t i = 0; i < ids.batch * ids.active; ++i) {
    if (ids.ids[i] < kNoId || ids.ids[i] >= units) {
      return Status::Invalid(
          "`ids` must be neuron numbers in [0, " + std::to_string(units) +
          "), or -1 for an unused place. Received: ids[" +
          std::to_string(i / ids.active) + ", " +
          std::to_string(i % ids.active) + "]=" + std::to_string(ids.ids[i]));
    }
  }
  return Status();
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

namespace {

// What the loops over neurons share.
struct Products {
  const ActiveIds& ids;
  const NeuronSamples& groups;
  const float* inputs;
  int64_t input_dim;
  const float* kernel;
  const float* bias;
  const VectorKernels& vector_kernels;
  float* values;

  const float* Row(int64_t group) const {
    return kernel + groups.neurons[group] * input_dim;
  }
  const float* Input(int32_t place) const {
    return inputs + place / ids.active * input_dim;
  }
  void Write(int64_t group, int32_t place, float product) const {
    values[place] =
        bias == nullptr ? product : product + bias[groups.neurons[group]];
  }
};

// The products of one neuron with its samples.
void MultiplyOne(const Products& p, int64_t group) {
  const float* vectors[kChunk];
  float products[kChunk];
  for (int64_t i = p.groups.starts[group]; i < p.groups.starts[group + 1];
       i += kChunk) {
    const int64_t count = std::min(kChunk, p.groups.starts[group + 1] - i);
    const int32_t* places = p.groups.places.data() + i;
    for (int64_t c = 0; c < count; ++c) vectors[c] = p.Input(places[c]);
    p.vector_kernels.dots(p.Row(group), vectors, count, p.input_dim, products);
    for (int64_t c = 0; c < count; ++c) p.Write(group, places[c], products[c]);
  }
}

// The samples of any of a tile's neurons, and where each neuron has them.
class SharedSamples {
 public:
  // Merges the lists; false, having given up, if they share too little for
  // multiplying all neurons by all samples to pay.
  bool Merge(const Products& p, int64_t first, int64_t last) {
    const std::vector<int64_t>& starts = p.groups.starts;
    rows_ = last - first;
    const int64_t wanted = starts[last] - starts[first];
    const int64_t most = wanted * 5 / (rows_ * 3);  // 60 % of products wanted
    std::array<int64_t, kMaxTile> next, sample;
    const auto sample_at = [&](int64_t r) {
      return next[r] < starts[first + r + 1]
                 ? p.groups.places[next[r]] / p.ids.active
                 : p.ids.batch;
    };
    for (int64_t r = 0; r < rows_; ++r) {
      next[r] = starts[first + r];
      sample[r] = sample_at(r);
    }
    places_.clear();
    inputs_.clear();
    while (true) {
      const int64_t b =
          *std::min_element(sample.begin(), sample.begin() + rows_);
      if (b == p.ids.batch) return true;
      if (static_cast<int64_t>(inputs_.size()) == most) return false;
      for (int64_t r = 0; r < rows_; ++r) {
        if (sample[r] == b) {
          places_.push_back(p.groups.places[next[r]++]);
          sample[r] = sample_at(r);
        } else {
          places_.push_back(kNoId);
        }
      }
      inputs_.push_back(p.inputs + b * p.input_dim);
    }
  }

  // The products of the merged tile.
  void Multiply(const Products& p, int64_t first) {
    const int64_t count = static_cast<int64_t>(inputs_.size());
    const float* rows[kMaxTile];
    for (int64_t r = 0; r < rows_; ++r) rows[r] = p.Row(first + r);
    products_.resize(rows_ * count);
    p.vector_kernels.dot_tile(rows, rows_, inputs_.data(), count, p.input_dim,
                              products_.data());
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t r = 0; r < rows_; ++r) {
        const int32_t place = places_[i * rows_ + r];
        if (place != kNoId) {
          p.Write(first + r, place, products_[r * count + i]);
        }
      }
    }
  }

 private:
  int64_t rows_ = 0;
  std::vector<int32_t> places_;  // [samples, rows]; kNoId: does not have it
  std::vector<const float*> inputs_;  // [samples]
  std::vector<float> products_;       // [rows, samples]
};

}  // namespace

void ActiveMatmul(const ActiveIds& ids, const NeuronSamples& groups,
                  const float* inputs, int64_t input_dim, const float* kernel,
                  const float* bias, const ParallelFor& parallel_for,
                  const VectorKernels& vector_kernels, float* values) {
  const int64_t places = static_cast<int64_t>(groups.places.size());
  if (places < ids.batch * ids.active) {
    std::fill_n(values, ids.batch * ids.active, 0.0f);
  }
  if (places == 0) return;
  const Products products = {ids,    groups, inputs,         input_dim,
                             kernel, bias,   vector_kernels, values};
  const int64_t tiles = static_cast<int64_t>(groups.tiles.size()) - 1;
  parallel_for(
      tiles, (1 + places / tiles) * (input_dim / 16 + 16),
      [&](int64_t begin, int64_t end) {
        SharedSamples shared;
        for (int64_t tile = begin; tile < end; ++tile) {
          const int64_t first = groups.tiles[tile];
          const int64_t last = groups.tiles[tile + 1];
          if (tile + 1 < end) {
            for (int64_t g = last; g < groups.tiles[tile + 2]; ++g) {
              Prefetch(products.Row(g), input_dim);
            }
          }
          if (last - first > 1 && shared.Merge(products, first, last)) {
            shared.Multiply(products, first);
          } else {
            for (int64_t g = first; g < last; ++g) MultiplyOne(products, g);
          }
        }
      });
}

void KeepLargest(const ActiveIds& ids, const float* values, int64_t keep,
                 const ParallelFor& parallel_for, int32_t* kept_ids,
                 float* kept_values) {
  parallel_for(ids.batch, 16 * ids.active, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> keys(ids.active), sorted;
    for (int64_t b = begin; b < end; ++b) {
      const int32_t* id = ids.ids + b * ids.active;
      const float* value = values + b * ids.active;
      for (int64_t s = 0; s < ids.active; ++s) {
        keys[s] = RankingKey(id[s], value[s]);
      }
      uint64_t smallest = 1;  // of what is kept; unused places have key 0
      if (keep > 0 && keep < ids.active) {
        sorted = keys;
        std::nth_element(sorted.begin(), sorted.begin() + keep - 1,
                         sorted.end(), std::greater<uint64_t>());
        smallest = std::max(smallest, sorted[keep - 1]);
      }
      int64_t place = b * keep;
      for (int64_t s = 0; s < ids.active; ++s) {
        // Of an id that occurs twice, no more than there is room for.
        if (keys[s] < smallest || place == (b + 1) * keep) continue;
        kept_ids[place] = id[s];
        kept_values[place++] = value[s];
      }
      std::fill(kept_ids + place, kept_ids + (b + 1) * keep, kNoId);
      std::fill(kept_values + place, kept_values + (b + 1) * keep, 0.0f);
    }
  });
}

void ActiveMatmulGradInput(const ActiveIds& ids, const float* gradient,
                           const float* kernel, int64_t input_dim,
                           const ParallelFor& parallel_for,
                           const VectorKernels& vector_kernels,
                           float* input_gradient) {
  parallel_for(ids.batch, ids.active * (input_dim / 8 + 16),
               [&](int64_t begin, int64_t end) {
                 std::vector<const float*> rows(ids.active);
                 std::vector<float> scales(ids.active);
                 for (int64_t b = begin; b < end; ++b) {
                   int64_t count = 0;
                   for (int64_t s = 0; s < ids.active; ++s) {
                     const int64_t neuron = ids.ids[b * ids.active + s];
                     if (neuron == kNoId) continue;
                     rows[count] = kernel + neuron * input_dim;
                     scales[count++] = gradient[b * ids.active + s];
                   }
                   vector_kernels.weighted_sum(rows.data(), scales.data(),
                                               count, input_dim,
                                               input_gradient + b * input_dim);
                 }
               });
}

void ActiveMatmulGradKernel(const ActiveIds& ids, const NeuronSamples& groups,
                            const float* gradient, const float* inputs,
                            int64_t input_dim, const ParallelFor& parallel_for,
                            const VectorKernels& vector_kernels,
                            float* kernel_gradient, float* bias_gradient) {
  const int64_t neurons = static_cast<int64_t>(groups.neurons.size());
  if (neurons == 0) return;
  const int64_t samples_each =
      1 + static_cast<int64_t>(groups.places.size()) / neurons;
  parallel_for(
      neurons, samples_each * (input_dim / 8 + 16),
      [&](int64_t begin, int64_t end) {
        std::vector<const float*> rows;
        std::vector<float> scales;
        for (int64_t g = begin; g < end; ++g) {
          rows.clear();
          scales.clear();
          float bias_sum = 0.0f;
          for (int64_t i = groups.starts[g]; i < groups.starts[g + 1]; ++i) {
            const int32_t place = groups.places[i];
            rows.push_back(inputs + place / ids.active * input_dim);
            scales.push_back(gradient[place]);
            bias_sum += gradient[place];
          }
          vector_kernels.weighted_sum(
              rows.data(), scales.data(), static_cast<int64_t>(rows.size()),
              input_dim, kernel_gradient + g * input_dim);
          bias_gradient[g] = bias_sum;
        }
      });
}

}  // namespace keras_lsh
