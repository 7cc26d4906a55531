// LshGroupByNeuron and the gradients of LshActiveMatmul.
#include <algorithm>
#include <cstdint>

#include "custom_ops/core/active_gradients.h"
#include "custom_ops/kernels/groups.h"
#include "custom_ops/kernels/kernel_helpers.h"
#include "custom_ops/kernels/variable_access.h"

namespace keras_lsh {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;

class GroupByNeuronOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& ids = context->input(0);
    OP_REQUIRES_OK(context, RequireRank(ids, 2, "ids"));
    OP_REQUIRES_OK(context, RequireRank(context->input(1), 0, "units"));
    const int64_t units = context->input(1).scalar<int64_t>()();
    OP_REQUIRES(context, units >= 1,
                Invalid("`units` must be positive. Received: units=", units));
    NeuronSamples groups;
    OP_REQUIRES_OK(
        context, ToTensorFlow(GroupByNeuron(AsActiveIds(ids), units, {},
                                            WorkerThreads(context), &groups)));
    OP_REQUIRES_OK(context, Output(context, 0, groups.neurons));
    OP_REQUIRES_OK(context, Output(context, 1, groups.starts));
    OP_REQUIRES_OK(context, Output(context, 2, groups.places));
  }

 private:
  template <typename T>
  static absl::Status Output(OpKernelContext* context, int i,
                             const std::vector<T>& values) {
    Tensor* output;
    TF_RETURN_IF_ERROR(AllocateOutput(
        context, i, {static_cast<int64_t>(values.size())}, &output));
    std::copy(values.begin(), values.end(), output->flat<int32_t>().data());
    return absl::OkStatus();
  }
};

class ActiveMatmulGradInputOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    ReadInPlace kernel;
    OP_REQUIRES_OK(context, kernel.Open(context, 5, "kernel"));
    OP_REQUIRES_OK(context, RequireRank(kernel.tensor(), 2, "kernel"));
    ActiveGradient active;
    OP_REQUIRES_OK(context, active.ReadIds(context, 0));
    const int64_t units = kernel.tensor().dim_size(0);
    const int64_t input_dim = kernel.tensor().dim_size(1);
    const Tensor& columns = context->input(6);
    OP_REQUIRES_OK(context, RequireRank(columns, 2, "columns"));
    const bool everywhere = columns.NumElements() == 0;
    const ActiveIds wanted = AsActiveIds(columns);
    if (!everywhere) {
      OP_REQUIRES(context, wanted.batch == active.ids.batch,
                  Invalid("`columns` must have a row for each of the ",
                          active.ids.batch, " samples, or be empty. Received: ",
                          "shape=", columns.shape().DebugString()));
      OP_REQUIRES_OK(context,
                     ToTensorFlow(CheckIds(wanted, input_dim, "columns")));
    }
    Tensor* input_gradient;
    OP_REQUIRES_OK(context,
                   AllocateOutput(context, 0, {active.ids.batch, input_dim},
                                  &input_gradient));
    const float* rows = kernel.tensor().flat<float>().data();
    float* out = input_gradient->flat<float>().data();
    if (everywhere && units > 0) {
      OP_REQUIRES_OK(context, ToTensorFlow(CheckIds(active.ids, units)));
      if (ActiveMatmulGradInputBySample(active.ids, units, active.gradient,
                                        rows, input_dim, WorkerThreads(context),
                                        GetVectorKernels(), out)) {
        return;
      }
    }
    OP_REQUIRES_OK(context, active.ReadOrMakeGroups(context, 0, units));
    if (everywhere) {
      ActiveMatmulGradInput(active.ids, active.groups, active.gradient, rows,
                            input_dim, WorkerThreads(context),
                            GetVectorKernels(), out);
    } else {
      ActiveMatmulGradInputAt(active.ids, active.groups, active.gradient, rows,
                              input_dim, wanted, WorkerThreads(context),
                              GetVectorKernels(), out);
    }
  }
};

class ActiveMatmulGradKernelOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& inputs = context->input(5);
    ActiveGradient active;
    OP_REQUIRES_OK(context, active.Read(context, 0, kMaxUnits));
    OP_REQUIRES_OK(context, CheckInputs(inputs, active.ids));
    Tensor* kernel_gradient;
    OP_REQUIRES_OK(context, AllocateOutput(context, 0,
                                           {context->input(2).dim_size(0),
                                            inputs.dim_size(1)},
                                           &kernel_gradient));
    ActiveMatmulGradKernel(active.ids, active.groups, active.gradient,
                           inputs.flat<float>().data(), inputs.dim_size(1),
                           WorkerThreads(context), GetVectorKernels(),
                           kernel_gradient->flat<float>().data());
  }
};

class ActiveMatmulGradBiasOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    ActiveGradient active;
    OP_REQUIRES_OK(context, active.Read(context, 0, kMaxUnits));
    Tensor* bias_gradient;
    OP_REQUIRES_OK(context,
                   AllocateOutput(context, 0, {context->input(2).dim_size(0)},
                                  &bias_gradient));
    ActiveMatmulGradBias(active.groups, active.gradient, WorkerThreads(context),
                         bias_gradient->flat<float>().data());
  }
};

#define REGISTER(op, kernel) \
  REGISTER_KERNEL_BUILDER(Name(op).Device(tensorflow::DEVICE_CPU), kernel)
REGISTER("LshGroupByNeuron", GroupByNeuronOp);
REGISTER("LshActiveMatmulGradInput", ActiveMatmulGradInputOp);
REGISTER("LshResourceActiveMatmulGradInput", ActiveMatmulGradInputOp);
REGISTER("LshActiveMatmulGradKernel", ActiveMatmulGradKernelOp);
REGISTER("LshActiveMatmulGradBias", ActiveMatmulGradBiasOp);
#undef REGISTER

}  // namespace
}  // namespace keras_lsh
