// Declarations of the ops that compute and update the active neurons only:
// inputs, outputs, shapes and documentation. The kernels are in
// custom_ops/kernels.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace keras_lsh {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// The shape of input `i`, which is a tensor or the handle of a variable.
ShapeHandle TensorOrVariableShape(InferenceContext* c, int i) {
  const auto* handle = c->input_handle_shapes_and_types(i);
  if (handle != nullptr && !handle->empty()) return (*handle)[0].shape;
  return c->UnknownShape();
}

template <bool kIsResource>
absl::Status ActiveMatmulShape(InferenceContext* c) {
  ShapeHandle inputs, ids, kernel, bias;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &inputs));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &ids));
  kernel = kIsResource ? TensorOrVariableShape(c, 4) : c->input(4);
  TF_RETURN_IF_ERROR(c->WithRank(kernel, 2, &kernel));
  DimensionHandle batch, unused;
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(inputs, 0), c->Dim(ids, 0), &batch));
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(inputs, 1), c->Dim(kernel, 1), &unused));
  if (c->num_inputs() > 5) {
    bias = kIsResource ? TensorOrVariableShape(c, 5) : c->input(5);
    TF_RETURN_IF_ERROR(c->WithRank(bias, 1, &bias));
    TF_RETURN_IF_ERROR(c->Merge(c->Dim(bias, 0), c->Dim(kernel, 0), &unused));
  }
  int64_t keep;
  TF_RETURN_IF_ERROR(c->GetAttr("keep", &keep));
  const DimensionHandle active = keep > 0 ? c->MakeDim(keep) : c->Dim(ids, 1);
  c->set_output(0, c->Matrix(batch, active));
  c->set_output(1, c->Matrix(batch, active));
  return absl::OkStatus();
}

// Of `neurons`, `starts` and `places`, inputs from `first` on.
absl::Status CheckGroupShapes(InferenceContext* c, int first) {
  ShapeHandle unused;
  for (int i = first; i < first + 3; ++i) {
    TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 1, &unused));
  }
  return absl::OkStatus();
}

template <bool kIsResource>
absl::Status GradInputShape(InferenceContext* c) {
  ShapeHandle gradient, kernel;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &gradient));
  TF_RETURN_IF_ERROR(c->Merge(gradient, c->input(1), &gradient));
  TF_RETURN_IF_ERROR(CheckGroupShapes(c, 2));
  kernel = kIsResource ? TensorOrVariableShape(c, 5) : c->input(5);
  TF_RETURN_IF_ERROR(c->WithRank(kernel, 2, &kernel));
  ShapeHandle columns;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(6), 2, &columns));
  c->set_output(0, c->Matrix(c->Dim(gradient, 0), c->Dim(kernel, 1)));
  return absl::OkStatus();
}

// Of `values`, `ids`, `labels`, `drawn` and `units`, inputs from `first` on.
absl::Status CheckLogitShapes(InferenceContext* c, int first,
                              ShapeHandle* values) {
  ShapeHandle unused, labels;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first), 2, values));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first + 1), 2, &unused));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first + 2), 2, &labels));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first + 3), 2, &unused));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first + 4), 0, &unused));
  DimensionHandle batch;
  return c->Merge(c->Dim(*values, 0), c->Dim(labels, 0), &batch);
}

}  // namespace

constexpr char kActiveMatmulDoc[] = R"doc(
Inner products of each sample with the neurons that are active for it.

inputs: [batch, input_dim].
ids: [batch, active], neuron numbers in [0, units); -1 marks an unused place.
forced: [batch, any] or [0, 0], ids that are kept whatever their values; what is not
  among the sample's ids is left out.
neuron_keys: [units, any] or [0, 0], a hint: neurons of equal first key, e.g. of one
  bucket, are likely to be chosen by the same samples, and then multiplied together.
kernel: [units, input_dim], one row a neuron (or the variable that holds it, which
  is read in place).
bias: [units], or nothing.
T: the type of the kernel's elements. What is stored in bfloat16 gives, bit for bit, the
  values of the same numbers stored in float.
keep: if positive, only the `keep` largest values of each sample are returned (of
  equal ones the smaller id; NaN counts as largest).
values: [batch, active or keep], kernel[id] . inputs + bias[id]; 0 in unused places.
active_ids: [batch, active or keep], the neuron of each value.
)doc";

REGISTER_OP("LshActiveMatmul")
    .Input("inputs: float")
    .Input("ids: int32")
    .Input("forced: int32")
    .Input("neuron_keys: int32")
    .Input("kernel: T")
    .Input("bias: num_bias * float")
    .Output("values: float")
    .Output("active_ids: int32")
    .Attr("num_bias: int >= 0")
    .Attr("keep: int >= 0 = 0")
    .Attr("T: {float, bfloat16} = DT_FLOAT")
    .SetShapeFn(ActiveMatmulShape<false>)
    .Doc(kActiveMatmulDoc);

REGISTER_OP("LshResourceActiveMatmul")
    .Input("inputs: float")
    .Input("ids: int32")
    .Input("forced: int32")
    .Input("neuron_keys: int32")
    .Input("kernel: resource")
    .Input("bias: num_bias * resource")
    .Output("values: float")
    .Output("active_ids: int32")
    .Attr("num_bias: int >= 0")
    .Attr("keep: int >= 0 = 0")
    .Attr("T: {float, bfloat16} = DT_FLOAT")
    .SetIsStateful()
    .SetShapeFn(ActiveMatmulShape<true>)
    .Doc(kActiveMatmulDoc);

constexpr char kGradInputDoc[] = R"doc(
The gradient of LshActiveMatmul by its inputs.

gradient: [batch, active], by the values.
ids: [batch, active], the active_ids of the forward op.
neurons, starts, places: LshGroupByNeuron of `ids`, or [0] each: not known.
kernel: [units, input_dim], or the variable that holds it.
columns: [batch, any], in [0, input_dim), -1 for none: where the gradient is wanted; it
  is 0 elsewhere. Or [0, 0]: everywhere.
input_gradient: [batch, input_dim].
)doc";

REGISTER_OP("LshActiveMatmulGradInput")
    .Input("gradient: float")
    .Input("ids: int32")
    .Input("neurons: int32")
    .Input("starts: int32")
    .Input("places: int32")
    .Input("kernel: float")
    .Input("columns: int32")
    .Output("input_gradient: float")
    .SetShapeFn(GradInputShape<false>)
    .Doc(kGradInputDoc);

REGISTER_OP("LshResourceActiveMatmulGradInput")
    .Input("gradient: float")
    .Input("ids: int32")
    .Input("neurons: int32")
    .Input("starts: int32")
    .Input("places: int32")
    .Input("kernel: resource")
    .Input("columns: int32")
    .Output("input_gradient: float")
    .SetIsStateful()
    .SetShapeFn(GradInputShape<true>)
    .Doc(kGradInputDoc);

REGISTER_OP("LshActiveMatmulGradKernel")
    .Input("gradient: float")
    .Input("ids: int32")
    .Input("neurons: int32")
    .Input("starts: int32")
    .Input("places: int32")
    .Input("inputs: float")
    .Output("kernel_gradient: float")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle gradient, inputs;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &gradient));
      TF_RETURN_IF_ERROR(c->Merge(gradient, c->input(1), &gradient));
      TF_RETURN_IF_ERROR(CheckGroupShapes(c, 2));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(5), 2, &inputs));
      c->set_output(0, c->Matrix(c->Dim(c->input(2), 0), c->Dim(inputs, 1)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
The gradient of LshActiveMatmul by the rows of its kernel.

gradient: [batch, active], by the values.
ids: [batch, active], the active_ids of the forward op.
neurons, starts, places: LshGroupByNeuron of `ids`.
inputs: [batch, input_dim].
kernel_gradient: [num_rows, input_dim], of the rows `neurons`.
)doc");

REGISTER_OP("LshActiveMatmulGradBias")
    .Input("gradient: float")
    .Input("ids: int32")
    .Input("neurons: int32")
    .Input("starts: int32")
    .Input("places: int32")
    .Output("bias_gradient: float")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle gradient;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &gradient));
      TF_RETURN_IF_ERROR(c->Merge(gradient, c->input(1), &gradient));
      TF_RETURN_IF_ERROR(CheckGroupShapes(c, 2));
      c->set_output(0, c->Vector(c->Dim(c->input(2), 0)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
The gradient of LshActiveMatmul by the elements of its bias.

gradient: [batch, active], by the values.
ids: [batch, active], the active_ids of the forward op.
neurons, starts, places: LshGroupByNeuron of `ids`.
bias_gradient: [num_rows], of the elements `neurons`.
)doc");

REGISTER_OP("LshGroupByNeuron")
    .Input("ids: int32")
    .Input("units: int64")
    .Output("neurons: int32")
    .Output("starts: int32")
    .Output("places: int32")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &unused));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 0, &unused));
      for (int i = 0; i < 3; ++i) c->set_output(i, c->Vector(c->UnknownDim()));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Active sets turned round: where each neuron stands in them.

ids: [batch, active], in [0, units); -1 marks an unused place.
units: scalar.
neurons: [num_rows], the neurons that some sample has; unique and ascending.
starts: [num_rows + 1], where the places of each neuron begin and end.
places: sample * active + slot of each id, ascending within a neuron.
)doc");

REGISTER_OP("LshScatterActive")
    .Input("values: T")
    .Input("ids: int32")
    .Output("outputs: T")
    .Attr("units: int >= 1")
    .Attr("T: {float, bfloat16, half}")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle values;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &values));
      TF_RETURN_IF_ERROR(c->Merge(values, c->input(1), &values));
      int64_t units;
      TF_RETURN_IF_ERROR(c->GetAttr("units", &units));
      c->set_output(0, c->Matrix(c->Dim(values, 0), units));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Writes the values of the active neurons into rows of zeros.

values: [batch, active].
ids: [batch, active], in [0, units); -1 marks an unused place.
outputs: [batch, units].
)doc");

REGISTER_OP("LshGatherActive")
    .Input("inputs: T")
    .Input("ids: int32")
    .Output("values: T")
    .Attr("T: {float, bfloat16, half}")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle inputs, ids;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &inputs));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &ids));
      DimensionHandle batch;
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(inputs, 0), c->Dim(ids, 0), &batch));
      c->set_output(0, c->Matrix(batch, c->Dim(ids, 1)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Reads the values of the active neurons; the gradient of LshScatterActive.

inputs: [batch, units].
ids: [batch, active], in [0, units); -1 marks an unused place.
values: [batch, active]; 0 in unused places.
)doc");

REGISTER_OP("LshActiveSoftmaxCrossentropy")
    .Input("values: float")
    .Input("ids: int32")
    .Input("labels: int32")
    .Input("drawn: bool")
    .Input("units: int64")
    .Output("losses: float")
    .Output("largest: float")
    .Output("totals: float")
    .Attr("label_smoothing: float = 0.0")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle values;
      TF_RETURN_IF_ERROR(CheckLogitShapes(c, 0, &values));
      for (int i = 0; i < 3; ++i)
        c->set_output(i, c->Vector(c->Dim(values, 0)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
The softmax cross-entropy of each sample over its active classes.

values: [batch, active], the logits.
ids: [batch or 1, active], the class of each, strictly ascending in a row; -1 marks an
  unused place, at the end.
labels: [batch, any], the classes that share the target; -1 marks an unused place. Those
  that are not active have the least logit of their sample.
drawn: [batch or 1, active], or [0, 0] for none: the classes that stand for all that are
  neither active nor labels, unless they are labels themselves.
units: scalar, the number of all classes.
label_smoothing: the share of the target that goes to all classes.
losses: [batch]; log(units) without active classes.
largest: [batch], the largest logits.
totals: [batch], the sums of exp(logit - largest), missing labels included.
)doc");

REGISTER_OP("LshActiveSoftmaxCrossentropyGrad")
    .Input("gradient: float")
    .Input("largest: float")
    .Input("totals: float")
    .Input("values: float")
    .Input("ids: int32")
    .Input("labels: int32")
    .Input("drawn: bool")
    .Input("units: int64")
    .Output("by_values: float")
    .Attr("label_smoothing: float = 0.0")
    .Attr("softmax_only: bool = false")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle values, unused;
      TF_RETURN_IF_ERROR(CheckLogitShapes(c, 3, &values));
      for (int i = 0; i < 3; ++i) {
        TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 1, &unused));
      }
      c->set_output(0, values);
      return absl::OkStatus();
    })
    .Doc(R"doc(
The gradient of LshActiveSoftmaxCrossentropy by its values.

gradient: [batch], by the losses; the other inputs are those of the op, and its outputs.
softmax_only: the gradient times the softmax, without the target.
by_values: [batch, active]; 0 in unused places.
)doc");

REGISTER_OP("LshResourceRowSubtract")
    .Input("variable: resource")
    .Input("rows: int32")
    .Input("values: float")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &unused));
      return c->WithRankAtLeast(c->input(2), 1, &unused);
    })
    .Doc(R"doc(
Subtracts from rows of a variable, in place.

Fastest where rows ascend strictly. Unlike ResourceScatterSub, leaves the variable such
that it can be read without a copy.

variable: [total_rows, ...], float32.
rows: [num_rows], in [0, total_rows); what is given for one row several times adds up.
values: [num_rows, ...].
)doc");

REGISTER_OP("LshResourceActiveRowSubtract")
    .Input("variable: resource")
    .Input("gradient: float")
    .Input("ids: int32")
    .Input("neurons: int32")
    .Input("starts: int32")
    .Input("places: int32")
    .Input("inputs: float")
    .Input("scale: float")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle unused;
      TF_RETURN_IF_ERROR(CheckGroupShapes(c, 3));
      return c->WithRank(c->input(7), 0, &unused);
    })
    .Doc(R"doc(
LshResourceRowSubtract of `scale` times LshActiveMatmulGradKernel, which is not made.

variable: [units, input_dim], float32, the kernel.
scale: scalar.
)doc");

REGISTER_OP("LshResourceActiveRowAdam")
    .Input("variable: resource")
    .Input("momentum: resource")
    .Input("velocity: resource")
    .Input("last_step: resource")
    .Input("gradient: float")
    .Input("ids: int32")
    .Input("neurons: int32")
    .Input("starts: int32")
    .Input("places: int32")
    .Input("inputs: float")
    .Input("alpha: float")
    .Input("step: int64")
    .Input("beta_1: double")
    .Input("beta_2: double")
    .Attr("epsilon: float")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle unused;
      TF_RETURN_IF_ERROR(CheckGroupShapes(c, 6));
      for (int i = 10; i < 14; ++i) {
        TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &unused));
      }
      return absl::OkStatus();
    })
    .Doc(R"doc(
LshResourceRowAdam with LshActiveMatmulGradKernel as its gradient, which is not made.

variable: [units, input_dim], float32, the kernel; the other inputs are those of the
  two ops.
)doc");

REGISTER_OP("LshResourceRowAdam")
    .Input("variable: resource")
    .Input("momentum: resource")
    .Input("velocity: resource")
    .Input("last_step: resource")
    .Input("rows: int32")
    .Input("gradient: float")
    .Input("alpha: float")
    .Input("step: int64")
    .Input("beta_1: double")
    .Input("beta_2: double")
    .Attr("epsilon: float")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(4), 1, &unused));
      TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(5), 1, &unused));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(6), 0, &unused));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(7), 0, &unused));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(8), 0, &unused));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(9), 0, &unused));
      return absl::OkStatus();
    })
    .Doc(R"doc(
One Adam step on the rows of a variable that have a gradient, in place.

variable: [total_rows, ...], float32.
momentum: first moments, of the variable's shape.
velocity: second moments, of the variable's shape.
last_step: [total_rows], int32, the step that last changed each row.
rows: [num_rows], strictly ascending.
gradient: [num_rows, ...].
alpha: scalar, learning rate * sqrt(1 - beta_2^step) / (1 - beta_1^step).
step: scalar, the number of this step, from 1. The moments of a row that skipped n
  steps decay by beta^n first.
beta_1: scalar, decay of the first moments.
beta_2: scalar, decay of the second moments.
)doc");

}  // namespace keras_lsh
