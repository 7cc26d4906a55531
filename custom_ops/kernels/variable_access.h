// Reading a variable in place, whether it comes as a tensor or as a handle, and
// writing to it.
#ifndef CUSTOM_OPS_KERNELS_VARIABLE_ACCESS_H_
#define CUSTOM_OPS_KERNELS_VARIABLE_ACCESS_H_

#include <algorithm>
#include <memory>
#include <string>

#include "custom_ops/kernels/huge_pages.h"
#include "custom_ops/kernels/kernel_helpers.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"

namespace keras_lsh {

// Looks up the variable behind input `i`; an error if it has no value of type
// `dtype`.
inline absl::Status LookupVariable(
    tensorflow::OpKernelContext* context, int i, const char* name,
    tensorflow::DataType dtype,
    tensorflow::core::RefCountPtr<tensorflow::Var>* variable) {
  const absl::Status found = LookupResource(
      context, tensorflow::HandleFromInput(context, i), variable);
  KLSH_REQUIRE(found.ok(), "`", name,
               "` must be an initialised variable. Received: ",
               std::string(found.message()));
  tensorflow::tf_shared_lock lock(*(*variable)->mu());
  KLSH_REQUIRE(
      (*variable)->is_initialized && (*variable)->tensor()->dtype() == dtype,
      "`", name, "` must be an initialised variable of type ",
      tensorflow::DataTypeString(dtype), ". Received: ",
      (*variable)->is_initialized
          ? tensorflow::DataTypeString((*variable)->tensor()->dtype())
          : std::string("an uninitialised variable"));
  return absl::OkStatus();
}

// A tensor input, or the value of a variable input held under the variable's
// shared lock, its type checked: no copy is made, also where an earlier sparse
// update has put the variable into TensorFlow's copy-on-read mode.
class ReadInPlace {
 public:
  absl::Status Open(tensorflow::OpKernelContext* context, int i,
                    const char* name,
                    tensorflow::DataType dtype = tensorflow::DT_FLOAT) {
    if (context->input_dtype(i) != tensorflow::DT_RESOURCE) {
      tensor_ = &context->input(i);
      return absl::OkStatus();
    }
    TF_RETURN_IF_ERROR(LookupVariable(context, i, name, dtype, &variable_));
    lock_ = std::make_unique<tensorflow::tf_shared_lock>(*variable_->mu());
    tensor_ = variable_->tensor();
    return absl::OkStatus();
  }
  const tensorflow::Tensor& tensor() const { return *tensor_; }

 private:
  const tensorflow::Tensor* tensor_ = nullptr;
  tensorflow::core::RefCountPtr<tensorflow::Var> variable_;
  std::unique_ptr<tensorflow::tf_shared_lock> lock_;
};

// Makes the buffer of a variable, whose lock is held, ours alone: whoever still
// reads it keeps the old one. Unlike TensorFlow's own sparse updates this does
// not put the variable into copy-on-read mode, in which every later dense read
// (evaluation, saving, rebuilding the tables) copies it whole.
inline absl::Status OwnBuffer(tensorflow::OpKernelContext* context,
                              tensorflow::Var* variable,
                              HugePages* huge_pages) {
  tensorflow::Tensor* tensor = variable->tensor();
  if (!tensor->RefCountIsOne()) {
    tensorflow::Tensor copy;
    TF_RETURN_IF_ERROR(
        context->allocate_temp(tensor->dtype(), tensor->shape(), &copy));
    const auto bytes = tensor->tensor_data();
    std::copy(bytes.begin(), bytes.end(),
              const_cast<char*>(copy.tensor_data().data()));
    *tensor = copy;
  }
  const auto bytes = tensor->tensor_data();
  huge_pages->Join(bytes.data(), static_cast<int64_t>(bytes.size()));
  return absl::OkStatus();
}

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_KERNELS_VARIABLE_ACCESS_H_
