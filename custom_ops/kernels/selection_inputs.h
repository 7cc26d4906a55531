// Inputs that ops which look for active neurons have in common.
#ifndef CUSTOM_OPS_KERNELS_SELECTION_INPUTS_H_
#define CUSTOM_OPS_KERNELS_SELECTION_INPUTS_H_

#include <cstdint>
#include <limits>

#include "custom_ops/core/bucket_tables.h"
#include "custom_ops/core/cells.h"
#include "custom_ops/kernels/kernel_helpers.h"

namespace keras_lsh {

// Reads and checks `inputs`, `center`, `basis`, `scales` and `centroids`, the
// first inputs.
inline absl::Status ReadCellQueries(tensorflow::OpKernelContext* context,
                                    float largest, CellQueries* queries) {
  const tensorflow::Tensor &inputs = context->input(0),
                           &center = context->input(1),
                           &basis = context->input(2),
                           &scales = context->input(3),
                           &centroids = context->input(4);
  TF_RETURN_IF_ERROR(RequireRank(inputs, 2, "inputs"));
  TF_RETURN_IF_ERROR(RequireRank(basis, 2, "basis"));
  TF_RETURN_IF_ERROR(RequireRank(centroids, 2, "centroids"));
  const int64_t input_dim = inputs.dim_size(1), rank = basis.dim_size(1);
  KLSH_REQUIRE(center.shape() == tensorflow::TensorShape({input_dim}) &&
                   basis.dim_size(0) == input_dim &&
                   scales.shape() == tensorflow::TensorShape({rank}),
               "`center` [input_dim], `basis` [input_dim, rank] and `scales` "
               "[rank] must belong to `inputs`, of ",
               input_dim, " columns. Received: shapes ",
               center.shape().DebugString(), ", ", basis.shape().DebugString(),
               " and ", scales.shape().DebugString());
  KLSH_REQUIRE(centroids.dim_size(1) == rank + 1,
               "`centroids` must have a column more than `basis`, ", rank + 1,
               ". Received: shape=", centroids.shape().DebugString());
  *queries = {inputs.flat<float>().data(),
              inputs.dim_size(0),
              input_dim,
              center.flat<float>().data(),
              basis.flat<float>().data(),
              scales.flat<float>().data(),
              rank,
              largest,
              centroids.flat<float>().data(),
              centroids.dim_size(0)};
  return absl::OkStatus();
}

// Reads and checks `offsets`, `table_ids` and `forced`, the inputs from `first`
// on, of which `forced` is to have `batch` rows, and `active`.
inline absl::Status ReadTables(tensorflow::OpKernelContext* context, int first,
                               int64_t batch, int64_t active,
                               BucketTables* tables) {
  const tensorflow::Tensor& offsets = context->input(first);
  const tensorflow::Tensor& table_ids = context->input(first + 1);
  const tensorflow::Tensor& forced = context->input(first + 2);
  TF_RETURN_IF_ERROR(RequireRank(offsets, 2, "offsets"));
  TF_RETURN_IF_ERROR(RequireRank(table_ids, 2, "table_ids"));
  TF_RETURN_IF_ERROR(RequireRank(forced, 2, "forced"));
  KLSH_REQUIRE(offsets.dim_size(0) == table_ids.dim_size(0) &&
                   offsets.dim_size(0) >= 1 && offsets.dim_size(1) >= 2,
               "`offsets` [tables, buckets + 1] and `table_ids` "
               "[tables, units] must belong together. Received: shapes ",
               offsets.shape().DebugString(), " and ",
               table_ids.shape().DebugString());
  KLSH_REQUIRE(offsets.dim_size(0) * (offsets.dim_size(1) - 1) <=
                   std::numeric_limits<int32_t>::max(),
               "The number of buckets must be below 2^31. Received: offsets ",
               offsets.shape().DebugString());
  KLSH_REQUIRE(forced.dim_size(0) == batch,
               "`forced` must have a row for each of the ", batch,
               " samples. Received: shape=", forced.shape().DebugString());
  KLSH_REQUIRE(active <= table_ids.dim_size(1),
               "`active` must be at most the number of units, ",
               table_ids.dim_size(1), ". Received: active=", active);
  *tables = {offsets.flat<int32_t>().data(), table_ids.flat<int32_t>().data(),
             offsets.dim_size(0), offsets.dim_size(1) - 1,
             table_ids.dim_size(1)};
  return absl::OkStatus();
}

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_KERNELS_SELECTION_INPUTS_H_
