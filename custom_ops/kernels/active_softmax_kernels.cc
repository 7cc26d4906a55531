// LshActiveSoftmaxCrossentropy and its gradient.
#include <cstdint>
#include <limits>

#include "custom_ops/core/active_softmax.h"
#include "custom_ops/kernels/kernel_helpers.h"

namespace keras_lsh {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;

// `name` must be [batch or 1, active].
absl::Status RequireRows(const Tensor& tensor, const char* name, int64_t batch,
                         int64_t active) {
  TF_RETURN_IF_ERROR(RequireRank(tensor, 2, name));
  KLSH_REQUIRE(
      (tensor.dim_size(0) == batch || tensor.dim_size(0) == 1) &&
          tensor.dim_size(1) == active,
      "`", name, "` must have ", active, " columns, as `values`, and ", batch,
      " rows, or one for all. Received: shape=", tensor.shape().DebugString());
  return absl::OkStatus();
}

// Inputs `first` to first + 4: values, ids, labels, drawn and units.
absl::Status ReadLogits(OpKernelContext* context, int first,
                        float label_smoothing, ActiveLogits* logits) {
  const Tensor& values = context->input(first);
  const Tensor& ids = context->input(first + 1);
  const Tensor& labels = context->input(first + 2);
  const Tensor& drawn = context->input(first + 3);
  const Tensor& units = context->input(first + 4);
  TF_RETURN_IF_ERROR(RequireRank(values, 2, "values"));
  const int64_t batch = values.dim_size(0), active = values.dim_size(1);
  TF_RETURN_IF_ERROR(RequireRows(ids, "ids", batch, active));
  TF_RETURN_IF_ERROR(RequireRank(labels, 2, "labels"));
  KLSH_REQUIRE(labels.dim_size(0) == batch,
               "`labels` must have a row for each of the ", batch,
               " samples. Received: shape=", labels.shape().DebugString());
  TF_RETURN_IF_ERROR(RequireRank(drawn, 2, "drawn"));
  const bool draws = drawn.dim_size(0) > 0 || drawn.dim_size(1) > 0;
  if (draws) {
    TF_RETURN_IF_ERROR(RequireRows(drawn, "drawn", batch, active));
  }
  TF_RETURN_IF_ERROR(RequireRank(units, 0, "units"));
  const int64_t number = units.scalar<int64_t>()();
  KLSH_REQUIRE(
      number >= 1 && number <= std::numeric_limits<int32_t>::max(),
      "`units` must be positive and below 2^31. Received: units=", number);
  *logits = {values.flat<float>().data(),
             ids.flat<int32_t>().data(),
             ids.dim_size(0) != batch,
             labels.flat<int32_t>().data(),
             draws ? drawn.flat<bool>().data() : nullptr,
             drawn.dim_size(0) != batch,
             batch,
             active,
             labels.dim_size(1),
             number,
             label_smoothing};
  return absl::OkStatus();
}

class ActiveSoftmaxCrossentropyOp : public OpKernel {
 public:
  explicit ActiveSoftmaxCrossentropyOp(OpKernelConstruction* context)
      : OpKernel(context) {
    OP_REQUIRES_OK(context,
                   context->GetAttr("label_smoothing", &label_smoothing_));
  }

  void Compute(OpKernelContext* context) override {
    ActiveLogits logits;
    OP_REQUIRES_OK(context, ReadLogits(context, 0, label_smoothing_, &logits));
    Tensor* outputs[3];  // losses, largest, totals
    for (int i = 0; i < 3; ++i) {
      OP_REQUIRES_OK(context,
                     AllocateOutput(context, i, {logits.batch}, &outputs[i]));
    }
    const Status status = ActiveSoftmaxCrossentropy(
        logits, WorkerThreads(context), GetVectorKernels(),
        outputs[0]->flat<float>().data(), outputs[1]->flat<float>().data(),
        outputs[2]->flat<float>().data());
    OP_REQUIRES_OK(context, ToTensorFlow(status));
  }

 private:
  float label_smoothing_;
};

class ActiveSoftmaxCrossentropyGradOp : public OpKernel {
 public:
  explicit ActiveSoftmaxCrossentropyGradOp(OpKernelConstruction* context)
      : OpKernel(context) {
    OP_REQUIRES_OK(context,
                   context->GetAttr("label_smoothing", &label_smoothing_));
    OP_REQUIRES_OK(context, context->GetAttr("softmax_only", &softmax_only_));
  }

  void Compute(OpKernelContext* context) override {
    ActiveLogits logits;
    OP_REQUIRES_OK(context, ReadLogits(context, 3, label_smoothing_, &logits));
    const float* by_sample[3];  // gradient, largest, totals
    for (int i = 0; i < 3; ++i) {
      const Tensor& input = context->input(i);
      OP_REQUIRES(
          context, input.dims() == 1 && input.dim_size(0) == logits.batch,
          Invalid("`gradient`, `largest` and `totals` must have an "
                  "element for each of the ",
                  logits.batch,
                  " samples. Received: shape=", input.shape().DebugString()));
      by_sample[i] = input.flat<float>().data();
    }
    Tensor* by_values;
    OP_REQUIRES_OK(
        context,
        AllocateOutput(context, 0, {logits.batch, logits.active}, &by_values));
    ActiveSoftmaxCrossentropyGrad(logits, by_sample[0], by_sample[1],
                                  by_sample[2], softmax_only_,
                                  WorkerThreads(context), GetVectorKernels(),
                                  by_values->flat<float>().data());
  }

 private:
  float label_smoothing_;
  bool softmax_only_;
};

REGISTER_KERNEL_BUILDER(
    Name("LshActiveSoftmaxCrossentropy").Device(tensorflow::DEVICE_CPU),
    ActiveSoftmaxCrossentropyOp);
REGISTER_KERNEL_BUILDER(
    Name("LshActiveSoftmaxCrossentropyGrad").Device(tensorflow::DEVICE_CPU),
    ActiveSoftmaxCrossentropyGradOp);

}  // namespace
}  // namespace keras_lsh
