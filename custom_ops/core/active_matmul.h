#ifndef CUSTOM_OPS_CORE_ACTIVE_MATMUL_H_
#define CUSTOM_OPS_CORE_ACTIVE_MATMUL_H_

#include <cstdint>

#include "custom_ops/core/neuron_samples.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// values[b, s] = kernel[ids[b, s]] . inputs[b] + bias[ids[b, s]], and 0 where
// there is no id.
//
//   groups   GroupByNeuron(ids); the neurons of a tile that share most of
//            their samples are multiplied together, their sums held in
//            registers
//   inputs   [batch, input_dim]
//   kernel   [units, input_dim], of `T`: float, or Bfloat16, which gives what
//            the same values as floats give, bit for bit
//   bias     [units], or null for none
//   values   [batch, active], written
template <typename T>
void ActiveMatmul(const ActiveIds& ids, const NeuronSamples& groups,
                  const float* inputs, int64_t input_dim, const T* kernel,
                  const float* bias, const ParallelFor& parallel_for,
                  const VectorKernels& vector_kernels, float* values);

// The same, without groups: each sample reads the rows of its neurons, of many
// samples chunk by chunk of the units (unit_chunks.h). The ids are in range
// (CheckIds), and there is a unit at least.
template <typename T>
void ActiveMatmulBySample(const ActiveIds& ids, int64_t units,
                          const float* inputs, int64_t input_dim,
                          const T* kernel, const float* bias,
                          const ParallelFor& parallel_for,
                          const VectorKernels& vector_kernels, float* values);

// Whether that is faster, the kernel's elements being of `element_bytes`.
bool MultipliesBySample(const ActiveIds& ids, int64_t units, int64_t input_dim,
                        int64_t element_bytes);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_ACTIVE_MATMUL_H_
