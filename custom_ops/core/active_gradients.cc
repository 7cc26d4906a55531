#include "custom_ops/core/active_gradients.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "custom_ops/core/active_set.h"
#include "custom_ops/core/sparse_inputs.h"

namespace keras_lsh {
namespace {

constexpr int64_t kCacheFloats = 8192;   // of the first-level cache: 32 KiB
constexpr int64_t kLeastColumns = 64;    // a slab's rows should fill registers
constexpr int64_t kNeuronsAtOnce = 64;   // of one item of work
constexpr int64_t kRowFloats = 1 << 16;  // of the second-level cache: 256 KiB
constexpr int64_t kBlockFloats = 1 << 20;  // of the third-level cache: 4 MiB
constexpr int64_t kLine = 16;              // floats of a cache line

// Samples whose gradients at a few columns are added up together: each pass
// over the neurons' rows is for so many.
constexpr int64_t kSamplesAtOnce = 64;

// Neurons' rows that are asked for before they are needed.
constexpr int64_t kRowsAhead = 4;

// A kernel of at most so many floats stays in the last-level cache.
constexpr int64_t kSmallKernel = 1 << 21;

// How the columns of [batch, columns] are cut into slabs.
struct Slabs {
  Slabs(int64_t batch, int64_t columns)
      : columns(columns),
        width(
            std::max(kLeastColumns, kCacheFloats / std::max<int64_t>(batch, 1) /
                                        kLeastColumns * kLeastColumns)),
        count((columns + width - 1) / width) {}

  int64_t Begin(int64_t slab) const { return slab * width; }
  int64_t Width(int64_t slab) const {
    return std::min(width, columns - slab * width);
  }

  int64_t columns;
  int64_t width;
  int64_t count;
};

// For each place of the groups, its gradient and its sample.
struct Terms {
  Terms(const ActiveIds& ids, const NeuronSamples& groups,
        const float* gradient) {
    scales.reserve(groups.places.size());
    samples.reserve(groups.places.size());
    for (int32_t place : groups.places) {
      scales.push_back(gradient[place]);
      samples.push_back(static_cast<int32_t>(place / ids.active));
    }
  }

  std::vector<float> scales;
  std::vector<int32_t> samples;
};

// The slab of a matrix, its rows one after the other: rows of the matrix itself
// may lie a power of two apart, and then few of them fit a cache together.
class SlabBuffer {
 public:
  SlabBuffer(int64_t rows, const Slabs& slabs)
      : rows_(rows), slabs_(slabs), floats_(rows * slabs.width + kLine) {
    const auto address = reinterpret_cast<uintptr_t>(floats_.data());
    first_ = floats_.data() + (kLine - address / sizeof(float) % kLine) % kLine;
  }

  void Clear() { std::fill(floats_.begin(), floats_.end(), 0.0f); }
  void Load(const float* matrix, int64_t slab) {
    for (int64_t row = 0; row < rows_; ++row) {
      std::copy_n(matrix + row * slabs_.columns + slabs_.Begin(slab),
                  slabs_.Width(slab), Row(row));
    }
  }
  void Store(int64_t slab, float* matrix) {
    for (int64_t row = 0; row < rows_; ++row) {
      std::copy_n(Row(row), slabs_.Width(slab),
                  matrix + row * slabs_.columns + slabs_.Begin(slab));
    }
  }
  // Pointers to the rows of `samples`.
  std::vector<float*> Rows(const std::vector<int32_t>& samples) {
    std::vector<float*> rows;
    rows.reserve(samples.size());
    for (int32_t sample : samples) rows.push_back(Row(sample));
    return rows;
  }

 private:
  float* Row(int64_t row) { return first_ + row * slabs_.width; }

  const int64_t rows_;
  const Slabs& slabs_;
  std::vector<float> floats_;  // [rows, width], from first_ on
  float* first_;               // at the beginning of a cache line
};

// Sample by sample, the sums held in registers.
void GradInputOfSmallKernel(const ActiveIds& ids, const Terms& terms,
                            const NeuronSamples& groups, const float* kernel,
                            int64_t input_dim, const ParallelFor& parallel_for,
                            const VectorKernels& vector_kernels,
                            float* input_gradient) {
  // The terms by sample, in the order of the neurons.
  std::vector<int64_t> ends(ids.batch + 1, 0);
  for (int32_t sample : terms.samples) ++ends[sample + 1];
  for (int64_t b = 0; b < ids.batch; ++b) ends[b + 1] += ends[b];
  std::vector<int64_t> next(ends.begin(), ends.end());
  std::vector<const float*> rows(terms.samples.size());
  std::vector<float> scales(terms.samples.size());
  for (size_t g = 0; g < groups.neurons.size(); ++g) {
    for (int64_t i = groups.starts[g]; i < groups.starts[g + 1]; ++i) {
      const int64_t place = next[terms.samples[i]]++;
      rows[place] = kernel + groups.neurons[g] * input_dim;
      scales[place] = terms.scales[i];
    }
  }
  parallel_for(ids.batch, ids.active * (input_dim / 8 + 16),
               [&](int64_t begin, int64_t end) {
                 for (int64_t b = begin; b < end; ++b) {
                   vector_kernels.weighted_sum(rows.data() + ends[b],
                                               scales.data() + ends[b],
                                               ends[b + 1] - ends[b], input_dim,
                                               input_gradient + b * input_dim);
                 }
               });
}

// The gradient of one neuron's row by samples that are all sparse.
void SparseRow(const NeuronSamples& groups, const Terms& terms,
               const SparseInputs& inputs, int64_t group, int64_t input_dim,
               const VectorKernels& vector_kernels, float* row) {
  std::fill_n(row, input_dim, 0.0f);
  for (int64_t i = groups.starts[group]; i < groups.starts[group + 1]; ++i) {
    const int32_t sample = terms.samples[i];
    vector_kernels.add_sparse(terms.scales[i], inputs.Columns(sample),
                              inputs.Values(sample), inputs.Count(sample), row);
  }
}

// A slab of the gradients of the neurons [first, last), `rows` being those of
// `first` and of the ones behind it.
void AddSlab(const NeuronSamples& groups, const Terms& terms,
             const std::vector<float*>& samples, const Slabs& slabs,
             int64_t slab, int64_t first, int64_t last,
             const VectorKernels& vector_kernels, float* rows) {
  for (int64_t g = first; g < last; ++g) {
    const int64_t i = groups.starts[g];
    vector_kernels.weighted_sum(
        &samples[i], &terms.scales[i], groups.starts[g + 1] - i,
        slabs.Width(slab),
        rows + (g - first) * slabs.columns + slabs.Begin(slab));
  }
}

// Rows [first, last) of the kernel's gradient, slab by slab, and within a slab
// so many neurons at a time, so that there is work for several threads where a
// slab holds all columns.
void DenseRows(const NeuronSamples& groups, const Terms& terms,
               const float* inputs, int64_t batch, const Slabs& slabs,
               int64_t first, int64_t last, const ParallelFor& parallel_for,
               const VectorKernels& vector_kernels, float* rows) {
  const int64_t parts = (last - first + kNeuronsAtOnce - 1) / kNeuronsAtOnce;
  const int64_t places = groups.starts[last] - groups.starts[first];
  parallel_for(
      slabs.count * parts, (1 + places / parts) * (slabs.width / 8),
      [&](int64_t begin, int64_t end) {
        SlabBuffer samples(batch, slabs);
        const std::vector<float*> of_places = samples.Rows(terms.samples);
        int64_t loaded = -1;
        for (int64_t item = begin; item < end; ++item) {
          const int64_t slab = item / parts;
          if (slab != loaded) samples.Load(inputs, slab);
          loaded = slab;
          const int64_t from = first + item % parts * kNeuronsAtOnce;
          AddSlab(groups, terms, of_places, slabs, slab, from,
                  std::min(from + kNeuronsAtOnce, last), vector_kernels,
                  rows + (from - first) * slabs.columns);
        }
      });
}

}  // namespace

void ActiveMatmulGradInputAt(const ActiveIds& ids, const NeuronSamples& groups,
                             const float* gradient, const float* kernel,
                             int64_t input_dim, const ActiveIds& wanted,
                             const ParallelFor& parallel_for,
                             const VectorKernels& vector_kernels,
                             float* input_gradient) {
  const Terms terms(ids, groups, gradient);
  const int64_t neurons = static_cast<int64_t>(groups.neurons.size());
  const int64_t parts = (ids.batch + kSamplesAtOnce - 1) / kSamplesAtOnce;
  parallel_for(
      parts, kSamplesAtOnce * (ids.active * wanted.active * 2 + input_dim / 8),
      [&](int64_t begin, int64_t end) {
        begin *= kSamplesAtOnce;
        end = std::min(end * kSamplesAtOnce, ids.batch);
        // What is added up for unused places is thrown away.
        const int64_t any = wanted.active;
        std::vector<int32_t> columns(wanted.ids + begin * any,
                                     wanted.ids + end * any);
        for (int32_t& column : columns) column = std::max(column, 0);
        std::vector<float> sums((end - begin) * any, 0.0f);
        for (int64_t g = 0; g < neurons; ++g) {
          const float* row = kernel + groups.neurons[g] * input_dim;
          const auto sample = terms.samples.begin();
          int64_t i = std::lower_bound(sample + groups.starts[g],
                                       sample + groups.starts[g + 1], begin) -
                      sample;
          for (; i < groups.starts[g + 1] && terms.samples[i] < end; ++i) {
            const int64_t first = (terms.samples[i] - begin) * any;
            vector_kernels.add_gathered(terms.scales[i], row,
                                        columns.data() + first, any,
                                        sums.data() + first);
          }
        }
        std::fill(input_gradient + begin * input_dim,
                  input_gradient + end * input_dim, 0.0f);
        for (int64_t b = begin; b < end; ++b) {
          for (int64_t k = 0; k < any; ++k) {
            const int32_t column = wanted.ids[b * any + k];
            if (column == kNoId) continue;
            input_gradient[b * input_dim + column] =
                sums[(b - begin) * any + k];
          }
        }
      });
}

void ActiveMatmulGradInput(const ActiveIds& ids, const NeuronSamples& groups,
                           const float* gradient, const float* kernel,
                           int64_t input_dim, const ParallelFor& parallel_for,
                           const VectorKernels& vector_kernels,
                           float* input_gradient) {
  const Terms terms(ids, groups, gradient);
  const int64_t neurons = static_cast<int64_t>(groups.neurons.size());
  const int64_t places = static_cast<int64_t>(groups.places.size());
  if (neurons * input_dim <= kSmallKernel) {
    GradInputOfSmallKernel(ids, terms, groups, kernel, input_dim, parallel_for,
                           vector_kernels, input_gradient);
    return;
  }
  const Slabs slabs(ids.batch, input_dim);
  parallel_for(
      slabs.count, (places + ids.batch + 1) * (slabs.width / 8),
      [&](int64_t begin, int64_t end) {
        SlabBuffer sums(ids.batch, slabs);
        const std::vector<float*> rows = sums.Rows(terms.samples);
        for (int64_t slab = begin; slab < end; ++slab) {
          sums.Clear();
          const int64_t width = slabs.Width(slab);
          const float* column = kernel + slabs.Begin(slab);
          for (int64_t g = 0; g < neurons; ++g) {
            if (g + kRowsAhead < neurons) {
              Prefetch(column + groups.neurons[g + kRowsAhead] * input_dim,
                       width);
            }
            const int64_t first = groups.starts[g];
            vector_kernels.add_scaled(column + groups.neurons[g] * input_dim,
                                      &terms.scales[first], &rows[first],
                                      groups.starts[g + 1] - first, width);
          }
          sums.Store(slab, input_gradient);
        }
      });
}

void ActiveMatmulGradBias(const NeuronSamples& groups, const float* gradient,
                          float* bias_gradient) {
  for (size_t g = 0; g < groups.neurons.size(); ++g) {
    float sum = 0.0f;
    for (int64_t i = groups.starts[g]; i < groups.starts[g + 1]; ++i) {
      sum += gradient[groups.places[i]];
    }
    bias_gradient[g] = sum;
  }
}

void ActiveMatmulGradKernel(const ActiveIds& ids, const NeuronSamples& groups,
                            const float* gradient, const float* inputs,
                            int64_t input_dim, const ParallelFor& parallel_for,
                            const VectorKernels& vector_kernels,
                            float* kernel_gradient) {
  const int64_t neurons = static_cast<int64_t>(groups.neurons.size());
  if (neurons == 0) return;
  const Terms terms(ids, groups, gradient);
  const int64_t places = static_cast<int64_t>(groups.places.size());
  const SparseInputs sparse(inputs, ids.batch, input_dim, parallel_for);
  if (sparse.AllAreSparse()) {
    parallel_for(
        neurons,
        (1 + 2 * places / neurons) * (input_dim / SparseInputs::kSparsity),
        [&](int64_t begin, int64_t end) {
          for (int64_t g = begin; g < end; ++g) {
            SparseRow(groups, terms, sparse, g, input_dim, vector_kernels,
                      kernel_gradient + g * input_dim);
          }
        });
    return;
  }
  const Slabs slabs(ids.batch, input_dim);
  DenseRows(groups, terms, inputs, ids.batch, slabs, 0, neurons, parallel_for,
            vector_kernels, kernel_gradient);
}

void ActiveMatmulGradKernelRows(
    const ActiveIds& ids, const NeuronSamples& groups, const float* gradient,
    const float* inputs, int64_t input_dim, const ParallelFor& parallel_for,
    const VectorKernels& vector_kernels, const UseRows& use) {
  const int64_t neurons = static_cast<int64_t>(groups.neurons.size());
  if (neurons == 0) return;
  const Terms terms(ids, groups, gradient);
  const int64_t places = static_cast<int64_t>(groups.places.size());
  const SparseInputs sparse(inputs, ids.batch, input_dim, parallel_for);
  if (sparse.AllAreSparse()) {
    parallel_for(neurons, input_dim * 2, [&](int64_t begin, int64_t end) {
      std::vector<float> row(input_dim);
      for (int64_t g = begin; g < end; ++g) {
        SparseRow(groups, terms, sparse, g, input_dim, vector_kernels,
                  row.data());
        use(g, g + 1, row.data());
      }
    });
    return;
  }
  // So many neurons at a time that their rows stay in the second-level cache.
  // All slabs of the samples are loaded for each such part.
  const Slabs slabs(ids.batch, input_dim);
  const int64_t at_once =
      std::max<int64_t>(1, kRowFloats / std::max<int64_t>(input_dim, 1));
  const int64_t parts = (neurons + at_once - 1) / at_once;
  if (parts * ids.batch > places / 2) {
    // Loading the samples so often would take longer than rows that go through
    // the last cache.
    const int64_t block =
        std::max<int64_t>(1, kBlockFloats / std::max<int64_t>(input_dim, 1));
    const std::unique_ptr<float[]> rows(
        new float[std::min(block, neurons) * input_dim]);
    for (int64_t first = 0; first < neurons; first += block) {
      const int64_t last = std::min(first + block, neurons);
      DenseRows(groups, terms, inputs, ids.batch, slabs, first, last,
                parallel_for, vector_kernels, rows.get());
      parallel_for(last - first, input_dim, [&](int64_t begin, int64_t end) {
        use(first + begin, first + end, rows.get() + begin * input_dim);
      });
    }
    return;
  }
  parallel_for(parts, (1 + places / parts) * (input_dim / 8),
               [&](int64_t begin, int64_t end) {
                 SlabBuffer samples(ids.batch, slabs);
                 const std::vector<float*> of_places =
                     samples.Rows(terms.samples);
                 std::vector<float> rows(at_once * input_dim);
                 for (int64_t part = begin; part < end; ++part) {
                   const int64_t first = part * at_once;
                   const int64_t last = std::min(first + at_once, neurons);
                   for (int64_t slab = 0; slab < slabs.count; ++slab) {
                     samples.Load(inputs, slab);
                     AddSlab(groups, terms, of_places, slabs, slab, first, last,
                             vector_kernels, rows.data());
                   }
                   use(first, last, rows.data());
                 }
               });
}

}  // namespace keras_lsh
