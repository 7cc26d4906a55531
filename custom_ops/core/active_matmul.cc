#include "custom_ops/core/active_matmul.h"

#include <algorithm>
#include <array>

#include "custom_ops/core/active_set.h"
#include "custom_ops/core/sparse_inputs.h"
#include "custom_ops/core/unit_chunks.h"

namespace keras_lsh {
namespace {

// Vectors handed to one call of a vector kernel: enough to keep its registers
// busy, few enough for the pointers to stay on the stack.
constexpr int64_t kChunk = 64;

// With fewer samples a neuron than this, the memory that rows come from is all
// that counts.
constexpr int64_t kReuse = 2;

// Rows of more bytes than this, together, are not kept in the caches: they
// would drive out what the rest of the program works with, and a call of one
// sample took half as long again.
constexpr int64_t kKeptInCache = 1 << 21;

constexpr int64_t kMaxTile = VectorKernels::kMaxTileRows;

// Rows of at most this many elements are read again for each sample where they
// come from the caches (unit_chunks.h), or for few samples: to bring a neuron's
// samples together takes longer. Nor does it pay to find out which neurons
// share most of theirs.
constexpr int64_t kShortRow = 128;
constexpr int64_t kFewSamples = 16;

// Rows that are multiplied together, sample by sample.
constexpr int64_t kRowsAtOnce = 8;

// What the loops over neurons share.
template <typename T>
struct Products {
  const ActiveIds& ids;
  const NeuronSamples& groups;
  const float* inputs;
  const SparseInputs& sparse;
  int64_t input_dim;
  const T* kernel;
  const float* bias;
  const VectorKernels& vector_kernels;
  float* values;
  const SampleOfPlace sample_of{ids.active};

  const T* Row(int64_t group) const {
    return kernel + groups.neurons[group] * input_dim;
  }
  int64_t Sample(int32_t place) const { return sample_of(place); }
  const float* Input(int64_t sample) const {
    return inputs + sample * input_dim;
  }
  // The products of a sparse sample with rows. `next`: a row that comes soon
  // and is not in a cache, or null.
  void MultiplySparse(const T* const* rows, int64_t num_rows, const T* next,
                      int64_t sample, float* out) const {
    vector_kernels.Rows<T>().sparse_dots(
        rows, num_rows, next, sparse.Columns(sample), sparse.Values(sample),
        sparse.Count(sample), out);
  }
  void Write(int64_t group, int32_t place, float product) const {
    values[place] =
        bias == nullptr ? product : product + bias[groups.neurons[group]];
  }
};

// The products of one neuron with its samples.
template <typename T>
void MultiplyOne(const Products<T>& p, int64_t group) {
  const T* row = p.Row(group);
  const float* vectors[kChunk];
  int32_t places[kChunk];
  float products[kChunk];
  int64_t count = 0;
  const auto multiply = [&] {
    p.vector_kernels.template Rows<T>().dots(row, vectors, count, p.input_dim,
                                             products);
    for (int64_t c = 0; c < count; ++c) p.Write(group, places[c], products[c]);
    count = 0;
  };
  for (int64_t i = p.groups.starts[group]; i < p.groups.starts[group + 1];
       ++i) {
    const int32_t place = p.groups.places[i];
    const int64_t sample = p.Sample(place);
    if (p.sparse.IsSparse(sample)) {
      float product;
      p.MultiplySparse(&row, 1, nullptr, sample, &product);
      p.Write(group, place, product);
      continue;
    }
    places[count] = place;
    vectors[count++] = p.Input(sample);
    if (count == kChunk) multiply();
  }
  multiply();
}

// The products of the places from `begin` to `end`, whatever they share.
template <typename T>
void MultiplyPlaces(const Products<T>& p, int64_t begin, int64_t end) {
  const bool once =
      static_cast<int64_t>(p.groups.neurons.size()) >
      kKeptInCache / std::max<int64_t>(p.input_dim * sizeof(T), 1);
  const T* rows[kChunk] = {};
  const float* vectors[kChunk] = {};
  int64_t groups[kChunk];
  int32_t places[kChunk];
  float products[kChunk];
  int64_t count = 0;
  const auto multiply = [&] {
    p.vector_kernels.template Rows<T>().pair_dots(rows, vectors, count,
                                                  p.input_dim, once, products);
    for (int64_t c = 0; c < count; ++c) {
      p.Write(groups[c], places[c], products[c]);
    }
    count = 0;
  };
  int64_t group =
      std::upper_bound(p.groups.starts.begin(), p.groups.starts.end(), begin) -
      p.groups.starts.begin() - 1;
  for (int64_t i = begin; i < end; ++i) {
    while (i >= p.groups.starts[group + 1]) ++group;
    const int32_t place = p.groups.places[i];
    const int64_t sample = p.Sample(place);
    rows[count] = p.Row(group);
    if (p.sparse.IsSparse(sample)) {
      const bool last =
          group + 1 == static_cast<int64_t>(p.groups.neurons.size());
      float product;
      p.MultiplySparse(&rows[count], 1, last ? nullptr : p.Row(group + 1),
                       sample, &product);
      p.Write(group, place, product);
      continue;
    }
    groups[count] = group;
    places[count] = place;
    vectors[count++] = p.Input(sample);
    if (count == kChunk) multiply();
  }
  multiply();
}

// The samples of any of a tile's neurons, and where each neuron has them.
template <typename T>
class SharedSamples {
 public:
  // Merges the lists; false, having given up, if they share too little for
  // multiplying all neurons by all samples to pay.
  bool Merge(const Products<T>& p, int64_t first, int64_t last) {
    const std::vector<int64_t>& starts = p.groups.starts;
    rows_ = last - first;
    const int64_t wanted = starts[last] - starts[first];
    const int64_t most = wanted * 5 / (rows_ * 3);  // 60 % of products wanted
    std::array<int64_t, kMaxTile> next, sample;
    const auto sample_at = [&](int64_t r) {
      return next[r] < starts[first + r + 1]
                 ? p.Sample(p.groups.places[next[r]])
                 : p.ids.batch;
    };
    for (int64_t r = 0; r < rows_; ++r) {
      next[r] = starts[first + r];
      sample[r] = sample_at(r);
    }
    places_.clear();
    samples_.clear();
    while (true) {
      const int64_t b =
          *std::min_element(sample.begin(), sample.begin() + rows_);
      if (b == p.ids.batch) return true;
      if (static_cast<int64_t>(samples_.size()) == most) return false;
      for (int64_t r = 0; r < rows_; ++r) {
        if (sample[r] == b) {
          places_.push_back(p.groups.places[next[r]++]);
          sample[r] = sample_at(r);
        } else {
          places_.push_back(kNoId);
        }
      }
      samples_.push_back(b);
    }
  }

  // The products of the merged tile.
  void Multiply(const Products<T>& p, int64_t first) {
    const T* rows[kMaxTile];
    float products[kMaxTile];
    for (int64_t r = 0; r < rows_; ++r) rows[r] = p.Row(first + r);
    vectors_.clear();
    vectors_at_.clear();
    for (size_t i = 0; i < samples_.size(); ++i) {
      if (p.sparse.IsSparse(samples_[i])) {
        p.MultiplySparse(rows, rows_, nullptr, samples_[i], products);
        Write(p, first, i, products, 1);
      } else {
        vectors_.push_back(p.Input(samples_[i]));
        vectors_at_.push_back(i);
      }
    }
    const int64_t count = static_cast<int64_t>(vectors_.size());
    products_.resize(rows_ * count);
    p.vector_kernels.template Rows<T>().dot_tile(
        rows, rows_, vectors_.data(), count, p.input_dim, products_.data());
    for (int64_t v = 0; v < count; ++v) {
      Write(p, first, vectors_at_[v], &products_[v], count);
    }
  }

 private:
  // Writes the products, `stride` apart, of the i-th sample.
  void Write(const Products<T>& p, int64_t first, size_t i,
             const float* products, int64_t stride) const {
    for (int64_t r = 0; r < rows_; ++r) {
      const int32_t place = places_[i * rows_ + r];
      if (place != kNoId) p.Write(first + r, place, products[r * stride]);
    }
  }

  int64_t rows_ = 0;
  std::vector<int32_t> places_;   // [samples, rows]; kNoId: does not have it
  std::vector<int64_t> samples_;  // [samples]
  std::vector<const float*>
      vectors_;                     // the inputs of those that are not sparse
  std::vector<size_t> vectors_at_;  // and which these are
  std::vector<float> products_;     // [rows, vectors]
};

}  // namespace

bool MultipliesBySample(const ActiveIds& ids, int64_t units, int64_t input_dim,
                        int64_t element_bytes) {
  return input_dim <= kShortRow &&
         (ids.batch < kFewSamples ||
          BitsOfCachedChunks(ids, units, input_dim * element_bytes) >= 0);
}

template <typename T>
void ActiveMatmulBySample(const ActiveIds& ids, int64_t units,
                          const float* inputs, int64_t input_dim,
                          const T* kernel, const float* bias,
                          const ParallelFor& parallel_for,
                          const VectorKernels& vector_kernels, float* values) {
  const SparseInputs sparse(inputs, ids.batch, input_dim, parallel_for);
  const auto row_of = [&](int64_t place) {
    // An unused place is multiplied, too, rather than told apart.
    return kernel + std::max(ids.ids[place], 0) * input_dim;
  };
  const auto multiply = [&](int64_t sample, int64_t begin, int64_t end) {
    const T* rows[kRowsAtOnce];
    for (int64_t first = begin; first < end; first += kRowsAtOnce) {
      const int64_t last = std::min(first + kRowsAtOnce, end);
      const int64_t soon = std::min(last + kRowsAtOnce, end);
      for (int64_t i = first; i < last; ++i) rows[i - first] = row_of(i);
      for (int64_t i = last; i < soon; ++i) Prefetch(row_of(i), input_dim);
      if (sparse.IsSparse(sample)) {
        for (int64_t i = first; i < last; ++i) {
          vector_kernels.Rows<T>().sparse_dots(
              &rows[i - first], 1, nullptr, sparse.Columns(sample),
              sparse.Values(sample), sparse.Count(sample), values + i);
        }
      } else {
        vector_kernels.Rows<T>().row_dots(inputs + sample * input_dim, rows,
                                          last - first, input_dim,
                                          values + first);
      }
    }
    for (int64_t i = begin; i < end; ++i) {
      const int32_t id = ids.ids[i];
      if (id == kNoId) {
        values[i] = 0.0f;
      } else if (bias != nullptr) {
        values[i] += bias[id];
      }
    }
  };
  const int64_t cost = input_dim / 4 + 16;
  const int bits = ids.batch < kFewSamples
                       ? -1
                       : BitsOfCachedChunks(ids, units, input_dim * sizeof(T));
  if (bits >= 0 && (units - 1) >> bits > 0) {
    const UnitChunks chunks(ids, units, bits, parallel_for);
    if (chunks.found()) {
      const int64_t places = ids.batch * ids.active / chunks.count() + 1;
      parallel_for(
          chunks.count(), cost * places, [&](int64_t begin, int64_t end) {
            for (int64_t c = begin; c < end; ++c) {
              for (int64_t b = 0; b < ids.batch; ++b) {
                multiply(b, chunks.begin(b, c), chunks.begin(b, c + 1));
              }
            }
          });
      // No chunk has the unused places.
      for (int64_t b = 0; b < ids.batch; ++b) {
        std::fill(values + chunks.begin(b, chunks.count()),
                  values + (b + 1) * ids.active, 0.0f);
      }
      return;
    }
  }
  parallel_for(ids.batch * ids.active, cost, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t sample = begin / ids.active;
      const int64_t last = std::min((sample + 1) * ids.active, end);
      multiply(sample, begin, last);
      begin = last;
    }
  });
}

template <typename T>
void ActiveMatmul(const ActiveIds& ids, const NeuronSamples& groups,
                  const float* inputs, int64_t input_dim, const T* kernel,
                  const float* bias, const ParallelFor& parallel_for,
                  const VectorKernels& vector_kernels, float* values) {
  const int64_t places = static_cast<int64_t>(groups.places.size());
  if (places < ids.batch * ids.active) {
    std::fill_n(values, ids.batch * ids.active, 0.0f);
  }
  if (places == 0) return;
  const SparseInputs sparse(inputs, ids.batch, input_dim, parallel_for);
  const Products<T> products = {ids,    groups,         inputs,
                                sparse, input_dim,      kernel,
                                bias,   vector_kernels, values};
  if (places < kReuse * static_cast<int64_t>(groups.neurons.size())) {
    parallel_for(places, input_dim / 4 + 16, [&](int64_t begin, int64_t end) {
      MultiplyPlaces(products, begin, end);
    });
    return;
  }
  const int64_t tiles = static_cast<int64_t>(groups.tiles.size()) - 1;
  const bool short_rows = input_dim <= kShortRow;
  parallel_for(tiles, (1 + places / tiles) * (input_dim / 16 + 16),
               [&](int64_t begin, int64_t end) {
                 SharedSamples<T> shared;
                 for (int64_t tile = begin; tile < end; ++tile) {
                   const int64_t first = groups.tiles[tile];
                   const int64_t last = groups.tiles[tile + 1];
                   if (tile + 1 < end) {
                     for (int64_t g = last; g < groups.tiles[tile + 2]; ++g) {
                       Prefetch(products.Row(g), input_dim);
                     }
                   }
                   if (!short_rows && last - first > 1 &&
                       shared.Merge(products, first, last)) {
                     shared.Multiply(products, first);
                   } else {
                     for (int64_t g = first; g < last; ++g)
                       MultiplyOne(products, g);
                   }
                 }
               });
}

#define INSTANTIATE(T)                                                         \
  template void ActiveMatmul<T>(                                               \
      const ActiveIds&, const NeuronSamples&, const float*, int64_t, const T*, \
      const float*, const ParallelFor&, const VectorKernels&, float*);         \
  template void ActiveMatmulBySample<T>(                                       \
      const ActiveIds&, int64_t, const float*, int64_t, const T*,              \
      const float*, const ParallelFor&, const VectorKernels&, float*);
INSTANTIATE(float)
INSTANTIATE(Bfloat16)
#undef INSTANTIATE

}  // namespace keras_lsh
