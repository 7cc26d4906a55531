// LshResourceRowSubtract and LshResourceActiveRowSubtract.
#include <cstdint>

#include "custom_ops/core/row_subtract.h"
#include "custom_ops/kernels/groups.h"
#include "custom_ops/kernels/kernel_helpers.h"
#include "custom_ops/kernels/variable_access.h"

namespace keras_lsh {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;
using ::tensorflow::Var;

class RowSubtractOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& rows = context->input(1);
    const Tensor& values = context->input(2);
    tensorflow::core::RefCountPtr<Var> variable;
    OP_REQUIRES_OK(context, LookupVariable(context, 0, "variable",
                                           tensorflow::DT_FLOAT, &variable));
    tensorflow::mutex_lock lock(*variable->mu());
    const TensorShape shape = variable->tensor()->shape();
    OP_REQUIRES_OK(context, RequireRank(rows, 1, "rows"));
    OP_REQUIRES(context, shape.dims() >= 1,
                Invalid("`variable` must have rank 1 or more. Received: shape=",
                        shape.DebugString()));
    TensorShape expected = shape;
    expected.set_dim(0, rows.dim_size(0));
    OP_REQUIRES(context, values.shape() == expected,
                Invalid("`values` must have shape ", expected.DebugString(),
                        ". Received: ", values.shape().DebugString()));
    OP_REQUIRES_OK(context, OwnBuffer(context, variable.get(), &huge_pages_));
    Tensor* tensor = variable->tensor();
    const int64_t total_rows = shape.dim_size(0);
    OP_REQUIRES_OK(
        context,
        ToTensorFlow(SubtractRows(
            rows.flat<int32_t>().data(), rows.dim_size(0),
            values.flat<float>().data(), WorkerThreads(context), total_rows,
            total_rows == 0 ? 0 : tensor->NumElements() / total_rows,
            tensor->flat<float>().data())));
  }

 private:
  HugePages huge_pages_;
};

class ActiveRowSubtractOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    tensorflow::core::RefCountPtr<Var> variable;
    OP_REQUIRES_OK(context, LookupVariable(context, 0, "variable",
                                           tensorflow::DT_FLOAT, &variable));
    tensorflow::mutex_lock lock(*variable->mu());
    const TensorShape shape = variable->tensor()->shape();
    OP_REQUIRES(context, shape.dims() == 2,
                Invalid("`variable` must have rank 2. Received: shape=",
                        shape.DebugString()));
    ActiveGradient active;
    OP_REQUIRES_OK(context, active.Read(context, 1, shape.dim_size(0)));
    const Tensor& inputs = context->input(6);
    OP_REQUIRES_OK(context, CheckInputs(inputs, active.ids));
    OP_REQUIRES(
        context, inputs.dim_size(1) == shape.dim_size(1),
        Invalid("`variable` must have rows as long as those of "
                "`inputs`, ",
                inputs.dim_size(1), ". Received: shape=", shape.DebugString()));
    OP_REQUIRES_OK(context, RequireRank(context->input(7), 0, "scale"));
    OP_REQUIRES_OK(context, OwnBuffer(context, variable.get(), &huge_pages_));
    OP_REQUIRES_OK(
        context,
        ToTensorFlow(SubtractActiveRows(
            context->input(7).scalar<float>()(), active.ids, active.groups,
            active.gradient, inputs.flat<float>().data(),
            WorkerThreads(context), GetVectorKernels(), shape.dim_size(0),
            shape.dim_size(1), variable->tensor()->flat<float>().data())));
  }

 private:
  HugePages huge_pages_;
};

REGISTER_KERNEL_BUILDER(
    Name("LshResourceRowSubtract").Device(tensorflow::DEVICE_CPU),
    RowSubtractOp);
REGISTER_KERNEL_BUILDER(
    Name("LshResourceActiveRowSubtract").Device(tensorflow::DEVICE_CPU),
    ActiveRowSubtractOp);

}  // namespace
}  // namespace keras_lsh
