#include "custom_ops/core/huge_pages.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace keras_lsh {
namespace {

// What is known of smaller arrays' pages fits the processor's tables of them.
constexpr int64_t kLeastBytes = 1 << 23;

constexpr uintptr_t kPage = 1 << 21;  // of x86-64, and of 64-bit Arm as a rule

}  // namespace

void HugePages::Join(const void* data, int64_t bytes) {
  if (bytes < kLeastBytes || joined_.exchange(data) == data) return;
#ifdef __linux__
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // since Linux 6.1; headers may be older
#endif
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kPage - 1) / kPage * kPage;
  const uintptr_t end = (address + bytes) / kPage * kPage;
  if (end <= begin) return;
  const auto first = reinterpret_cast<void*>(begin);
  // What cannot be joined now may be in the background.
  (void)madvise(first, end - begin, MADV_HUGEPAGE);
  (void)madvise(first, end - begin, MADV_COLLAPSE);
#endif
}

}  // namespace keras_lsh
