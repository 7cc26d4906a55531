// LshSelectFromCells.
#include <cstdint>

#include "custom_ops/core/cell_selection.h"
#include "custom_ops/kernels/kernel_helpers.h"
#include "custom_ops/kernels/selection_inputs.h"

namespace keras_lsh {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;

class SelectFromCellsOp : public OpKernel {
 public:
  explicit SelectFromCellsOp(OpKernelConstruction* context)
      : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("active", &active_));
    OP_REQUIRES_OK(context, context->GetAttr("largest", &largest_));
  }

  void Compute(OpKernelContext* context) override {
    CellQueries queries;
    BucketTables tables;
    OP_REQUIRES_OK(context, ReadCellQueries(context, largest_, &queries));
    OP_REQUIRES_OK(context,
                   ReadTables(context, 5, queries.batch, active_, &tables));
    OP_REQUIRES(
        context, tables.tables == 1 && tables.buckets == queries.cells,
        Invalid("`offsets` must be of one table with a bucket for each of the ",
                queries.cells, " cells. Received: shape=",
                context->input(5).shape().DebugString()));
    Tensor* ids;
    OP_REQUIRES_OK(context,
                   AllocateOutput(context, 0, {queries.batch, active_}, &ids));
    const Tensor& forced = context->input(7);
    OP_REQUIRES_OK(context,
                   ToTensorFlow(selector_.Select(
                       queries, tables, forced.flat<int32_t>().data(),
                       forced.dim_size(1), active_, WorkerThreads(context),
                       GetVectorKernels(), ids->flat<int32_t>().data())));
  }

 private:
  int64_t active_;
  float largest_;
  CellSelector selector_;
};

REGISTER_KERNEL_BUILDER(
    Name("LshSelectFromCells").Device(tensorflow::DEVICE_CPU),
    SelectFromCellsOp);

}  // namespace
}  // namespace keras_lsh
