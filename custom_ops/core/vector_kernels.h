#ifndef CUSTOM_OPS_CORE_VECTOR_KERNELS_H_
#define CUSTOM_OPS_CORE_VECTOR_KERNELS_H_

#include <cstdint>
#include <type_traits>

#include "custom_ops/core/bfloat16.h"
#include "custom_ops/core/simd.h"

namespace keras_lsh {

// Factors of one Adam step for one row of a variable.
struct AdamRowStep {
  float momentum_decay;  // beta_1 ^ skipped steps
  float velocity_decay;  // beta_2 ^ skipped steps
  float one_minus_beta_1;
  float one_minus_beta_2;
  float alpha;  // learning rate with its bias correction
  float epsilon;
};

// Products of inputs with rows of a kernel that is stored as `T`, float or
// Bfloat16: the sums are those of the rows widened to float.
template <typename T>
struct RowProducts {
  // out[i] = row . vectors[i] for i in [0, count); all of length n.
  void (*dots)(const T* row, const float* const* vectors, int64_t count,
               int64_t n, float* out);

  // out[i] = rows[i] . vector for i in [0, count); all of length n: the same
  // sums as `dots`.
  void (*row_dots)(const float* vector, const T* const* rows, int64_t count,
                   int64_t n, float* out);

  // out[i] = rows[i] . vectors[i] for i in [0, count); all of length n: the
  // same sums as `dots`. For rows that lie far apart in memory: they are asked
  // for before they are needed and, with `once`, go past the caches.
  void (*pair_dots)(const T* const* rows, const float* const* vectors,
                    int64_t count, int64_t n, bool once, float* out);

  // out[r * count + i] = rows[r] . vectors[i] for r in [0, num_rows), with
  // num_rows <= kMaxTileRows, and i in [0, count): the same sums as `dots`,
  // several at a time.
  void (*dot_tile)(const T* const* rows, int64_t num_rows,
                   const float* const* vectors, int64_t count, int64_t n,
                   float* out);

  // out[r] = rows[r] . v for r in [0, num_rows), of a vector v that is 0 but
  // for the elements values[k] at columns[k], k in [0, count). These are summed
  // over 4 lanes (the k-th goes to lane k mod 4) with fused multiply-add, and
  // the lanes added as a tree. `next`: with one row, another that comes next
  // and is asked for; or null.
  void (*sparse_dots)(const T* const* rows, int64_t num_rows, const T* next,
                      const int32_t* columns, const float* values,
                      int64_t count, float* out);
};

// Neurons as sign_sketch.h packs them, and how a query scores them: neuron n by
//   scales[n] * (step * (2 * s - base)) + bias[n],
// in floats and this order, with s the sum over the groups g of
// tables[16 * g + its nibble in g].
struct SketchScan {
  const uint8_t* codes;  // [ceil(units / kSketchBlock), groups, 16]
  const float* scales;   // [units]
  const float* bias;     // [units] or null: 0
  int64_t units;
  int64_t groups;         // a multiple of 4, less than 2^20
  const uint8_t* tables;  // [groups, 16], at most 127
  float step;
  int32_t base;
};
constexpr int64_t kSketchBlock = 32;

// The inner loops. All levels give the same bits: sums run over 16 lanes
// (element j goes to lane j mod 16) with fused multiply-add, and the lanes are
// added as a tree (i and i + 8, then + 4, + 2, + 1). The scalar level calls
// fmaf, which is slow where the processor has no such instruction.
struct VectorKernels {
  static constexpr int kMaxTileRows = 6;

  RowProducts<float> float_rows;
  RowProducts<Bfloat16> bfloat16_rows;

  // Those of rows of `T`.
  template <typename T>
  const RowProducts<T>& Rows() const {
    if constexpr (std::is_same_v<T, Bfloat16>) {
      return bfloat16_rows;
    } else {
      return float_rows;
    }
  }

  // target[columns[k]] += scale * values[k], fused, for k in [0, count).
  void (*add_sparse)(float scale, const int32_t* columns, const float* values,
                     int64_t count, float* target);

  // sums[k] += scale * row[columns[k]], fused, for k in [0, count).
  void (*add_gathered)(float scale, const float* row, const int32_t* columns,
                       int64_t count, float* sums);

  // out[j] = sum over i in [0, count), in this order, of scales[i] *
  // rows[i][first + j], for j in [0, n).
  void (*weighted_sum)(const float* const* rows, const float* scales,
                       int64_t count, int64_t first, int64_t n, float* out);

  // targets[i][first + j] += scales[i] * row[j], fused, for i in [0, count), in
  // this order, and j in [0, n).
  void (*add_scaled)(const float* row, const float* scales,
                     float* const* targets, int64_t count, int64_t first,
                     int64_t n);

  // out = a b, of a [rows, inner] and b [inner, columns]. Each element is
  // summed over `inner` in ascending order, fused.
  void (*multiply)(const float* a, const float* b, int64_t rows, int64_t inner,
                   int64_t columns, float* out);

  // The first i in [0, n) with the least minuends[i] - subtrahends[i]; 0 if all
  // of these are infinity or NaN. n less than 2^31.
  int64_t (*find_least)(const float* minuends, const float* subtrahends,
                        int64_t n);

  // The sum of sizes[i], or with none the number, of the values of at least
  // `least`, for i in [0, n). Less than 2^31.
  int32_t (*count_from)(const int32_t* values, const int32_t* sizes, int64_t n,
                        int32_t least);

  // The places of the values of at least `least`, ascending, of [0, n): written
  // to `found`, which has room for n; returns their number.
  int64_t (*find_from)(const int32_t* values, int64_t n, int32_t least,
                       int32_t* found);

  // weights[i], linear in values[i] for i in [0, n): 1 for the least value,
  // 65536 for the largest, truncated; 1 for what is no number and if all are
  // equal.
  void (*weigh)(const float* values, int64_t n, int32_t* weights);

  // The least and the largest of values[i], for i in [0, n); without NaN, which
  // counts for neither, and infinity and -infinity if nothing is left.
  void (*find_range)(const float* values, int64_t n, float* least,
                     float* largest);

  // The sum of weights[i] * exp(values[i] - largest), or with null weights of
  // exp(values[i] - largest), for i in [0, n). No value is above `largest`.
  // exp(x) is within 2 units in the last place, and 0 for x < -87.7.
  float (*sum_exp)(const float* values, const float* weights, float largest,
                   int64_t n);

  // out[i] = scale * exp(values[i] - largest), times weights[i] if these are
  // not null, for i in [0, n), with the exponentials of `sum_exp`.
  void (*scale_exp)(const float* values, const float* weights, float largest,
                    float scale, int64_t n, float* out);

  // The neurons whose score is not less than `limit` (so those of NaN, too),
  // ascending, and their scores: written to `found` and `scores`, which have
  // room for all; returns their number.
  int64_t (*scan_sketch)(const SketchScan& scan, float limit, int32_t* found,
                         float* scores);

  // The sum of bits(values[j]) * factors[j] for j in [0, n), modulo 2^32.
  uint32_t (*bits_times)(const float* values, const uint32_t* factors,
                         int64_t n);

  // One Adam step on n elements, in place.
  void (*adam_row)(const AdamRowStep& step, const float* gradient, int64_t n,
                   float* variable, float* momentum, float* velocity);
};

// Elements of a cache line.
template <typename T>
constexpr int64_t kLine = 64 / sizeof(T);

// Asks for a row of n elements that is needed soon. Rows lie far apart in
// memory, and the processor cannot guess the next one.
template <typename T>
void Prefetch(const T* row, int64_t n) {
  // With so many lines the processor sees the rest coming.
  constexpr int64_t kEnough = 16 * kLine<T>;
  for (int64_t j = 0; j < (n < kEnough ? n : kEnough); j += kLine<T>) {
    __builtin_prefetch(row + j);
  }
}

// The same for n floats that will be written.
inline void PrefetchToWrite(const float* row, int64_t n) {
  for (int64_t j = 0; j < n; j += kLine<float>) __builtin_prefetch(row + j, 1);
}

// The kernels of a level, which the processor must have.
const VectorKernels& GetVectorKernels(SimdLevel level);

// The kernels of ActiveSimdLevel().
const VectorKernels& GetVectorKernels();

}  // namespace keras_lsh

#endif  // CUSTOM_OPS_CORE_VECTOR_KERNELS_H_
