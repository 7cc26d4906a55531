#ifndef CUSTOM_OPS_CORE_SIGN_SKETCH_H_
#define CUSTOM_OPS_CORE_SIGN_SKETCH_H_

#include <cstdint>

#include "custom_ops/core/bfloat16.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/vector_kernels.h"

namespace keras_lsh {

// A pseudo-random rotation of vectors, which lengthens them:
//   x -> H D3 H D2 H D1 x / features,
// with Walsh-Hadamard matrices H in Sylvester's order and diagonal matrices D.
// The square of a vector's length grows `features` times.
struct Rotation {
  const float* signs;  // [3, features], of D1, D2 and D3: -1 or 1
  int64_t features;    // a power of two
};

// Rotates vectors, with zeros added at their ends.
//
//   vectors   [count, dim], dim <= rotation.features
//   rotated   [count, rotation.features], written
void RotateVectors(const Rotation& rotation, const float* vectors,
                   int64_t count, int64_t dim, const ParallelFor& parallel_for,
                   float* rotated);

// A sketch keeps the signs of a neuron's weights, less those of the mean
// neuron, after rotation, and the scale by which these signs come nearest to
// them. Groups of 4 signs make a nibble, sign j being bit j, 1 if positive; of
// 32 neurons, the 16 bytes of a group lie together: byte i has neuron i's
// nibble in its lower half and that of neuron i + 16 in the upper.
//
// A neuron with a weight that is not finite does not count for the mean; its
// signs are 0, its scale NaN. Scales of less than kLeastSketched are 0.
//
//   kernel   [units, input_dim], input_dim <= rotation.features
//   codes    [ceil(units / 32), rotation.features / 4, 16], written
//   scales   [units], written
template <typename T>
void SketchNeurons(const Rotation& rotation, const T* kernel, int64_t units,
                   int64_t input_dim, const ParallelFor& parallel_for,
                   uint8_t* codes, float* scales);
extern template void SketchNeurons(const Rotation&, const float*, int64_t,
                                   int64_t, const ParallelFor&, uint8_t*,
                                   float*);
extern template void SketchNeurons(const Rotation&, const Bfloat16*, int64_t,
                                   int64_t, const ParallelFor&, uint8_t*,
                                   float*);

constexpr float kLeastSketched = 1e-30f;
constexpr int kMostSketchLevel =
    31;  // four of them, and two nibbles, in a byte

// Neurons in a sketch, and inputs that were rotated as they were.
struct SketchQueries {
  const float* rotated;  // [batch, 4 * groups]
  int64_t batch;
  int64_t groups;        // a multiple of 4, less than 2^20
  const uint8_t* codes;  // [ceil(units / 32), groups, 16]
  const float* scales;   // [units]
  const float* bias;     // [units] or null: 0
  int64_t units;         // less than 2^31
};

// The `count` neurons of the largest scores, 1 <= count <= units; NaN counts as
// the largest, and of equal scores the smaller id. The score is
//   scale * (step * (signs . levels)) + bias,
// the elements of the input rounded to whole steps, levels, ties to even, with
// step = largest / 31 and the largest element by size. An input counts as 0 if
// its largest is less than kLeastSketched, or an element is not finite.
//
//   ids   [batch, count], written, ascending
void SelectBySketch(const SketchQueries& queries, int64_t count,
                    const ParallelFor& parallel_for,
                    const VectorKernels& vector_kernels, int32_t* ids);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_SIGN_SKETCH_H_
