// LshScatterActive and LshGatherActive: between the values of the active
// neurons and dense rows.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "custom_ops/core/active_set.h"
#include "custom_ops/core/neuron_samples.h"
#include "custom_ops/kernels/kernel_helpers.h"

namespace keras_lsh {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;

template <typename T>
class ScatterActiveOp : public OpKernel {
 public:
  explicit ScatterActiveOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("units", &units_));
    OP_REQUIRES(
        context, units_ <= std::numeric_limits<int32_t>::max(),
        Invalid("`units` must be below 2^31. Received: units=", units_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& values = context->input(0);
    const Tensor& ids = context->input(1);
    OP_REQUIRES_OK(context, RequireRank(ids, 2, "ids"));
    OP_REQUIRES(context, values.shape() == ids.shape(),
                Invalid("`values` must have the shape of `ids`, ",
                        ids.shape().DebugString(),
                        ". Received: ", values.shape().DebugString()));
    const int64_t batch = ids.dim_size(0), active = ids.dim_size(1);
    const int32_t* id = ids.flat<int32_t>().data();
    OP_REQUIRES_OK(context,
                   ToTensorFlow(CheckIds({id, batch, active}, units_)));
    Tensor* outputs;
    OP_REQUIRES_OK(context,
                   AllocateOutput(context, 0, {batch, units_}, &outputs));
    const T* value = values.flat<T>().data();
    T* output = outputs->flat<T>().data();
    WorkerThreads(context)(
        batch, units_ / 8 + 2 * active, [&](int64_t begin, int64_t end) {
          std::fill(output + begin * units_, output + end * units_, T(0));
          for (int64_t b = begin; b < end; ++b) {
            for (int64_t i = b * active; i < (b + 1) * active; ++i) {
              if (id[i] != kNoId) output[b * units_ + id[i]] = value[i];
            }
          }
        });
  }

 private:
  int64_t units_;
};

template <typename T>
class GatherActiveOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& inputs = context->input(0);
    const Tensor& ids = context->input(1);
    OP_REQUIRES_OK(context, RequireRank(inputs, 2, "inputs"));
    OP_REQUIRES_OK(context, RequireRank(ids, 2, "ids"));
    OP_REQUIRES(
        context, inputs.dim_size(0) == ids.dim_size(0),
        Invalid("`ids` must have a row for each of the ", inputs.dim_size(0),
                " samples. Received: shape=", ids.shape().DebugString()));
    const int64_t batch = ids.dim_size(0), active = ids.dim_size(1);
    const int64_t units = inputs.dim_size(1);
    const int32_t* id = ids.flat<int32_t>().data();
    OP_REQUIRES_OK(context, ToTensorFlow(CheckIds({id, batch, active}, units)));
    Tensor* values;
    OP_REQUIRES_OK(context, context->allocate_output(0, ids.shape(), &values));
    const T* input = inputs.flat<T>().data();
    T* value = values->flat<T>().data();
    WorkerThreads(context)(batch, 2 * active, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        for (int64_t i = b * active; i < (b + 1) * active; ++i) {
          value[i] = id[i] == kNoId ? T(0) : input[b * units + id[i]];
        }
      }
    });
  }
};

#define REGISTER(T)                                           \
  REGISTER_KERNEL_BUILDER(Name("LshScatterActive")            \
                              .Device(tensorflow::DEVICE_CPU) \
                              .TypeConstraint<T>("T"),        \
                          ScatterActiveOp<T>);                \
  REGISTER_KERNEL_BUILDER(Name("LshGatherActive")             \
                              .Device(tensorflow::DEVICE_CPU) \
                              .TypeConstraint<T>("T"),        \
                          GatherActiveOp<T>)
REGISTER(float);
REGISTER(tensorflow::bfloat16);
REGISTER(Eigen::half);
#undef REGISTER

}  // namespace
}  // namespace keras_lsh
