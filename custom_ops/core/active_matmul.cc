#include "custom_ops/core/active_matmul.h"

#include <algorithm>
#include <array>

#include "custom_ops/core/active_set.h"

namespace keras_lsh {
namespace {

// Vectors handed to one call of a vector kernel: enough to keep its registers
// busy, few enough for the pointers to stay on the stack.
constexpr int64_t kChunk = 64;

// With fewer samples a neuron than this, the memory that rows come from is all
// that counts.
constexpr int64_t kReuse = 2;

// Rows of more floats than this, together, are not kept in the caches: they
// would drive out what the rest of the program works with, and a call of one
// sample took half as long again.
constexpr int64_t kKeptInCache = 1 << 19;

constexpr int64_t kMaxTile = VectorKernels::kMaxTileRows;

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

// The products of the places from `begin` to `end`, whatever they share.
void MultiplyPlaces(const Products& p, int64_t begin, int64_t end) {
  const bool once = static_cast<int64_t>(p.groups.neurons.size()) >
                    kKeptInCache / std::max<int64_t>(p.input_dim, 1);
  const float *rows[kChunk], *vectors[kChunk];
  float products[kChunk];
  int64_t group =
      std::upper_bound(p.groups.starts.begin(), p.groups.starts.end(), begin) -
      p.groups.starts.begin() - 1;
  for (int64_t i = begin; i < end; i += kChunk) {
    const int64_t count = std::min(kChunk, end - i);
    const int32_t* places = p.groups.places.data() + i;
    const int64_t first = group;
    for (int64_t c = 0; c < count; ++c) {
      while (i + c >= p.groups.starts[group + 1]) ++group;
      rows[c] = p.Row(group);
      vectors[c] = p.Input(places[c]);
    }
    p.vector_kernels.pair_dots(rows, vectors, count, p.input_dim, once,
                               products);
    group = first;
    for (int64_t c = 0; c < count; ++c) {
      while (i + c >= p.groups.starts[group + 1]) ++group;
      p.Write(group, places[c], products[c]);
    }
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
  if (places < kReuse * static_cast<int64_t>(groups.neurons.size())) {
    parallel_for(places, input_dim / 4 + 16, [&](int64_t begin, int64_t end) {
      MultiplyPlaces(products, begin, end);
    });
    return;
  }
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

}  // namespace keras_lsh
