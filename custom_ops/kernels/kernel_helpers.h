// What every kernel needs: TensorFlow's thread pool and error type for the
// core.
#ifndef CUSTOM_OPS_KERNELS_KERNEL_HELPERS_H_
#define CUSTOM_OPS_KERNELS_KERNEL_HELPERS_H_

#include <functional>
#include <initializer_list>
#include <sstream>
#include <utility>

#include "custom_ops/core/parallel.h"
#include "custom_ops/core/shared.h"
#include "custom_ops/core/status.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/platform/denormal.h"

namespace keras_lsh {

// An InvalidArgument error whose message is the parts, one after the other.
template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  return absl::InvalidArgumentError(message.str());
}

inline absl::Status ToTensorFlow(const Status& status) {
  return status.ok() ? absl::OkStatus() : Invalid(status.message());
}

// The device's own worker threads, and the calling one, as the core wants them.
// TensorFlow's threads flush subnormal numbers to zero, a calling Python thread
// does not: do it in both, so that results do not depend on which thread
// computes what.
inline ParallelFor WorkerThreads(tensorflow::OpKernelContext* context) {
  const auto* workers = context->device()->tensorflow_cpu_worker_threads();
  const ParallelFor shared = SharedWork(
      workers->num_threads, [pool = workers->workers](std::function<void()> f) {
        pool->Schedule(std::move(f));
      });
  return [shared](int64_t total, int64_t cost_per_item, const RangeFn& fn) {
    shared(total, cost_per_item, [&fn](int64_t begin, int64_t end) {
      tensorflow::port::ScopedFlushDenormal flush;
      fn(begin, end);
    });
  };
}

// Fails the op unless the condition holds; `...` is the message. For use in
// functions that return absl::Status.
#define KLSH_REQUIRE(condition, ...)               \
  do {                                             \
    if (!(condition)) return Invalid(__VA_ARGS__); \
  } while (false)

inline absl::Status RequireRank(const tensorflow::Tensor& tensor, int rank,
                                const char* name) {
  KLSH_REQUIRE(tensor.dims() == rank, "`", name, "` must have rank ", rank,
               ". Received: shape=", tensor.shape().DebugString());
  return absl::OkStatus();
}

// Allocates an output; an error, not the end of the process, if a tensor cannot
// have so many elements.
inline absl::Status AllocateOutput(tensorflow::OpKernelContext* context, int i,
                                   std::initializer_list<int64_t> dimensions,
                                   tensorflow::Tensor** output) {
  tensorflow::TensorShape shape;
  TF_RETURN_IF_ERROR(
      tensorflow::TensorShape::BuildTensorShape(dimensions, &shape));
  return context->allocate_output(i, shape, output);
}

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_KERNELS_KERNEL_HELPERS_H_
