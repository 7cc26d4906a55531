#ifndef CUSTOM_OPS_CORE_STATUS_H_
#define CUSTOM_OPS_CORE_STATUS_H_

#include <string>
#include <utility>

namespace keras_lsh {

// The outcome of a core function: success, or a message for the user. The core
// knows nothing of TensorFlow; the kernels turn a failed Status into an
// InvalidArgument error that carries the message.
class [[nodiscard]] Status {
 public:
  Status() = default;
  static Status Invalid(std::string message) {
    Status status;
    status.message_ = std::move(message);
    status.ok_ = false;
    return status;
  }

  bool ok() const { return ok_; }
  const std::string& message() const { return message_; }

 private:
  bool ok_ = true;
  std::string message_;
};

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_STATUS_H_
