// LshMatmul, LshCoordinates, LshRowDigests, LshHashCodes, LshBuildTables and
// LshProbeSequence.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "custom_ops/core/bucket_tables.h"
#include "custom_ops/core/hash_codes.h"
#include "custom_ops/core/probe_sequence.h"
#include "custom_ops/core/row_digests.h"
#include "custom_ops/core/vector_kernels.h"
#include "custom_ops/kernels/huge_pages.h"
#include "custom_ops/kernels/kernel_helpers.h"

namespace keras_lsh {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;

// The attributes `tables` and `bits`, checked against the width of margins.
struct CodeShape {
  int tables = 0;
  int bits = 0;

  absl::Status Read(OpKernelConstruction* context) {
    TF_RETURN_IF_ERROR(context->GetAttr("tables", &tables));
    TF_RETURN_IF_ERROR(context->GetAttr("bits", &bits));
    KLSH_REQUIRE(bits <= kMaxBits, "`bits` must be at most ", kMaxBits,
                 ". Received: bits=", bits);
    KLSH_REQUIRE(int64_t{tables} << bits <= std::numeric_limits<int32_t>::max(),
                 "`tables` * 2^`bits` must be below 2^31. Received: tables=",
                 tables, ", bits=", bits);
    return absl::OkStatus();
  }

  absl::Status Check(const Tensor& margins) const {
    TF_RETURN_IF_ERROR(RequireRank(margins, 2, "margins"));
    KLSH_REQUIRE(margins.dim_size(1) == int64_t{tables} * bits,
                 "`margins` must have tables * bits = ", int64_t{tables} * bits,
                 " columns. Received: shape=", margins.shape().DebugString());
    return absl::OkStatus();
  }
};

class MatmulOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor &a = context->input(0), &b = context->input(1);
    OP_REQUIRES_OK(context, RequireRank(a, 2, "a"));
    OP_REQUIRES_OK(context, RequireRank(b, 2, "b"));
    const int64_t inner = a.dim_size(1), columns = b.dim_size(1);
    OP_REQUIRES(
        context, b.dim_size(0) == inner,
        Invalid("`b` must have as many rows as `a` has columns. "
                "Received: shapes ",
                a.shape().DebugString(), " and ", b.shape().DebugString()));
    Tensor* product;
    OP_REQUIRES_OK(context, AllocateOutput(context, 0, {a.dim_size(0), columns},
                                           &product));
    const float* left = a.flat<float>().data();
    const float* right = b.flat<float>().data();
    float* out = product->flat<float>().data();
    WorkerThreads(context)(a.dim_size(0), inner * columns / 8 + 1,
                           [&](int64_t begin, int64_t end) {
                             GetVectorKernels().multiply(
                                 left + begin * inner, right, end - begin,
                                 inner, columns, out + begin * columns);
                           });
  }
};

class CoordinatesOp : public OpKernel {
 public:
  explicit CoordinatesOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("largest", &largest_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &vectors = context->input(0), &directions = context->input(1);
    const Tensor& addend = context->input(2);
    OP_REQUIRES_OK(context, RequireRank(vectors, 2, "vectors"));
    OP_REQUIRES_OK(context, RequireRank(directions, 2, "directions"));
    OP_REQUIRES_OK(context, RequireRank(addend, 1, "addend"));
    const int64_t rows = vectors.dim_size(0), inner = vectors.dim_size(1);
    const int64_t columns = directions.dim_size(1);
    OP_REQUIRES(context, directions.dim_size(0) == inner && columns > 0,
                Invalid("`directions` must have as many rows as `vectors` has "
                        "columns, and a column. Received: shapes ",
                        vectors.shape().DebugString(), " and ",
                        directions.shape().DebugString()));
    OP_REQUIRES(context, addend.dim_size(0) == rows || addend.dim_size(0) == 0,
                Invalid("`addend` must have an element for each of the ", rows,
                        " vectors, or none. Received: shape=",
                        addend.shape().DebugString()));
    Tensor* coordinates;
    OP_REQUIRES_OK(context,
                   AllocateOutput(context, 0, {rows, columns}, &coordinates));
    const float* vector = vectors.flat<float>().data();
    const float* direction = directions.flat<float>().data();
    const float* added =
        addend.dim_size(0) == 0 ? nullptr : addend.flat<float>().data();
    float* out = coordinates->flat<float>().data();
    HugePages::Expect(out, rows * columns * int64_t{sizeof(float)});
    WorkerThreads(context)(
        rows, inner * columns / 8 + columns, [&](int64_t begin, int64_t end) {
          // A few rows at a time: they are in the cache when they are limited.
          for (int64_t first = begin; first < end; first += kRowsAtOnce) {
            const int64_t last = std::min(first + kRowsAtOnce, end);
            GetVectorKernels().multiply(vector + first * inner, direction,
                                        last - first, inner, columns,
                                        out + first * columns);
            for (int64_t i = first; added != nullptr && i < last; ++i) {
              out[(i + 1) * columns - 1] += added[i];
            }
            for (int64_t k = first * columns; k < last * columns; ++k) {
              const float value = out[k];
              const float finite = std::isnan(value) ? 0.0f : value;
              out[k] = std::max(std::min(finite, largest_), -largest_);
            }
          }
        });
  }

 private:
  static constexpr int64_t kRowsAtOnce = 64;

  float largest_;
};

class RowDigestsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& rows = context->input(0);
    OP_REQUIRES_OK(context, RequireRank(rows, 2, "rows"));
    Tensor* digests;
    OP_REQUIRES_OK(context,
                   AllocateOutput(context, 0, {rows.dim_size(0)}, &digests));
    RowDigests(rows.flat<float>().data(), rows.dim_size(0), rows.dim_size(1),
               WorkerThreads(context), GetVectorKernels(),
               digests->flat<int32_t>().data());
  }
};

class HashCodesOp : public OpKernel {
 public:
  explicit HashCodesOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, shape_.Read(context));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& margins = context->input(0);
    OP_REQUIRES_OK(context, shape_.Check(margins));
    Tensor* codes;
    OP_REQUIRES_OK(
        context, AllocateOutput(context, 0,
                                {margins.dim_size(0), shape_.tables}, &codes));
    const float* margin = margins.flat<float>().data();
    int32_t* code = codes->flat<int32_t>().data();
    const int64_t width = int64_t{shape_.tables} * shape_.bits;
    WorkerThreads(context)(
        margins.dim_size(0), 2 * width, [&](int64_t begin, int64_t end) {
          HashCodes(margin + begin * width, end - begin, shape_.tables,
                    shape_.bits, code + begin * shape_.tables);
        });
  }

 private:
  CodeShape shape_;
};

class BuildTablesOp : public OpKernel {
 public:
  explicit BuildTablesOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("buckets", &buckets_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& codes = context->input(0);
    OP_REQUIRES_OK(context, RequireRank(codes, 2, "codes"));
    const int64_t units = codes.dim_size(0), tables = codes.dim_size(1);
    OP_REQUIRES(
        context,
        units <= std::numeric_limits<int32_t>::max() &&
            buckets_ < std::numeric_limits<int32_t>::max(),
        Invalid("units and `buckets` must be below 2^31. Received: units=",
                units, ", buckets=", buckets_));
    Tensor *offsets, *ids;
    OP_REQUIRES_OK(
        context, AllocateOutput(context, 0, {tables, buckets_ + 1}, &offsets));
    OP_REQUIRES_OK(context, AllocateOutput(context, 1, {tables, units}, &ids));
    OP_REQUIRES_OK(context, ToTensorFlow(BuildBucketTables(
                                codes.flat<int32_t>().data(), units, tables,
                                buckets_, offsets->flat<int32_t>().data(),
                                ids->flat<int32_t>().data())));
  }

 private:
  int64_t buckets_;
};

class ProbeSequenceOp : public OpKernel {
 public:
  explicit ProbeSequenceOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, shape_.Read(context));
    OP_REQUIRES_OK(context, context->GetAttr("probes", &probes_));
    OP_REQUIRES(
        context, probes_ <= int64_t{1} << shape_.bits,
        Invalid("`probes` must be at most 2^bits = ", int64_t{1} << shape_.bits,
                ". Received: probes=", probes_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& margins = context->input(0);
    OP_REQUIRES_OK(context, shape_.Check(margins));
    const int64_t batch = margins.dim_size(0);
    const int64_t count = shape_.tables * probes_;
    Tensor *buckets, *weights;
    OP_REQUIRES_OK(context,
                   AllocateOutput(context, 0, {batch, count}, &buckets));
    OP_REQUIRES_OK(context,
                   AllocateOutput(context, 1, {batch, count}, &weights));
    const float* margin = margins.flat<float>().data();
    int32_t* bucket = buckets->flat<int32_t>().data();
    int32_t* weight = weights->flat<int32_t>().data();
    WorkerThreads(
        context)(batch, 30 * count + 100, [&](int64_t begin, int64_t end) {
      ProbeSequencer sequencer(shape_.bits, shape_.tables, GetVectorKernels());
      std::vector<float> costs(count);
      for (int64_t b = begin; b < end; ++b) {
        sequencer.Run(margin + b * shape_.tables * shape_.bits, count,
                      bucket + b * count, costs.data());
        for (int64_t i = 0; i < count; ++i) {
          weight[b * count + i] = ProbeWeight(costs[i]);
        }
      }
    });
  }

 private:
  CodeShape shape_;
  int64_t probes_;
};

REGISTER_KERNEL_BUILDER(Name("LshMatmul").Device(tensorflow::DEVICE_CPU),
                        MatmulOp);
REGISTER_KERNEL_BUILDER(Name("LshCoordinates").Device(tensorflow::DEVICE_CPU),
                        CoordinatesOp);
REGISTER_KERNEL_BUILDER(Name("LshRowDigests").Device(tensorflow::DEVICE_CPU),
                        RowDigestsOp);
REGISTER_KERNEL_BUILDER(Name("LshHashCodes").Device(tensorflow::DEVICE_CPU),
                        HashCodesOp);
REGISTER_KERNEL_BUILDER(Name("LshBuildTables").Device(tensorflow::DEVICE_CPU),
                        BuildTablesOp);
REGISTER_KERNEL_BUILDER(Name("LshProbeSequence").Device(tensorflow::DEVICE_CPU),
                        ProbeSequenceOp);

}  // namespace
}  // namespace keras_lsh
