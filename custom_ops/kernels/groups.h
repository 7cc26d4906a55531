// The active sets of a batch and their groups, as ops hand them on.
#ifndef CUSTOM_OPS_KERNELS_GROUPS_H_
#define CUSTOM_OPS_KERNELS_GROUPS_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/neuron_samples.h"
#include "custom_ops/kernels/kernel_helpers.h"

namespace keras_lsh {

inline ActiveIds AsActiveIds(const tensorflow::Tensor& ids) {
  return {ids.flat<int32_t>().data(), ids.dim_size(0), ids.dim_size(1)};
}

// Active sets with a gradient by their values, and their groups.
struct ActiveGradient {
  // Reads and checks `gradient`, `ids`, `neurons`, `starts` and `places`, the
  // inputs from `first` on.
  absl::Status Read(tensorflow::OpKernelContext* context, int first,
                    int64_t units) {
    TF_RETURN_IF_ERROR(ReadIds(context, first));
    return ReadGroups(context, first, units);
  }

  // The first two of these.
  absl::Status ReadIds(tensorflow::OpKernelContext* context, int first) {
    const tensorflow::Tensor& of_values = context->input(first);
    const tensorflow::Tensor& of_ids = context->input(first + 1);
    TF_RETURN_IF_ERROR(RequireRank(of_ids, 2, "ids"));
    KLSH_REQUIRE(of_values.shape() == of_ids.shape(),
                 "`gradient` must have the shape of `ids`, ",
                 of_ids.shape().DebugString(),
                 ". Received: ", of_values.shape().DebugString());
    gradient = of_values.flat<float>().data();
    ids = AsActiveIds(of_ids);
    return absl::OkStatus();
  }

  // The others, or groups made here where these are empty.
  absl::Status ReadOrMakeGroups(tensorflow::OpKernelContext* context, int first,
                                int64_t units) {
    if (context->input(first + 3).NumElements() > 0 || units == 0) {
      return ReadGroups(context, first, units);
    }
    return ToTensorFlow(
        GroupByNeuron(ids, units, {}, WorkerThreads(context), &groups));
  }

  // The others.
  absl::Status ReadGroups(tensorflow::OpKernelContext* context, int first,
                          int64_t units) {
    const char* const names[] = {"neurons", "starts", "places"};
    for (int i = 0; i < 3; ++i) {
      TF_RETURN_IF_ERROR(
          RequireRank(context->input(first + 2 + i), 1, names[i]));
    }
    Copy(context->input(first + 2), &groups.neurons);
    Copy(context->input(first + 3), &groups.starts);
    Copy(context->input(first + 4), &groups.places);
    return ToTensorFlow(CheckGroups(groups, ids, units));
  }

  const float* gradient;  // [batch, active]
  ActiveIds ids;
  NeuronSamples groups;

 private:
  template <typename T>
  static void Copy(const tensorflow::Tensor& tensor, std::vector<T>* out) {
    const int32_t* values = tensor.flat<int32_t>().data();
    out->assign(values, values + tensor.NumElements());
  }
};

// No number of a neuron is larger.
constexpr int64_t kMaxUnits = int64_t{1} << 31;

inline absl::Status CheckInputs(const tensorflow::Tensor& inputs,
                                const ActiveIds& ids) {
  TF_RETURN_IF_ERROR(RequireRank(inputs, 2, "inputs"));
  KLSH_REQUIRE(inputs.dim_size(0) == ids.batch,
               "`inputs` must have a row for each of the ", ids.batch,
               " samples. Received: shape=", inputs.shape().DebugString());
  return absl::OkStatus();
}

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_KERNELS_GROUPS_H_
