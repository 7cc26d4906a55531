// Declarations of the ops that sketch neurons by signs: inputs, outputs, shapes
// and documentation. The kernels are in custom_ops/kernels.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace keras_lsh {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

}  // namespace

REGISTER_OP("LshRotate")
    .Input("vectors: float")
    .Input("signs: float")
    .Output("rotated: float")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle vectors, signs;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &vectors));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &signs));
      c->set_output(0, c->Matrix(c->Dim(vectors, 0), c->Dim(signs, 1)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Rotates vectors pseudo-randomly: H D3 H D2 H D1 x / features.

vectors: [n, dim], zeros are added at their ends.
signs: [3, features], -1 or 1, the diagonals D1, D2 and D3; features are a power of
  two, at least 16 and at least dim.
rotated: [n, features].
)doc");

REGISTER_OP("LshSignSketch")
    .Input("kernel: T")
    .Input("signs: float")
    .Output("codes: uint8")
    .Output("scales: float")
    .Attr("T: {float, bfloat16} = DT_FLOAT")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle kernel, signs;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &kernel));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &signs));
      DimensionHandle blocks, groups;
      TF_RETURN_IF_ERROR(c->Add(c->Dim(kernel, 0), 31, &blocks));
      TF_RETURN_IF_ERROR(c->Divide(blocks, 32, false, &blocks));
      TF_RETURN_IF_ERROR(c->Divide(c->Dim(signs, 1), 4, false, &groups));
      c->set_output(0, c->MakeShape({blocks, groups, c->MakeDim(16)}));
      c->set_output(1, c->Vector(c->Dim(kernel, 0)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
The signs of the weights, less the mean neuron's, after LshRotate, and scales.

kernel: [units, input_dim].
signs: [3, features], see LshRotate.
codes: [blocks, features / 4, 16]; of 32 neurons, byte i of a group has in its lower
  half the signs of 4 elements of neuron i, bit j of element j, 1 if positive, and in
  its upper half those of neuron i + 16.
scales: [units], by which the signs come nearest to the weights: the mean size of the
  rotated elements by features; 0 if less than 1e-30. NaN, and the signs 0, if
  a weight is not finite; such neurons do not count for the mean.
)doc");

REGISTER_OP("LshSelectBySketch")
    .Input("rotated: float")
    .Input("codes: uint8")
    .Input("scales: float")
    .Input("bias: float")
    .Output("ids: int32")
    .Attr("count: int >= 1")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle rotated, codes, scales, bias;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &rotated));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 3, &codes));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &scales));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(3), 1, &bias));
      int64_t count;
      TF_RETURN_IF_ERROR(c->GetAttr("count", &count));
      c->set_output(0, c->Matrix(c->Dim(rotated, 0), c->MakeDim(count)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
The neurons with the largest scores by a sketch; NaN is the largest.

rotated: [batch, 4 * groups], the inputs after LshRotate, with the neurons' signs.
codes: [blocks, groups, 16], of LshSignSketch; groups are a multiple of 4.
scales: [units].
bias: [units], or [0] for none.
count: at most units.
ids: [batch, count], ascending. Of equal scores the smaller ids are taken. The score is
  scale * (step * (signs . levels)) + bias, with the input in whole steps, rounded, ties
  to even; the step is the input's largest element by size through 31. An input
  whose largest element is below 1e-30, or that is not finite, counts as 0.
)doc");

}  // namespace keras_lsh
