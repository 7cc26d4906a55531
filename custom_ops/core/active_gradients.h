#ifndef CUSTOM_OPS_CORE_ACTIVE_GRADIENTS_H_
#define CUSTOM_OPS_CORE_ACTIVE_GRADIENTS_H_

#include <cstdint>
#include <functional>

#include "custom_ops/core/neuron_samples.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// Both gradients are worked out in slabs: so many columns that the slab of all
// samples fits the first-level cache. There it is read, or added to, once for
// each active neuron, while the rows of neurons pass by. Where all samples are
// sparse (sparse_inputs.h), or few columns are wanted, these alone are visited.

// The gradient of ActiveMatmul by the inputs: for each sample the sum over its
// active neurons, ascending (of equal ids by place), of gradient[b, s] *
// kernel[ids[b, s]].
//
//   groups          GroupByNeuron(ids), without keys
//   gradient        [batch, active], by the values
//   kernel          [units, input_dim]
//   input_gradient  [batch, input_dim], written
void ActiveMatmulGradInput(const ActiveIds& ids, const NeuronSamples& groups,
                           const float* gradient, const float* kernel,
                           int64_t input_dim, const ParallelFor& parallel_for,
                           const VectorKernels& vector_kernels,
                           float* input_gradient);

// The same without groups, sample by sample; false, with nothing done, where
// the rows might not stay in the caches from one sample to the next, or the ids
// of a sample do not ascend. They are in range (CheckIds), and there is a unit
// at least.
bool ActiveMatmulGradInputBySample(const ActiveIds& ids, int64_t units,
                                   const float* gradient, const float* kernel,
                                   int64_t input_dim,
                                   const ParallelFor& parallel_for,
                                   const VectorKernels& vector_kernels,
                                   float* input_gradient);

// The same at a few columns of each sample, and 0 elsewhere.
//
//   wanted          [batch, any], columns in [0, input_dim) or kNoId
void ActiveMatmulGradInputAt(const ActiveIds& ids, const NeuronSamples& groups,
                             const float* gradient, const float* kernel,
                             int64_t input_dim, const ActiveIds& wanted,
                             const ParallelFor& parallel_for,
                             const VectorKernels& vector_kernels,
                             float* input_gradient);

// The gradient by the biases of the chosen neurons: for each the sum over its
// samples, in order.
//
//   groups         GroupByNeuron(ids)
//   gradient       [batch, active], by the values
//   bias_gradient  [groups.neurons], written
void ActiveMatmulGradBias(const NeuronSamples& groups, const float* gradient,
                          const ParallelFor& parallel_for,
                          float* bias_gradient);

// The gradient by the chosen rows of the kernel, likewise.
//
//   inputs           [batch, input_dim]
//   kernel_gradient  [groups.neurons, input_dim], written
void ActiveMatmulGradKernel(const ActiveIds& ids, const NeuronSamples& groups,
                            const float* gradient, const float* inputs,
                            int64_t input_dim, const ParallelFor& parallel_for,
                            const VectorKernels& vector_kernels,
                            float* kernel_gradient);

// Takes rows [first, last) of the kernel's gradient, `rows`
// [last - first, input_dim].
using UseRows =
    std::function<void(int64_t first, int64_t last, const float* rows)>;

// The same, but rows are handed on as they come, a few at a time and possibly
// by several threads, so that they never leave the caches.
void ActiveMatmulGradKernelRows(
    const ActiveIds& ids, const NeuronSamples& groups, const float* gradient,
    const float* inputs, int64_t input_dim, const ParallelFor& parallel_for,
    const VectorKernels& vector_kernels, const UseRows& use);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_ACTIVE_GRADIENTS_H_
