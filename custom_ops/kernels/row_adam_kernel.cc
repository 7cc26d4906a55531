// LshResourceRowAdam.
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "custom_ops/core/row_adam.h"
#include "custom_ops/kernels/kernel_helpers.h"
#include "custom_ops/kernels/variable_access.h"

namespace keras_lsh {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;
using ::tensorflow::Var;

class RowAdamOp : public OpKernel {
 public:
  explicit RowAdamOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("epsilon", &epsilon_));
  }

  void Compute(OpKernelContext* context) override {
    constexpr std::array<const char*, 4> kNames = {"variable", "momentum",
                                                   "velocity", "last_step"};
    std::array<tensorflow::core::RefCountPtr<Var>, 4> variables;
    for (int i = 0; i < 4; ++i) {
      OP_REQUIRES_OK(context, LookupVariable(context, i, kNames[i],
                                             i == 3 ? tensorflow::DT_INT32
                                                    : tensorflow::DT_FLOAT,
                                             &variables[i]));
    }
    // Locks in order of address: two such ops cannot wait for each other.
    std::array<Var*, 4> order;
    for (int i = 0; i < 4; ++i) order[i] = variables[i].get();
    std::sort(order.begin(), order.end());
    OP_REQUIRES(
        context, std::adjacent_find(order.begin(), order.end()) == order.end(),
        Invalid("`variable`, `momentum`, `velocity` and `last_step` must "
                "be four different variables"));
    std::vector<std::unique_ptr<tensorflow::mutex_lock>> locks;
    for (Var* variable : order) {
      locks.push_back(
          std::make_unique<tensorflow::mutex_lock>(*variable->mu()));
    }
    const Tensor& rows = context->input(4);
    const Tensor& gradient = context->input(5);
    OP_REQUIRES_OK(context, Check(context, variables));
    for (Var* variable : order) {
      OP_REQUIRES_OK(context, OwnBuffer(context, variable));
    }

    const Tensor* value = variables[0]->tensor();
    const int64_t total_rows = value->dim_size(0);
    AdamRows state = {variables[0]->tensor()->flat<float>().data(),
                      variables[1]->tensor()->flat<float>().data(),
                      variables[2]->tensor()->flat<float>().data(),
                      variables[3]->tensor()->flat<int32_t>().data(),
                      total_rows,
                      total_rows == 0 ? 0 : value->NumElements() / total_rows};
    const AdamOptions options = {context->input(6).scalar<float>()(),
                                 context->input(8).scalar<double>()(),
                                 context->input(9).scalar<double>()(), epsilon_,
                                 context->input(7).scalar<int64_t>()()};
    OP_REQUIRES_OK(context,
                   ToTensorFlow(RowAdam(
                       options, rows.flat<int32_t>().data(), rows.dim_size(0),
                       gradient.flat<float>().data(), WorkerThreads(context),
                       GetVectorKernels(), &state)));
  }

 private:
  absl::Status Check(
      OpKernelContext* context,
      const std::array<tensorflow::core::RefCountPtr<Var>, 4>& variables) {
    const Tensor& rows = context->input(4);
    const Tensor& gradient = context->input(5);
    TF_RETURN_IF_ERROR(RequireRank(rows, 1, "rows"));
    TF_RETURN_IF_ERROR(RequireRank(context->input(6), 0, "alpha"));
    TF_RETURN_IF_ERROR(RequireRank(context->input(7), 0, "step"));
    TF_RETURN_IF_ERROR(RequireRank(context->input(8), 0, "beta_1"));
    TF_RETURN_IF_ERROR(RequireRank(context->input(9), 0, "beta_2"));
    const TensorShape& shape = variables[0]->tensor()->shape();
    KLSH_REQUIRE(shape.dims() >= 1, "`variable` must have rank 1 or more. ",
                 "Received: shape=", shape.DebugString());
    KLSH_REQUIRE(
        variables[1]->tensor()->shape() == shape &&
            variables[2]->tensor()->shape() == shape,
        "`momentum` and `velocity` must have the shape of `variable`, ",
        shape.DebugString(),
        ". Received: ", variables[1]->tensor()->shape().DebugString(), " and ",
        variables[2]->tensor()->shape().DebugString());
    KLSH_REQUIRE(
        variables[3]->tensor()->shape() == TensorShape({shape.dim_size(0)}),
        "`last_step` must have an element for each of the ", shape.dim_size(0),
        " rows. Received: shape=",
        variables[3]->tensor()->shape().DebugString());
    TensorShape expected = shape;
    expected.set_dim(0, rows.dim_size(0));
    KLSH_REQUIRE(gradient.shape() == expected, "`gradient` must have shape ",
                 expected.DebugString(),
                 ". Received: ", gradient.shape().DebugString());
    return absl::OkStatus();
  }

  float epsilon_;
};

REGISTER_KERNEL_BUILDER(
    Name("LshResourceRowAdam").Device(tensorflow::DEVICE_CPU), RowAdamOp);

}  // namespace
}  // namespace keras_lsh

// Read by keras_lsh.ops.simd_level() through ctypes.
extern "C" __attribute__((visibility("default"))) const char*
keras_lsh_simd_level() {
  return keras_lsh::SimdLevelName(keras_lsh::ActiveSimdLevel());
}
