// LshResourceRowSubtract.
#include <cstdint>

#include "custom_ops/core/row_subtract.h"
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
    OP_REQUIRES_OK(context, OwnBuffer(context, variable.get()));
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
};

REGISTER_KERNEL_BUILDER(
    Name("LshResourceRowSubtract").Device(tensorflow::DEVICE_CPU),
    RowSubtractOp);

}  // namespace
}  // namespace keras_lsh
