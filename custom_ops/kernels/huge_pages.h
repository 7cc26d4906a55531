// Large arrays in huge pages.
#ifndef CUSTOM_OPS_KERNELS_HUGE_PAGES_H_
#define CUSTOM_OPS_KERNELS_HUGE_PAGES_H_

#include <atomic>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace keras_lsh {

// Asks the system, once for each array, to join the pages of a large one into
// huge pages. Where rows lie anywhere in hundreds of megabytes, to find each
// one's page takes longer than to read it. Use one object for an array that may
// move now and then; threads may share it.
class HugePages {
 public:
  // It is a wish: without huge pages everything is as before. Takes some .6 ms
  // a megabyte.
  void Join(const void* data, int64_t bytes) {
    if (bytes < kLeastBytes || joined_.exchange(data) == data) return;
    // What cannot be joined now may be in the background.
    Advise(data, bytes, true);
  }

  // The same for new memory that nobody has written to yet, which comes in huge
  // pages then: fewer at a time, and so in less time.
  static void Expect(const void* data, int64_t bytes) {
    if (bytes >= kLeastBytes) Advise(data, bytes, false);
  }

 private:
  static void Advise(const void* data, int64_t bytes, bool join) {
#ifdef __linux__
    const auto address = reinterpret_cast<uintptr_t>(data);
    const uintptr_t begin = (address + kPage - 1) / kPage * kPage;
    const uintptr_t end = (address + bytes) / kPage * kPage;
    if (end <= begin) return;
    const auto first = reinterpret_cast<void*>(begin);
    (void)madvise(first, end - begin, MADV_HUGEPAGE);
    if (join) (void)madvise(first, end - begin, kCollapse);
#endif
  }

  // The processor's tables hold what is to be known of smaller arrays' pages.
  static constexpr int64_t kLeastBytes = 1 << 23;
  // Of x86-64, and of 64-bit Arm as a rule.
  static constexpr uintptr_t kPage = 1 << 21;
  // MADV_COLLAPSE, since Linux 6.1; headers may be older.
  static constexpr int kCollapse = 25;

  std::atomic<const void*> joined_{nullptr};
};

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_KERNELS_HUGE_PAGES_H_
