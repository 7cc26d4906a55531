// LshActiveMatmul, for a kernel that comes as a tensor or as a variable.
#include <cstdint>

#include "custom_ops/core/active_matmul.h"
#include "custom_ops/core/keep_largest.h"
#include "custom_ops/kernels/groups.h"
#include "custom_ops/kernels/kernel_helpers.h"
#include "custom_ops/kernels/variable_access.h"

namespace keras_lsh {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;

class ActiveMatmulOp : public OpKernel {
 public:
  explicit ActiveMatmulOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("keep", &keep_));
    OP_REQUIRES_OK(context, context->GetAttr("T", &kernel_dtype_));
    int num_bias;
    OP_REQUIRES_OK(context, context->GetAttr("num_bias", &num_bias));
    OP_REQUIRES(context, num_bias <= 1,
                Invalid("`bias` must be one vector or nothing. Received: ",
                        num_bias, " of them"));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& inputs = context->input(0);
    const Tensor& ids = context->input(1);
    const Tensor& forced = context->input(2);
    const Tensor& neuron_keys = context->input(3);
    ReadInPlace kernel, bias;
    const bool use_bias = context->num_inputs() > 5;
    OP_REQUIRES_OK(context, kernel.Open(context, 4, "kernel", kernel_dtype_));
    if (use_bias) OP_REQUIRES_OK(context, bias.Open(context, 5, "bias"));
    OP_REQUIRES_OK(context,
                   Check(inputs, ids, forced, neuron_keys, kernel.tensor()));
    if (use_bias) {
      OP_REQUIRES(
          context,
          bias.tensor().shape() == TensorShape({kernel.tensor().dim_size(0)}),
          Invalid("`bias` must have an element for each of the ",
                  kernel.tensor().dim_size(0), " rows of `kernel`. ",
                  "Received: shape=", bias.tensor().shape().DebugString()));
    }

    NeuronKeys keys;
    if (neuron_keys.NumElements() > 0) {
      keys = {neuron_keys.flat<int32_t>().data(), neuron_keys.dim_size(1)};
    }
    const ActiveIds active = AsActiveIds(ids);
    const int64_t units = kernel.tensor().dim_size(0);
    const bool by_sample =
        units > 0 &&
        MultipliesBySample(active, units, inputs.dim_size(1),
                           tensorflow::DataTypeSize(kernel_dtype_));
    const ParallelFor parallel_for = WorkerThreads(context);
    NeuronSamples groups;
    OP_REQUIRES_OK(
        context,
        ToTensorFlow(by_sample ? CheckIds(active, units)
                               : GroupByNeuron(active, units, keys,
                                               parallel_for, &groups)));
    const int64_t keep = keep_ > 0 ? keep_ : active.active;
    OP_REQUIRES(
        context, keep <= active.active,
        Invalid("`keep` must be at most the number of ids of a sample, ",
                active.active, ". Received: keep=", keep));
    const TensorShape kept_shape({active.batch, keep});
    Tensor* values;
    OP_REQUIRES_OK(context, context->allocate_output(0, kept_shape, &values));
    const auto multiply = [&](const auto* rows, float* out) {
      const float *x = inputs.flat<float>().data(), *added = nullptr;
      if (use_bias) added = bias.tensor().flat<float>().data();
      if (by_sample) {
        ActiveMatmulBySample(active, units, x, inputs.dim_size(1), rows, added,
                             parallel_for, GetVectorKernels(), out);
      } else {
        ActiveMatmul(active, groups, x, inputs.dim_size(1), rows, added,
                     parallel_for, GetVectorKernels(), out);
      }
    };
    const auto compute = [&](float* out) {
      if (kernel_dtype_ == tensorflow::DT_FLOAT) {
        return multiply(kernel.tensor().flat<float>().data(), out);
      }
      multiply(static_cast<const Bfloat16*>(kernel.tensor().data()), out);
    };
    if (keep == active.active) {
      compute(values->flat<float>().data());
      context->set_output(1, ids);
      return;
    }
    Tensor all_values, *kept_ids;
    OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_FLOAT,
                                                   ids.shape(), &all_values));
    OP_REQUIRES_OK(context, context->allocate_output(1, kept_shape, &kept_ids));
    compute(all_values.flat<float>().data());
    KeepLargest(active, all_values.flat<float>().data(),
                forced.flat<int32_t>().data(),
                forced.NumElements() > 0 ? forced.dim_size(1) : 0, keep,
                parallel_for, GetVectorKernels(),
                kept_ids->flat<int32_t>().data(), values->flat<float>().data());
  }

 private:
  absl::Status Check(const Tensor& inputs, const Tensor& ids,
                     const Tensor& forced, const Tensor& neuron_keys,
                     const Tensor& kernel) {
    TF_RETURN_IF_ERROR(RequireRank(inputs, 2, "inputs"));
    TF_RETURN_IF_ERROR(RequireRank(ids, 2, "ids"));
    TF_RETURN_IF_ERROR(RequireRank(kernel, 2, "kernel"));
    KLSH_REQUIRE(inputs.dim_size(1) == kernel.dim_size(1),
                 "`inputs` must have as many columns as `kernel`, ",
                 kernel.dim_size(1),
                 ". Received: shape=", inputs.shape().DebugString());
    KLSH_REQUIRE(ids.dim_size(0) == inputs.dim_size(0),
                 "`ids` must have a row for each of the ", inputs.dim_size(0),
                 " samples. Received: shape=", ids.shape().DebugString());
    TF_RETURN_IF_ERROR(RequireRank(forced, 2, "forced"));
    KLSH_REQUIRE(
        forced.NumElements() == 0 || forced.dim_size(0) == inputs.dim_size(0),
        "`forced` must have a row for each of the ", inputs.dim_size(0),
        " samples, or be empty. Received: shape=",
        forced.shape().DebugString());
    TF_RETURN_IF_ERROR(RequireRank(neuron_keys, 2, "neuron_keys"));
    KLSH_REQUIRE(neuron_keys.NumElements() == 0 ||
                     neuron_keys.dim_size(0) == kernel.dim_size(0),
                 "`neuron_keys` must have a row for each of the ",
                 kernel.dim_size(0), " rows of `kernel`, or be empty. ",
                 "Received: shape=", neuron_keys.shape().DebugString());
    return absl::OkStatus();
  }

  int64_t keep_;
  tensorflow::DataType kernel_dtype_;
};

#define REGISTER(op, kernel) \
  REGISTER_KERNEL_BUILDER(Name(op).Device(tensorflow::DEVICE_CPU), kernel)
REGISTER("LshActiveMatmul", ActiveMatmulOp);
REGISTER("LshResourceActiveMatmul", ActiveMatmulOp);
#undef REGISTER

}  // namespace
}  // namespace keras_lsh
