#ifndef CUSTOM_OPS_CORE_HUGE_PAGES_H_
#define CUSTOM_OPS_CORE_HUGE_PAGES_H_

#include <atomic>
#include <cstdint>

namespace keras_lsh {

// Asks the system, once for each array, to join the pages of a large one into
// huge pages. Where rows lie anywhere in hundreds of megabytes, to find each
// one's page takes longer than to read it. Use one object for an array that may
// move now and then; threads may share it.
class HugePages {
 public:
  // It is a wish: without huge pages everything is as before. Takes some .6 ms
  // a megabyte.
  void Join(const void* data, int64_t bytes);

 private:
  std::atomic<const void*> joined_{nullptr};
};

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_HUGE_PAGES_H_
