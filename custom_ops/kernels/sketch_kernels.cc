// LshRotate, LshSignSketch and LshSelectBySketch.
#include <cstdint>
#include <limits>

#include "custom_ops/core/sign_sketch.h"
#include "custom_ops/kernels/kernel_helpers.h"

namespace keras_lsh {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;

// Groups of a nibble that are summed up in 32 bits.
constexpr int64_t kMostFeatures = 1 << 20;

// The rotation that `signs` describe, of vectors of `dim` elements.
absl::Status AsRotation(const Tensor& signs, int64_t dim, Rotation* rotation) {
  TF_RETURN_IF_ERROR(RequireRank(signs, 2, "signs"));
  const int64_t features = signs.dim_size(1);
  KLSH_REQUIRE(signs.dim_size(0) == 3 && features >= 16 &&
                   features <= kMostFeatures && features >= dim &&
                   (features & (features - 1)) == 0,
               "`signs` must be [3, features] with a power of two from 16 to ",
               kMostFeatures, " that is not less than ", dim,
               ", the elements of a vector. Received: shape=",
               signs.shape().DebugString());
  *rotation = {signs.flat<float>().data(), features};
  return absl::OkStatus();
}

class RotateOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& vectors = context->input(0);
    Rotation rotation;
    OP_REQUIRES_OK(context, RequireRank(vectors, 2, "vectors"));
    const int64_t count = vectors.dim_size(0), dim = vectors.dim_size(1);
    OP_REQUIRES_OK(context, AsRotation(context->input(1), dim, &rotation));
    Tensor* rotated;
    OP_REQUIRES_OK(
        context,
        AllocateOutput(context, 0, {count, rotation.features}, &rotated));
    RotateVectors(rotation, vectors.flat<float>().data(), count, dim,
                  WorkerThreads(context), rotated->flat<float>().data());
  }
};

// `Stored` is how TensorFlow calls T.
template <typename Stored, typename T>
class SignSketchOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& kernel = context->input(0);
    Rotation rotation;
    OP_REQUIRES_OK(context, RequireRank(kernel, 2, "kernel"));
    const int64_t units = kernel.dim_size(0), dim = kernel.dim_size(1);
    OP_REQUIRES_OK(context, AsRotation(context->input(1), dim, &rotation));
    const int64_t blocks =
        units / kSketchBlock + (units % kSketchBlock > 0 ? 1 : 0);
    Tensor *codes, *scales;
    OP_REQUIRES_OK(
        context, AllocateOutput(context, 0, {blocks, rotation.features / 4, 16},
                                &codes));
    OP_REQUIRES_OK(context, AllocateOutput(context, 1, {units}, &scales));
    SketchNeurons(rotation,
                  reinterpret_cast<const T*>(kernel.flat<Stored>().data()),
                  units, dim, WorkerThreads(context),
                  codes->flat<uint8_t>().data(), scales->flat<float>().data());
  }
};

class SelectBySketchOp : public OpKernel {
 public:
  explicit SelectBySketchOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("count", &count_));
  }

  void Compute(OpKernelContext* context) override {
    OP_REQUIRES_OK(context, Check(context));
    const Tensor &rotated = context->input(0), &bias = context->input(3);
    const Tensor& codes = context->input(1);
    const int64_t batch = rotated.dim_size(0);
    Tensor* ids;
    OP_REQUIRES_OK(context, AllocateOutput(context, 0, {batch, count_}, &ids));
    SelectBySketch(
        {rotated.flat<float>().data(), batch, codes.dim_size(1),
         codes.flat<uint8_t>().data(), context->input(2).flat<float>().data(),
         bias.NumElements() == 0 ? nullptr : bias.flat<float>().data(),
         context->input(2).dim_size(0)},
        count_, WorkerThreads(context), GetVectorKernels(),
        ids->flat<int32_t>().data());
  }

 private:
  absl::Status Check(OpKernelContext* context) {
    const Tensor &rotated = context->input(0), &codes = context->input(1);
    const Tensor &scales = context->input(2), &bias = context->input(3);
    TF_RETURN_IF_ERROR(RequireRank(rotated, 2, "rotated"));
    TF_RETURN_IF_ERROR(RequireRank(codes, 3, "codes"));
    TF_RETURN_IF_ERROR(RequireRank(scales, 1, "scales"));
    TF_RETURN_IF_ERROR(RequireRank(bias, 1, "bias"));
    const int64_t units = scales.dim_size(0), groups = codes.dim_size(1);
    KLSH_REQUIRE(units <= std::numeric_limits<int32_t>::max(),
                 "`scales` must have less than 2^31 elements. Received: shape=",
                 scales.shape().DebugString());
    KLSH_REQUIRE(
        codes.dim_size(0) == (units + kSketchBlock - 1) / kSketchBlock &&
            groups > 0 && groups % 4 == 0 && groups <= kMostFeatures / 4 &&
            codes.dim_size(2) == 16,
        "`codes` must be [blocks, groups, 16] with a block for every 32 of ",
        units, " neurons and groups that are a multiple of 4. Received: shape=",
        codes.shape().DebugString());
    KLSH_REQUIRE(rotated.dim_size(1) == 4 * groups,
                 "`rotated` must have 4 columns for each of ", groups,
                 " groups. Received: shape=", rotated.shape().DebugString());
    KLSH_REQUIRE(
        bias.dim_size(0) == 0 || bias.dim_size(0) == units,
        "`bias` must have an element for each of ", units,
        " neurons, or none. Received: shape=", bias.shape().DebugString());
    KLSH_REQUIRE(count_ <= units, "`count` must be from 1 to ", units,
                 ", the neurons. Received: count=", count_);
    return absl::OkStatus();
  }

  int64_t count_;
};

REGISTER_KERNEL_BUILDER(Name("LshRotate").Device(tensorflow::DEVICE_CPU),
                        RotateOp);
REGISTER_KERNEL_BUILDER(Name("LshSignSketch")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint<float>("T"),
                        SignSketchOp<float, float>);
REGISTER_KERNEL_BUILDER(Name("LshSignSketch")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint<tensorflow::bfloat16>("T"),
                        SignSketchOp<tensorflow::bfloat16, Bfloat16>);
REGISTER_KERNEL_BUILDER(
    Name("LshSelectBySketch").Device(tensorflow::DEVICE_CPU), SelectBySketchOp);

}  // namespace
}  // namespace keras_lsh
