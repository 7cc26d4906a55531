// LshSelectActive.
#include <cstdint>

#include "custom_ops/core/active_set.h"
#include "custom_ops/kernels/kernel_helpers.h"
#include "custom_ops/kernels/selection_inputs.h"

namespace keras_lsh {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;

class SelectActiveOp : public OpKernel {
 public:
  explicit SelectActiveOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("active", &active_));
  }

  void Compute(OpKernelContext* context) override {
    BucketTables tables;
    OP_REQUIRES_OK(context, Read(context, &tables));
    const Tensor& buckets = context->input(0);
    const Tensor& forced = context->input(4);
    const Tensor& fill_seeds = context->input(5);
    const int64_t batch = buckets.dim_size(0);

    Tensor* ids;
    OP_REQUIRES_OK(context, AllocateOutput(context, 0, {batch, active_}, &ids));
    const int32_t* bucket = buckets.flat<int32_t>().data();
    const int32_t* weight = context->input(1).flat<int32_t>().data();
    const int32_t* force = forced.flat<int32_t>().data();
    const int32_t* seed = fill_seeds.flat<int32_t>().data();
    const bool fill = fill_seeds.dim_size(0) > 0;
    const int64_t probes = buckets.dim_size(1);
    int32_t* id = ids->flat<int32_t>().data();
    // Roughly: a probed bucket holds units / buckets neurons.
    const int64_t cost =
        probes * (30 + 4 * tables.units / tables.buckets) + 30 * active_;
    FirstError error;
    WorkerThreads(context)(batch, cost, [&](int64_t begin, int64_t end) {
      ActiveSetScratch scratch = scratch_.Take();
      ActiveSetSelector selector(tables, active_, GetVectorKernels(), &scratch);
      for (int64_t b = begin; b < end; ++b) {
        const ActiveSetQuery query = {bucket + b * probes,
                                      weight + b * probes,
                                      probes,
                                      force + b * forced.dim_size(1),
                                      forced.dim_size(1),
                                      fill,
                                      fill ? seed[b] : 0};
        const Status status = selector.Select(query, id + b * active_);
        error.Update(status);
        if (!status.ok()) break;
      }
      scratch_.Return(std::move(scratch));
    });
    OP_REQUIRES_OK(context, ToTensorFlow(error.status()));
  }

 private:
  absl::Status Read(OpKernelContext* context, BucketTables* tables) {
    const Tensor& buckets = context->input(0);
    const Tensor& weights = context->input(1);
    const Tensor& fill_seeds = context->input(5);
    TF_RETURN_IF_ERROR(RequireRank(buckets, 2, "buckets"));
    TF_RETURN_IF_ERROR(RequireRank(fill_seeds, 1, "fill_seeds"));
    KLSH_REQUIRE(weights.shape() == buckets.shape(),
                 "`weights` must have the shape of `buckets`, ",
                 buckets.shape().DebugString(),
                 ". Received: ", weights.shape().DebugString());
    KLSH_REQUIRE(fill_seeds.dim_size(0) == buckets.dim_size(0) ||
                     fill_seeds.dim_size(0) == 0,
                 "`fill_seeds` must have an element for each of the ",
                 buckets.dim_size(0), " samples, or none. Received: shape=",
                 fill_seeds.shape().DebugString());
    return ReadTables(context, 2, buckets.dim_size(0), active_, tables);
  }

  int64_t active_;
  Pool<ActiveSetScratch> scratch_;
};

REGISTER_KERNEL_BUILDER(Name("LshSelectActive").Device(tensorflow::DEVICE_CPU),
                        SelectActiveOp);

}  // namespace
}  // namespace keras_lsh
