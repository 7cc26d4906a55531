#include "custom_ops/core/active_gradients.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "custom_ops/core/active_set.h"
#include "custom_ops/core/sparse_inputs.h"
#include "custom_ops/core/unit_chunks.h"

namespace keras_lsh {
namespace {

constexpr int64_t kSlabFloats = 8192;    // fits a first-level cache: 32 KiB
constexpr int64_t kLeastColumns = 64;    // a slab's rows should fill registers
constexpr int64_t kNeuronsAtOnce = 64;   // of one item of work
constexpr int64_t kRowFloats = 1 << 16;  // of the second-level cache: 256 KiB
constexpr int64_t kBlockFloats = 1 << 20;  // of the third-level cache: 4 MiB

// Samples whose gradients at a few columns are added up together: each pass
// over the neurons' rows is for so many.
constexpr int64_t kSamplesAtOnce = 64;

// Neurons' rows that are asked for before they are needed.
constexpr int64_t kRowsAhead = 4;

// Rows of at most so many floats, together, stay in the last-level cache.
constexpr int64_t kCachedFloats = 1 << 21;

// For each place of the groups, its gradient and its sample.
struct Terms {
  Terms(const ActiveIds& ids, const NeuronSamples& groups,
        const float* gradient, const ParallelFor& parallel_for)
      : count(static_cast<int64_t>(groups.places.size())),
        scales(new float[count]),
        samples(new int32_t[count]) {
    const SampleOfPlace sample_of(ids.active);
    parallel_for(count, 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        scales[i] = gradient[groups.places[i]];
        samples[i] = sample_of(groups.places[i]);
      }
    });
  }

  // One for each sample, `stride` apart from `first` on.
  std::unique_ptr<float* []> Rows(float* first, int64_t stride,
                                  const ParallelFor& parallel_for) const {
    std::unique_ptr<float*[]> rows(new float*[count]);
    parallel_for(count, 2, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        rows[i] = first + samples[i] * stride;
      }
    });
    return rows;
  }

  const int64_t count;
  // Not vectors, which would be cleared first.
  const std::unique_ptr<float[]> scales;
  const std::unique_ptr<int32_t[]> samples;
};

// A matrix [batch, columns] cut into slabs of columns, one after the other, and
// within a slab one row after the other: rows of the matrix itself may lie a
// power of two apart, and then few of them fit a cache together. All threads
// share it.
class Slabs {
 public:
  Slabs(int64_t batch, int64_t columns)
      : batch_(batch),
        columns_(columns),
        width_(
            std::max(kLeastColumns, kSlabFloats / std::max<int64_t>(batch, 1) /
                                        kLeastColumns * kLeastColumns)),
        count_((columns + width_ - 1) / width_),
        floats_(new float[Offset(count_) + kLine<float>]) {
    const auto address = reinterpret_cast<uintptr_t>(floats_.get());
    constexpr int64_t kFloats = kLine<float>;
    first_ =
        floats_.get() + (kFloats - address / sizeof(float) % kFloats) % kFloats;
  }

  int64_t count() const { return count_; }
  int64_t columns() const { return columns_; }
  // Columns of a slab; only the last has fewer than others.
  int64_t Width(int64_t slab) const {
    return std::min(width_, columns_ - Begin(slab));
  }
  int64_t Begin(int64_t slab) const { return slab * width_; }
  // Of a row, from its place in the first slab to that in another.
  int64_t Offset(int64_t slab) const { return slab * batch_ * width_; }
  // The rows of the terms' samples, in the first slab.
  std::unique_ptr<float* []> Rows(const Terms& terms,
                                  const ParallelFor& parallel_for) {
    return terms.Rows(first_, width_, parallel_for);
  }

  void Clear(int64_t slab) {
    std::fill_n(first_ + Offset(slab), batch_ * width_, 0.0f);
  }
  void Load(const float* matrix, const ParallelFor& parallel_for) {
    parallel_for(count_, batch_ * width_ / 4, [&](int64_t begin, int64_t end) {
      for (int64_t slab = begin; slab < end; ++slab) {
        for (int64_t row = 0; row < batch_; ++row) {
          std::copy_n(matrix + row * columns_ + Begin(slab), Width(slab),
                      first_ + Offset(slab) + row * width_);
        }
      }
    });
  }
  void Store(int64_t slab, float* matrix) const {
    for (int64_t row = 0; row < batch_; ++row) {
      std::copy_n(first_ + Offset(slab) + row * width_, Width(slab),
                  matrix + row * columns_ + Begin(slab));
    }
  }

 private:
  const int64_t batch_, columns_, width_, count_;
  const std::unique_ptr<float[]> floats_;  // [count, batch, width], from first_
  float* first_;                           // at the beginning of a cache line
};

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
// `first` and of the ones behind it, `samples` the inputs of the terms.
void AddSlab(const NeuronSamples& groups, const Terms& terms,
             const Slabs& inputs, const float* const* samples, int64_t slab,
             int64_t first, int64_t last, const VectorKernels& vector_kernels,
             float* rows) {
  const int64_t width = inputs.Width(slab);
  const auto row_of = [&](int64_t g) {
    return rows + (g - first) * inputs.columns() + inputs.Begin(slab);
  };
  for (int64_t g = first; g < last; ++g) {
    if (g + kRowsAhead < last) PrefetchToWrite(row_of(g + kRowsAhead), width);
    const int64_t i = groups.starts[g];
    vector_kernels.weighted_sum(&samples[i], &terms.scales[i],
                                groups.starts[g + 1] - i, inputs.Offset(slab),
                                width, row_of(g));
  }
}

// Rows [first, last) of the kernel's gradient, slab by slab, and within a slab
// so many neurons at a time, so that there is work for several threads where a
// slab holds all columns.
void DenseRows(const NeuronSamples& groups, const Terms& terms,
               const Slabs& inputs, const float* const* samples, int64_t first,
               int64_t last, const ParallelFor& parallel_for,
               const VectorKernels& vector_kernels, float* rows) {
  const int64_t parts = (last - first + kNeuronsAtOnce - 1) / kNeuronsAtOnce;
  const int64_t places = groups.starts[last] - groups.starts[first];
  parallel_for(
      inputs.count() * parts, (1 + places / parts) * (inputs.Width(0) / 8),
      [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
          const int64_t from = first + item % parts * kNeuronsAtOnce;
          AddSlab(groups, terms, inputs, samples, item / parts, from,
                  std::min(from + kNeuronsAtOnce, last), vector_kernels,
                  rows + (from - first) * inputs.columns());
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
  const Terms terms(ids, groups, gradient, parallel_for);
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
          const int32_t* sample = terms.samples.get();
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

bool ActiveMatmulGradInputBySample(const ActiveIds& ids, int64_t units,
                                   const float* gradient, const float* kernel,
                                   int64_t input_dim,
                                   const ParallelFor& parallel_for,
                                   const VectorKernels& vector_kernels,
                                   float* input_gradient) {
  const int64_t rows = std::min(ids.batch * ids.active, units);
  if (rows * input_dim > kCachedFloats) return false;
  const UnitChunks whole(ids, units, 31, parallel_for);
  if (!whole.found()) return false;
  parallel_for(ids.batch, ids.active * (input_dim / 8 + 16),
               [&](int64_t begin, int64_t end) {
                 std::vector<const float*> rows(ids.active);
                 for (int64_t b = begin; b < end; ++b) {
                   const int64_t first = whole.begin(b, 0);
                   const int64_t count = whole.begin(b, 1) - first;
                   for (int64_t i = 0; i < count; ++i) {
                     rows[i] = kernel + ids.ids[first + i] * input_dim;
                   }
                   vector_kernels.weighted_sum(rows.data(), gradient + first,
                                               count, 0, input_dim,
                                               input_gradient + b * input_dim);
                 }
               });
  return true;
}

void ActiveMatmulGradInput(const ActiveIds& ids, const NeuronSamples& groups,
                           const float* gradient, const float* kernel,
                           int64_t input_dim, const ParallelFor& parallel_for,
                           const VectorKernels& vector_kernels,
                           float* input_gradient) {
  const Terms terms(ids, groups, gradient, parallel_for);
  const int64_t neurons = static_cast<int64_t>(groups.neurons.size());
  const int64_t places = static_cast<int64_t>(groups.places.size());
  Slabs sums(ids.batch, input_dim);
  const auto targets = sums.Rows(terms, parallel_for);
  parallel_for(
      sums.count(), (places + ids.batch + 1) * (sums.Width(0) / 8),
      [&](int64_t begin, int64_t end) {
        for (int64_t slab = begin; slab < end; ++slab) {
          sums.Clear(slab);
          const int64_t width = sums.Width(slab);
          const float* column = kernel + sums.Begin(slab);
          for (int64_t g = 0; g < neurons; ++g) {
            if (g + kRowsAhead < neurons) {
              Prefetch(column + groups.neurons[g + kRowsAhead] * input_dim,
                       width);
            }
            const int64_t first = groups.starts[g];
            vector_kernels.add_scaled(column + groups.neurons[g] * input_dim,
                                      &terms.scales[first], &targets[first],
                                      groups.starts[g + 1] - first,
                                      sums.Offset(slab), width);
          }
          sums.Store(slab, input_gradient);
        }
      });
}

void ActiveMatmulGradBias(const NeuronSamples& groups, const float* gradient,
                          const ParallelFor& parallel_for,
                          float* bias_gradient) {
  const int64_t neurons = static_cast<int64_t>(groups.neurons.size());
  const int64_t places = static_cast<int64_t>(groups.places.size());
  parallel_for(neurons, 4 + 8 * places / std::max<int64_t>(neurons, 1),
               [&](int64_t begin, int64_t end) {
                 for (int64_t g = begin; g < end; ++g) {
                   float sum = 0.0f;
                   for (int64_t i = groups.starts[g]; i < groups.starts[g + 1];
                        ++i) {
                     sum += gradient[groups.places[i]];
                   }
                   bias_gradient[g] = sum;
                 }
               });
}

void ActiveMatmulGradKernel(const ActiveIds& ids, const NeuronSamples& groups,
                            const float* gradient, const float* inputs,
                            int64_t input_dim, const ParallelFor& parallel_for,
                            const VectorKernels& vector_kernels,
                            float* kernel_gradient) {
  const int64_t neurons = static_cast<int64_t>(groups.neurons.size());
  if (neurons == 0) return;
  const Terms terms(ids, groups, gradient, parallel_for);
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
  Slabs slabs(ids.batch, input_dim);
  slabs.Load(inputs, parallel_for);
  DenseRows(groups, terms, slabs, slabs.Rows(terms, parallel_for).get(), 0,
            neurons, parallel_for, vector_kernels, kernel_gradient);
}

void ActiveMatmulGradKernelRows(
    const ActiveIds& ids, const NeuronSamples& groups, const float* gradient,
    const float* inputs, int64_t input_dim, const ParallelFor& parallel_for,
    const VectorKernels& vector_kernels, const UseRows& use) {
  const int64_t neurons = static_cast<int64_t>(groups.neurons.size());
  if (neurons == 0) return;
  const Terms terms(ids, groups, gradient, parallel_for);
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
  Slabs slabs(ids.batch, input_dim);
  slabs.Load(inputs, parallel_for);
  const auto samples = slabs.Rows(terms, parallel_for);
  // So many neurons at a time that their rows stay in the second-level cache.
  // All samples are read for each such part.
  const int64_t at_once =
      std::max<int64_t>(1, kRowFloats / std::max<int64_t>(input_dim, 1));
  const int64_t parts = (neurons + at_once - 1) / at_once;
  if (parts * ids.batch > places / 2) {
    // To read the samples so often would take longer than rows that go through
    // the last cache.
    const int64_t block =
        std::max<int64_t>(1, kBlockFloats / std::max<int64_t>(input_dim, 1));
    const std::unique_ptr<float[]> rows(
        new float[std::min(block, neurons) * input_dim]);
    for (int64_t first = 0; first < neurons; first += block) {
      const int64_t last = std::min(first + block, neurons);
      DenseRows(groups, terms, slabs, samples.get(), first, last, parallel_for,
                vector_kernels, rows.get());
      parallel_for(last - first, input_dim, [&](int64_t begin, int64_t end) {
        use(first + begin, first + end, rows.get() + begin * input_dim);
      });
    }
    return;
  }
  parallel_for(parts, (1 + places / parts) * (input_dim / 8),
               [&](int64_t begin, int64_t end) {
                 std::vector<float> rows(at_once * input_dim);
                 for (int64_t part = begin; part < end; ++part) {
                   const int64_t first = part * at_once;
                   const int64_t last = std::min(first + at_once, neurons);
                   for (int64_t slab = 0; slab < slabs.count(); ++slab) {
                     AddSlab(groups, terms, slabs, samples.get(), slab, first,
                             last, vector_kernels, rows.data());
                   }
                   use(first, last, rows.data());
                 }
               });
}

}  // namespace keras_lsh
