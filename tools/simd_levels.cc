// Prints the SIMD levels that this machine can run, one to a line.
#include <cstdio>

#include "custom_ops/core/simd.h"

int main() {
  for (int level = 0; level <= static_cast<int>(keras_lsh::BestSimdLevel());
       ++level) {
    std::puts(SimdLevelName(static_cast<keras_lsh::SimdLevel>(level)));
  }
  return 0;
}
