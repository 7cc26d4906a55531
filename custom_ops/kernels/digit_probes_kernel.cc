// LshProbeDigits.
#include <cstdint>
#include <limits>
#include <vector>

#include "custom_ops/core/digit_probes.h"
#include "custom_ops/core/probe_sequence.h"
#include "custom_ops/kernels/kernel_helpers.h"

namespace keras_lsh {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;

class ProbeDigitsOp : public OpKernel {
 public:
  explicit ProbeDigitsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("probes", &probes_));
    OP_REQUIRES_OK(context, context->GetAttr("negatives", &negatives_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& scores = context->input(0);
    OP_REQUIRES_OK(context, Check(scores));
    const DigitShape shape = {static_cast<int>(scores.dim_size(1)),
                              static_cast<int>(scores.dim_size(2)),
                              static_cast<int>(scores.dim_size(3)), negatives_};
    const int64_t batch = scores.dim_size(0), count = shape.tables * probes_;
    Tensor *buckets, *weights;
    OP_REQUIRES_OK(context,
                   AllocateOutput(context, 0, {batch, count}, &buckets));
    OP_REQUIRES_OK(context,
                   AllocateOutput(context, 1, {batch, count}, &weights));
    const float* score = scores.flat<float>().data();
    int32_t* bucket = buckets->flat<int32_t>().data();
    int32_t* weight = weights->flat<int32_t>().data();
    const int64_t size = int64_t{shape.tables} * shape.functions * shape.scores;
    WorkerThreads(
        context)(batch, 30 * count + 4 * size, [&](int64_t begin, int64_t end) {
      DigitProber prober(shape, GetVectorKernels());
      std::vector<float> costs(count);
      for (int64_t b = begin; b < end; ++b) {
        prober.Run(score + b * size, count, bucket + b * count, costs.data());
        for (int64_t i = 0; i < count; ++i) {
          weight[b * count + i] = ProbeWeight(costs[i]);
        }
      }
    });
  }

 private:
  absl::Status Check(const Tensor& scores) const {
    TF_RETURN_IF_ERROR(RequireRank(scores, 4, "scores"));
    const int64_t most = std::numeric_limits<int32_t>::max();
    const int64_t tables = scores.dim_size(1), functions = scores.dim_size(2);
    const int64_t values = scores.dim_size(3) * (negatives_ ? 2 : 1);
    KLSH_REQUIRE(tables >= 1 && functions >= 1 && values >= 1,
                 "`scores` must be [batch, tables, functions, values], all but "
                 "`batch` positive. Received: shape=",
                 scores.shape().DebugString());
    int64_t codes = 1;
    for (int64_t f = 0; f < functions && values > 1 && codes <= most; ++f) {
      codes = values <= most ? codes * values : most + 1;
    }
    KLSH_REQUIRE(tables <= most && functions <= most && codes <= most &&
                     tables * codes <= most,
                 "tables * values^functions must be below 2^31. Received: "
                 "`scores` of shape=",
                 scores.shape().DebugString());
    KLSH_REQUIRE(probes_ <= codes,
                 "`probes` must be at most values^functions = ", codes,
                 ". Received: probes=", probes_);
    return absl::OkStatus();
  }

  int64_t probes_;
  bool negatives_;
};

REGISTER_KERNEL_BUILDER(Name("LshProbeDigits").Device(tensorflow::DEVICE_CPU),
                        ProbeDigitsOp);

}  // namespace
}  // namespace keras_lsh
