#ifndef CUSTOM_OPS_CORE_SHARED_H_
#define CUSTOM_OPS_CORE_SHARED_H_

// What several threads may use at once.

#include <mutex>
#include <utility>
#include <vector>

#include "custom_ops/core/status.h"

namespace keras_lsh {

// Keeps the first failure of several threads.
class FirstError {
 public:
  void Update(const Status& status) {
    if (status.ok()) return;
    std::lock_guard<std::mutex> lock(mutex_);
    if (status_.ok()) status_ = status;
  }
  const Status& status() const { return status_; }

 private:
  std::mutex mutex_;
  Status status_;
};

// Objects that are costly to make, lent to whoever needs one.
template <typename T>
class Pool {
 public:
  T Take() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return T();
    T object = std::move(free_.back());
    free_.pop_back();
    return object;
  }
  void Return(T object) {
    std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(object));
  }

 private:
  std::mutex mutex_;
  std::vector<T> free_;
};

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_SHARED_H_
