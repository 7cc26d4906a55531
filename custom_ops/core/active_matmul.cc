#include "custom_ops/core/active_matmul.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>

#include "custom_ops/core/active_set.h"

namespace keras_lsh {
namespace {

// Vectors handed to one call of a vector kernel: enough to keep its registers
// busy, few enough for the pointers to stay on the stack.
constexpr int64_t kChunk = 64;

constexpr int kDigitBits = 11;  // of the radix sort: 2^11 counters fit L1

struct Place {
  int32_t neuron;
  int32_t place;
};

// One stable counting-sort pass by `kDigitBits` bits of the neuron.
void SortByDigit(const std::vector<Place>& from, int shift,
                 std::vector<Place>* to) {
  std::array<int64_t, (1 << kDigitBits) + 1> starts{};
  constexpr int32_t kMask = (1 << kDigitBits) - 1;
  for (const Place& p : from) ++starts[(p.neuron >> shift & kMask) + 1];
  for (size_t i = 1; i < starts.size(); ++i) starts[i] += starts[i - 1];
  for (const Place& p : from) {
    (*to)[starts[p.neuron >> shift & kMask]++] = p;
  }
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

Status GroupByNeuron(const ActiveIds& ids, int64_t units, NeuronSamples* out) {
  const int64_t total = ids.batch * ids.active;
  if (total > std::numeric_limits<int32_t>::max()) {
    return Status::Invalid(
        "The size of `ids`, batch * active, must be below 2^31. Received: " +
        std::to_string(ids.batch) + " * " + std::to_string(ids.active));
  }
  Status status = CheckIds(ids, units);
  if (!status.ok()) return status;

  std::vector<Place> places;
  places.reserve(total);
  for (int64_t i = 0; i < total; ++i) {
    if (ids.ids[i] != kNoId) {
      places.push_back({ids.ids[i], static_cast<int32_t>(i)});
    }
  }
  std::vector<Place> other(places.size());
  for (int shift = 0; (units - 1) >> shift > 0; shift += kDigitBits) {
    SortByDigit(places, shift, &other);
    places.swap(other);
  }

  out->neurons.clear();
  out->starts.clear();
  out->places.resize(places.size());
  for (size_t i = 0; i < places.size(); ++i) {
    if (i == 0 || places[i].neuron != places[i - 1].neuron) {
      out->neurons.push_back(places[i].neuron);
      out->starts.push_back(static_cast<int64_t>(i));
    }
    out->places[i] = places[i].place;
  }
  out->starts.push_back(static_cast<int64_t>(places.size()));
  return Status();
}

void ActiveMatmul(const ActiveIds& ids, const NeuronSamples& groups,
                  const float* inputs, int64_t input_dim, const float* kernel,
                  const float* bias, const ParallelFor& parallel_for,
                  const VectorKernels& vector_kernels, float* values) {
  if (static_cast<int64_t>(groups.places.size()) < ids.batch * ids.active) {
    std::fill_n(values, ids.batch * ids.active, 0.0f);
  }
  const int64_t neurons = static_cast<int64_t>(groups.neurons.size());
  if (neurons == 0) return;
  const int64_t samples_each =
      1 + static_cast<int64_t>(groups.places.size()) / neurons;
  parallel_for(
      neurons, samples_each * (input_dim / 8 + 16),
      [&](int64_t begin, int64_t end) {
        const float* vectors[kChunk];
        float products[kChunk];
        for (int64_t g = begin; g < end; ++g) {
          const int64_t neuron = groups.neurons[g];
          const float* row = kernel + neuron * input_dim;
          const float offset = bias == nullptr ? 0.0f : bias[neuron];
          for (int64_t i = groups.starts[g]; i < groups.starts[g + 1];
               i += kChunk) {
            const int64_t count = std::min(kChunk, groups.starts[g + 1] - i);
            const int32_t* places = groups.places.data() + i;
            for (int64_t c = 0; c < count; ++c) {
              vectors[c] = inputs + places[c] / ids.active * input_dim;
            }
            vector_kernels.dots(row, vectors, count, input_dim, products);
            for (int64_t c = 0; c < count; ++c) {
              values[places[c]] = products[c] + offset;
            }
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
      if (keep < ids.active) {
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
