// LshNearestCells, LshCellMeans, LshCellWorth, LshRankCells and
// LshObserveInputs.
#include <cstdint>
#include <limits>

#include "custom_ops/core/cells.h"
#include "custom_ops/core/kmeans.h"
#include "custom_ops/kernels/kernel_helpers.h"
#include "custom_ops/kernels/selection_inputs.h"

namespace keras_lsh {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;

class NearestCellsOp : public OpKernel {
 public:
  explicit NearestCellsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("groups", &groups_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& points = context->input(0);
    const Tensor& centroids = context->input(1);
    OP_REQUIRES_OK(context, RequireRank(points, 2, "points"));
    const Tensor& middles = context->input(2);
    const Tensor& group_of = context->input(3);
    OP_REQUIRES_OK(context, RequireRank(centroids, 3, "centroids"));
    OP_REQUIRES_OK(context, RequireRank(middles, 3, "middles"));
    OP_REQUIRES_OK(context, RequireRank(group_of, 2, "group_of"));
    OP_REQUIRES(
        context,
        centroids.dim_size(2) == points.dim_size(1) &&
            centroids.NumElements() > 0 &&
            centroids.dim_size(1) < std::numeric_limits<int32_t>::max(),
        Invalid("`centroids` [tables, cells, width] must be of the width of "
                "`points`, ",
                points.dim_size(1), ", and of less than 2^31 cells. Received: ",
                "shape=", centroids.shape().DebugString()));
    const int64_t tables = centroids.dim_size(0);
    const int64_t cells = centroids.dim_size(1);
    CellGroups groups;
    if (groups_ > 0) {
      groups = {middles.flat<float>().data(), middles.dim_size(1),
                group_of.flat<int32_t>().data(), groups_};
      OP_REQUIRES(context,
                  middles.dim_size(0) == tables &&
                      middles.dim_size(2) == points.dim_size(1),
                  Invalid("`middles` must be [tables, groups, width] with ",
                          tables, " tables and the width ", points.dim_size(1),
                          ". Received: shape=", middles.shape().DebugString()));
      OP_REQUIRES(
          context,
          group_of.dim_size(0) == tables && group_of.dim_size(1) == cells,
          Invalid("`group_of` must be [tables, cells] with ", tables,
                  " tables of ", cells,
                  " cells. Received: shape=", group_of.shape().DebugString()));
      for (int64_t i = 0; i < tables * cells; ++i) {
        const int32_t group = groups.group_of[i];
        OP_REQUIRES(context, group >= 0 && group < groups.count,
                    Invalid("`group_of` must be in [0, ", groups.count,
                            "), the groups. Received: ", group));
      }
    }
    Tensor* nearest;
    OP_REQUIRES_OK(
        context,
        AllocateOutput(context, 0, {points.dim_size(0), tables}, &nearest));
    const CellPoints cell_points = {points.flat<float>().data(),
                                    points.dim_size(0),
                                    points.dim_size(1),
                                    centroids.flat<float>().data(),
                                    tables,
                                    cells};
    NearestCells(cell_points, groups, WorkerThreads(context),
                 GetVectorKernels(), nearest->flat<int32_t>().data());
  }

 private:
  int64_t groups_;
};

class CellMeansOp : public OpKernel {
 public:
  explicit CellMeansOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("cells", &cells_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& points = context->input(0);
    const Tensor& members = context->input(1);
    OP_REQUIRES_OK(context, RequireRank(points, 2, "points"));
    OP_REQUIRES_OK(context, RequireRank(members, 2, "members"));
    OP_REQUIRES(context, members.dim_size(0) == points.dim_size(0),
                Invalid("`members` must have a row for each of the ",
                        points.dim_size(0), " points. Received: shape=",
                        members.shape().DebugString()));
    const int64_t tables = members.dim_size(1), width = points.dim_size(1);
    Tensor *means, *sizes;
    OP_REQUIRES_OK(context,
                   AllocateOutput(context, 0, {tables, cells_, width}, &means));
    OP_REQUIRES_OK(context,
                   AllocateOutput(context, 1, {tables, cells_}, &sizes));
    const CellMembers cell_members = {points.flat<float>().data(),
                                      points.dim_size(0),
                                      width,
                                      members.flat<int32_t>().data(),
                                      tables,
                                      cells_};
    OP_REQUIRES_OK(context, ToTensorFlow(CellMeans(
                                cell_members, WorkerThreads(context),
                                GetVectorKernels(), means->flat<float>().data(),
                                sizes->flat<int32_t>().data())));
  }

 private:
  int64_t cells_;
};

class CellWorthOp : public OpKernel {
 public:
  explicit CellWorthOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("largest", &largest_));
  }

  void Compute(OpKernelContext* context) override {
    CellQueries queries;
    OP_REQUIRES_OK(context, ReadCellQueries(context, largest_, &queries));
    Tensor* worth;
    OP_REQUIRES_OK(
        context,
        AllocateOutput(context, 0, {queries.batch, queries.cells}, &worth));
    CellWorth(queries, WorkerThreads(context), GetVectorKernels(),
              worth->flat<float>().data());
  }

 private:
  float largest_;
};

class RankCellsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& worth = context->input(0);
    OP_REQUIRES_OK(context, RequireRank(worth, 2, "worth"));
    OP_REQUIRES(context,
                worth.dim_size(1) <= std::numeric_limits<int32_t>::max(),
                Invalid("`worth` must have less than 2^31 columns. Received: "
                        "shape=",
                        worth.shape().DebugString()));
    Tensor *buckets, *weights;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, worth.shape(), &buckets));
    OP_REQUIRES_OK(context,
                   context->allocate_output(1, worth.shape(), &weights));
    if (worth.NumElements() == 0) return;
    RankCells(worth.flat<float>().data(), worth.dim_size(0), worth.dim_size(1),
              WorkerThreads(context), GetVectorKernels(),
              buckets->flat<int32_t>().data(), weights->flat<int32_t>().data());
  }
};

class ObserveInputsOp : public OpKernel {
 public:
  explicit ObserveInputsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("rows", &options_.rows));
    OP_REQUIRES_OK(context, context->GetAttr("largest", &options_.largest));
    OP_REQUIRES_OK(context, context->GetAttr("window", &options_.window));
  }

  void Compute(OpKernelContext* context) override {
    OP_REQUIRES_OK(context, Check(context));
    const Tensor& inputs = context->input(0);
    const Tensor& basis = context->input(2);
    Tensor *mean, *moments, *count;
    OP_REQUIRES_OK(
        context, context->allocate_output(0, context->input(3).shape(), &mean));
    OP_REQUIRES_OK(context,
                   context->allocate_output(1, basis.shape(), &moments));
    OP_REQUIRES_OK(context,
                   context->allocate_output(2, TensorShape({}), &count));
    const InputMoments old = {context->input(3).flat<float>().data(),
                              context->input(4).flat<float>().data(),
                              context->input(5).scalar<float>()()};
    ObserveInputs(options_, inputs.flat<float>().data(), inputs.dim_size(0),
                  inputs.dim_size(1), context->input(1).flat<float>().data(),
                  basis.flat<float>().data(), basis.dim_size(1), old,
                  WorkerThreads(context), GetVectorKernels(),
                  mean->flat<float>().data(), moments->flat<float>().data(),
                  count->flat<float>().data());
  }

 private:
  absl::Status Check(OpKernelContext* context) {
    const Tensor& inputs = context->input(0);
    const Tensor& basis = context->input(2);
    TF_RETURN_IF_ERROR(RequireRank(inputs, 2, "inputs"));
    TF_RETURN_IF_ERROR(RequireRank(basis, 2, "basis"));
    TF_RETURN_IF_ERROR(RequireRank(context->input(5), 0, "count"));
    const TensorShape columns({inputs.dim_size(1)});
    KLSH_REQUIRE(
        basis.dim_size(0) == inputs.dim_size(1),
        "`basis` must have a row for each of the ", inputs.dim_size(1),
        " columns of `inputs`. Received: shape=", basis.shape().DebugString());
    KLSH_REQUIRE(context->input(1).shape() == columns &&
                     context->input(3).shape() == columns,
                 "`center` and `mean` must have an element for each of the ",
                 inputs.dim_size(1), " columns of `inputs`. Received: shapes ",
                 context->input(1).shape().DebugString(), " and ",
                 context->input(3).shape().DebugString());
    KLSH_REQUIRE(context->input(4).shape() == basis.shape(),
                 "`moments` must have the shape of `basis`, ",
                 basis.shape().DebugString(),
                 ". Received: shape=", context->input(4).shape().DebugString());
    return absl::OkStatus();
  }

  ObservationOptions options_;
};

REGISTER_KERNEL_BUILDER(Name("LshNearestCells").Device(tensorflow::DEVICE_CPU),
                        NearestCellsOp);
REGISTER_KERNEL_BUILDER(Name("LshCellMeans").Device(tensorflow::DEVICE_CPU),
                        CellMeansOp);
REGISTER_KERNEL_BUILDER(Name("LshCellWorth").Device(tensorflow::DEVICE_CPU),
                        CellWorthOp);
REGISTER_KERNEL_BUILDER(Name("LshRankCells").Device(tensorflow::DEVICE_CPU),
                        RankCellsOp);
REGISTER_KERNEL_BUILDER(Name("LshObserveInputs").Device(tensorflow::DEVICE_CPU),
                        ObserveInputsOp);

}  // namespace
}  // namespace keras_lsh
