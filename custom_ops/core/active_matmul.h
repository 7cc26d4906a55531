#ifndef CUSTOM_OPS_CORE_ACTIVE_MATMUL_H_
#define CUSTOM_OPS_CORE_ACTIVE_MATMUL_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/parallel.h"
#include "custom_ops/core/status.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// Which neurons each sample of a batch computes.
struct ActiveIds {
  const int32_t* ids;  // [batch, active]; kNoId marks an unused place
  int64_t batch;
  int64_t active;
};

// A hint which neurons are likely to be chosen by the same samples: those with
// equal keys, e.g. neurons of one bucket. It changes speed, not results.
struct NeuronKeys {
  const int32_t* keys =
      nullptr;  // neuron n has keys[n * stride]; null: no hint
  int64_t stride = 1;
};

// The same sets turned round: for each neuron that some sample chose, where in
// `ids` it stands. Working neuron by neuron reads a row of the kernel once for
// all its samples, and makes the gradient's rows unique.
struct NeuronSamples {
  std::vector<int32_t> neurons;  // the chosen neurons by (key, id) ascending
  std::vector<int64_t> starts;   // [neurons + 1], into `places`
  std::vector<int32_t> places;   // sample * active + slot, ascending a neuron
  // Where tiles start, [tiles + 1], into `neurons`: runs of neurons of one key,
  // of any without keys, short enough to be multiplied together.
  std::vector<int64_t> tiles;
};

// Turns active sets round. Errors if an id is out of [0, units), kNoId apart,
// or if batch * active does not fit 31 bits. The time depends on
// batch * active and only logarithmically on `units`.
Status GroupByNeuron(const ActiveIds& ids, int64_t units,
                     const NeuronKeys& keys, NeuronSamples* out);

// values[b, s] = kernel[ids[b, s]] . inputs[b] + bias[ids[b, s]], and 0 where
// there is no id.
//
//   groups   GroupByNeuron(ids); the neurons of a tile that share most of
//            their samples are multiplied together, their sums held in
//            registers
//   inputs   [batch, input_dim]
//   kernel   [units, input_dim]
//   bias     [units], or null for none
//   values   [batch, active], written
void ActiveMatmul(const ActiveIds& ids, const NeuronSamples& groups,
                  const float* inputs, int64_t input_dim, const float* kernel,
                  const float* bias, const ParallelFor& parallel_for,
                  const VectorKernels& vector_kernels, float* values);

// Keeps the `keep` largest values of each sample: NaN counts as the largest,
// unused places as the smallest, of equal values the smaller id stays. What is
// kept is written in its old order, unused places last (value 0).
//
//   values     [batch, active]
//   kept_ids, kept_values   [batch, keep], written; keep <= active
void KeepLargest(const ActiveIds& ids, const float* values, int64_t keep,
                 const ParallelFor& parallel_for, int32_t* kept_ids,
                 float* kept_values);

// The gradient by the inputs: the sum over the active neurons, in the order of
// their places, of gradient[b, s] * kernel[ids[b, s]]. Ids must have been
// checked (GroupByNeuron or CheckIds).
//
//   gradient        [batch, active], by the values
//   input_gradient  [batch, input_dim], written
void ActiveMatmulGradInput(const ActiveIds& ids, const float* gradient,
                           const float* kernel, int64_t input_dim,
                           const ParallelFor& parallel_for,
                           const VectorKernels& vector_kernels,
                           float* input_gradient);

// The gradient by the chosen rows of the kernel and by their biases: for each
// neuron the sum over its samples, in order.
//
//   kernel_gradient  [groups.neurons, input_dim], written
//   bias_gradient    [groups.neurons], written
void ActiveMatmulGradKernel(const ActiveIds& ids, const NeuronSamples& groups,
                            const float* gradient, const float* inputs,
                            int64_t input_dim, const ParallelFor& parallel_for,
                            const VectorKernels& vector_kernels,
                            float* kernel_gradient, float* bias_gradient);

// Errors if an id is out of [0, units), kNoId apart.
Status CheckIds(const ActiveIds& ids, int64_t units);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_ACTIVE_MATMUL_H_
