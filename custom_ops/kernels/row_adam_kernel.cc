// LshResourceRowAdam and LshResourceActiveRowAdam.
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "custom_ops/core/row_adam.h"
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
using ::tensorflow::Var;

// A variable and its slots, locked, for the time of an op.
class LockedRows {
 public:
  // Inputs 0 to 3; those from `first_scalar` on are alpha, step and the betas.
  absl::Status Open(OpKernelContext* context, int first_scalar, float epsilon) {
    constexpr std::array<const char*, 4> kNames = {"variable", "momentum",
                                                   "velocity", "last_step"};
    for (int i = 0; i < 4; ++i) {
      TF_RETURN_IF_ERROR(
          LookupVariable(context, i, kNames[i],
                         i == 3 ? tensorflow::DT_INT32 : tensorflow::DT_FLOAT,
                         &variables_[i]));
    }
    // Locks in order of address: two such ops cannot wait for each other.
    std::array<Var*, 4> order;
    for (int i = 0; i < 4; ++i) order[i] = variables_[i].get();
    std::sort(order.begin(), order.end());
    KLSH_REQUIRE(std::adjacent_find(order.begin(), order.end()) == order.end(),
                 "`variable`, `momentum`, `velocity` and `last_step` must be ",
                 "four different variables");
    for (Var* variable : order) {
      locks_.push_back(
          std::make_unique<tensorflow::mutex_lock>(*variable->mu()));
    }
    constexpr std::array<const char*, 4> kScalars = {"alpha", "step", "beta_1",
                                                     "beta_2"};
    for (int i = 0; i < 4; ++i) {
      TF_RETURN_IF_ERROR(
          RequireRank(context->input(first_scalar + i), 0, kScalars[i]));
    }
    options_ = {context->input(first_scalar).scalar<float>()(),
                context->input(first_scalar + 2).scalar<double>()(),
                context->input(first_scalar + 3).scalar<double>()(), epsilon,
                context->input(first_scalar + 1).scalar<int64_t>()()};
    return CheckShapes();
  }

  const TensorShape& shape() const { return variables_[0]->tensor()->shape(); }
  const AdamOptions& options() const { return options_; }

  // The rows, to be changed.
  absl::Status Own(OpKernelContext* context,
                   std::array<HugePages, 4>* huge_pages, AdamRows* rows) {
    for (int i = 0; i < 4; ++i) {
      TF_RETURN_IF_ERROR(
          OwnBuffer(context, variables_[i].get(), &(*huge_pages)[i]));
    }
    const Tensor* value = variables_[0]->tensor();
    const int64_t total_rows = value->dim_size(0);
    *rows = {variables_[0]->tensor()->flat<float>().data(),
             variables_[1]->tensor()->flat<float>().data(),
             variables_[2]->tensor()->flat<float>().data(),
             variables_[3]->tensor()->flat<int32_t>().data(),
             total_rows,
             total_rows == 0 ? 0 : value->NumElements() / total_rows};
    return absl::OkStatus();
  }

 private:
  absl::Status CheckShapes() const {
    KLSH_REQUIRE(shape().dims() >= 1, "`variable` must have rank 1 or more. ",
                 "Received: shape=", shape().DebugString());
    KLSH_REQUIRE(
        variables_[1]->tensor()->shape() == shape() &&
            variables_[2]->tensor()->shape() == shape(),
        "`momentum` and `velocity` must have the shape of `variable`, ",
        shape().DebugString(),
        ". Received: ", variables_[1]->tensor()->shape().DebugString(), " and ",
        variables_[2]->tensor()->shape().DebugString());
    KLSH_REQUIRE(
        variables_[3]->tensor()->shape() == TensorShape({shape().dim_size(0)}),
        "`last_step` must have an element for each of the ",
        shape().dim_size(0), " rows. Received: shape=",
        variables_[3]->tensor()->shape().DebugString());
    return absl::OkStatus();
  }

  // In this order: the locks go before what they lock.
  std::array<tensorflow::core::RefCountPtr<Var>, 4> variables_;
  std::vector<std::unique_ptr<tensorflow::mutex_lock>> locks_;
  AdamOptions options_;
};

class RowAdamOp : public OpKernel {
 public:
  explicit RowAdamOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("epsilon", &epsilon_));
  }

  void Compute(OpKernelContext* context) override {
    LockedRows locked;
    OP_REQUIRES_OK(context, locked.Open(context, 6, epsilon_));
    const Tensor& rows = context->input(4);
    const Tensor& gradient = context->input(5);
    OP_REQUIRES_OK(context, RequireRank(rows, 1, "rows"));
    TensorShape expected = locked.shape();
    expected.set_dim(0, rows.dim_size(0));
    OP_REQUIRES(context, gradient.shape() == expected,
                Invalid("`gradient` must have shape ", expected.DebugString(),
                        ". Received: ", gradient.shape().DebugString()));
    AdamRows state;
    OP_REQUIRES_OK(context, locked.Own(context, &huge_pages_, &state));
    OP_REQUIRES_OK(context,
                   ToTensorFlow(RowAdam(
                       locked.options(), rows.flat<int32_t>().data(),
                       rows.dim_size(0), gradient.flat<float>().data(),
                       WorkerThreads(context), GetVectorKernels(), &state)));
  }

 private:
  float epsilon_;
  std::array<HugePages, 4> huge_pages_;
};

class ActiveRowAdamOp : public OpKernel {
 public:
  explicit ActiveRowAdamOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("epsilon", &epsilon_));
  }

  void Compute(OpKernelContext* context) override {
    LockedRows locked;
    OP_REQUIRES_OK(context, locked.Open(context, 10, epsilon_));
    ActiveGradient active;
    OP_REQUIRES_OK(context,
                   active.Read(context, 4, locked.shape().dim_size(0)));
    const Tensor& inputs = context->input(9);
    OP_REQUIRES_OK(context, CheckInputs(inputs, active.ids));
    OP_REQUIRES(context,
                locked.shape() == TensorShape({locked.shape().dim_size(0),
                                               inputs.dim_size(1)}),
                Invalid("`variable` must have rows as long as those of "
                        "`inputs`, ",
                        inputs.dim_size(1),
                        ". Received: shape=", locked.shape().DebugString()));
    AdamRows state;
    OP_REQUIRES_OK(context, locked.Own(context, &huge_pages_, &state));
    OP_REQUIRES_OK(context,
                   ToTensorFlow(ActiveRowAdam(
                       locked.options(), active.ids, active.groups,
                       active.gradient, inputs.flat<float>().data(),
                       WorkerThreads(context), GetVectorKernels(), &state)));
  }

 private:
  float epsilon_;
  std::array<HugePages, 4> huge_pages_;
};

REGISTER_KERNEL_BUILDER(
    Name("LshResourceRowAdam").Device(tensorflow::DEVICE_CPU), RowAdamOp);
REGISTER_KERNEL_BUILDER(
    Name("LshResourceActiveRowAdam").Device(tensorflow::DEVICE_CPU),
    ActiveRowAdamOp);

}  // namespace
}  // namespace keras_lsh

// Read by keras_lsh.ops.simd_level() through ctypes.
extern "C" __attribute__((visibility("default"))) const char*
keras_lsh_simd_level() {
  return keras_lsh::SimdLevelName(keras_lsh::ActiveSimdLevel());
}
