#ifndef CUSTOM_OPS_CORE_SIMD_H_
#define CUSTOM_OPS_CORE_SIMD_H_

namespace keras_lsh {

// Instruction sets the vector kernels are compiled for. The library itself is
// baseline x86-64: a level is chosen when it is first needed.
enum class SimdLevel { kScalar = 0, kAvx2 = 1, kAvx512 = 2 };

// The widest level this processor has.
SimdLevel BestSimdLevel();

// The level in use: the environment variable KERAS_LSH_SIMD (scalar, avx2 or
// avx512) where it names a level this processor has, otherwise
// BestSimdLevel(). Read once per process.
SimdLevel ActiveSimdLevel();

// "scalar", "avx2" or "avx512".
const char* SimdLevelName(SimdLevel level);

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_SIMD_H_
