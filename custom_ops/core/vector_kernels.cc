// Compile with -ffp-contract=off: a compiler that fuses multiplications and
// additions by itself, at one level and not at another, makes results depend
// on the processor.
#include "custom_ops/core/vector_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// GCC 12's AVX-512 header leaves "undefined" vectors uninitialised on purpose,
// and warns about them.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace keras_lsh {
namespace scalar {

#define KLSH_TARGET

struct Vec {
  float lane[16];
};
constexpr int kMultiplyRows = 1, kMultiplyVectors = 1;
constexpr int kSquareRows = 1, kSquareVectors = 1, kSumVectors = 1;

static inline float FmaOne(float a, float b, float c) {
  return std::fma(a, b, c);
}
static inline Vec Broadcast(float value) {
  Vec r;
  for (float& lane : r.lane) lane = value;
  return r;
}
static inline Vec Zero() { return Broadcast(0.0f); }
template <typename T>
static inline Vec LoadPart(const T* p, int n) {
  Vec r = Zero();
  for (int i = 0; i < n; ++i) r.lane[i] = ToFloat(p[i]);
  return r;
}
template <typename T>
static inline Vec Load(const T* p) {
  return LoadPart(p, 16);
}
static inline void StorePart(float* p, const Vec& v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v.lane[i];
}
static inline void Store(float* p, const Vec& v) { StorePart(p, v, 16); }

template <typename Fn>
static inline Vec Map(const Vec& a, const Vec& b, Fn fn) {
  Vec r;
  for (int i = 0; i < 16; ++i) r.lane[i] = fn(a.lane[i], b.lane[i]);
  return r;
}
static inline Vec Fma(const Vec& a, const Vec& b, const Vec& c) {
  Vec r;
  for (int i = 0; i < 16; ++i) {
    r.lane[i] = std::fma(a.lane[i], b.lane[i], c.lane[i]);
  }
  return r;
}
static inline Vec Mul(const Vec& a, const Vec& b) {
  return Map(a, b, [](float x, float y) { return x * y; });
}
static inline Vec Add(const Vec& a, const Vec& b) {
  return Map(a, b, [](float x, float y) { return x + y; });
}
static inline Vec Sub(const Vec& a, const Vec& b) {
  return Map(a, b, [](float x, float y) { return x - y; });
}
static inline Vec Div(const Vec& a, const Vec& b) {
  return Map(a, b, [](float x, float y) { return x / y; });
}
static inline Vec Sqrt(const Vec& a) {
  return Map(a, a, [](float x, float) { return std::sqrt(x); });
}
static inline Vec Min(const Vec& a, const Vec& b) {
  return Map(a, b, [](float x, float y) { return x < y ? x : y; });
}
static inline Vec Max(const Vec& a, const Vec& b) {
  return Map(a, b, [](float x, float y) { return x > y ? x : y; });
}
static inline Vec PowerOfTwo(const Vec& v) {
  uint32_t bits[16];
  std::memcpy(bits, v.lane, sizeof bits);
  for (uint32_t& lane : bits) lane = (lane << 23) + 0x3f800000;
  Vec r;
  std::memcpy(r.lane, bits, sizeof bits);
  return r;
}
static inline void StoreWhole(int32_t* p, const Vec& v, int32_t added) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int32_t>(v.lane[i]) + added;
}
static inline uint32_t AtLeast(const int32_t* p, int32_t least) {
  uint32_t bits = 0;
  for (int i = 0; i < 16; ++i) bits |= uint32_t{p[i] >= least} << i;
  return bits;
}
static inline float Sum(Vec v) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v.lane[i] += v.lane[i + half];
  }
  return v.lane[0];
}
template <int kRows, int kVectors, typename T>
KLSH_TARGET static inline void MultiplySquare(const T* const* rows,
                                              const float* const* vectors,
                                              int64_t j,
                                              Vec (&sums)[kRows][kVectors]) {
  Vec row[kRows];
  for (int r = 0; r < kRows; ++r) row[r] = Load(rows[r] + j);
  for (int i = 0; i < kVectors; ++i) {
    const Vec vector = Load(vectors[i] + j);
    for (int r = 0; r < kRows; ++r) {
      sums[r][i] = Fma(row[r], vector, sums[r][i]);
    }
  }
}

// The scores of n neurons of a block, from `first` on; which of them are not
// less than `limit`.
static inline uint32_t ScoreBlock(const SketchScan& scan, int64_t first, int n,
                                  float limit, float* scores) {
  const uint8_t* codes = scan.codes + first * scan.groups / 2;
  int32_t sums[kSketchBlock] = {};
  for (int64_t g = 0; g < scan.groups; ++g) {
    const uint8_t* table = scan.tables + 16 * g;
    for (int i = 0; i < 16; ++i) {
      sums[i] += table[codes[16 * g + i] & 15];
      sums[i + 16] += table[codes[16 * g + i] >> 4];
    }
  }
  uint32_t chosen = 0;
  for (int i = 0; i < n; ++i) {
    const float product =
        scan.step * static_cast<float>(2 * sums[i] - scan.base);
    const float bias = scan.bias == nullptr ? 0.0f : scan.bias[first + i];
    scores[i] = scan.scales[first + i] * product + bias;
    chosen |= uint32_t{!(scores[i] < limit)} << i;
  }
  return chosen;
}

#include "custom_ops/core/vector_kernels_body.inc"
#undef KLSH_TARGET

}  // namespace scalar

#if defined(__x86_64__)

namespace avx2 {

#define KLSH_TARGET __attribute__((target("avx2,fma")))

struct Vec {
  __m256 low, high;
};
constexpr int kMultiplyRows = 4, kMultiplyVectors = 1;
constexpr int kSquareRows = 2, kSquareVectors = 3, kSumVectors = 4;

KLSH_TARGET static inline float FmaOne(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);  // one instruction, without a call
}
KLSH_TARGET static inline Vec Broadcast(float value) {
  return {_mm256_set1_ps(value), _mm256_set1_ps(value)};
}
KLSH_TARGET static inline Vec Zero() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
// 8 floats.
KLSH_TARGET static inline __m256 LoadHalf(const float* p) {
  return _mm256_loadu_ps(p);
}
// 8 elements to the upper halves of floats; -1 clears a byte. A load puts them
// into both halves of a register, so that one shuffle is all: to lengthen and
// to shift them are two instructions.
KLSH_TARGET static inline __m256 Widen(__m128i bits) {
  const __m256i places = _mm256_setr_epi8(
      -1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7,  //
      -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15);
  return _mm256_castsi256_ps(
      _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bits), places));
}
KLSH_TARGET static inline __m256 LoadHalf(const Bfloat16* p) {
  return Widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
template <typename T>
KLSH_TARGET static inline Vec Load(const T* p) {
  return {LoadHalf(p), LoadHalf(p + 8)};
}
KLSH_TARGET static inline void Store(float* p, Vec v) {
  _mm256_storeu_ps(p, v.low);
  _mm256_storeu_ps(p + 8, v.high);
}
// All ones in the first n of 8 lanes.
KLSH_TARGET static inline __m256i Mask(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
KLSH_TARGET static inline Vec LoadPart(const float* p, int n) {
  return {_mm256_maskload_ps(p, Mask(n)),
          n > 8 ? _mm256_maskload_ps(p + 8, Mask(n - 8)) : _mm256_setzero_ps()};
}
// The first n < 16 elements, the rest zero. Masks are of pairs of them; the
// last of an odd number comes by itself.
KLSH_TARGET static inline __m256i LoadPartBits(const Bfloat16* p, int n) {
  const __m256i pairs =
      _mm256_maskload_epi32(reinterpret_cast<const int*>(p), Mask(n / 2));
  if (n % 2 == 0) return pairs;
  const __m256i last = _mm256_set1_epi32(p[n - 1].bits);
  const __m256i in_place = _mm256_cmpeq_epi32(
      _mm256_set1_epi32(n / 2), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  return _mm256_or_si256(pairs, _mm256_and_si256(last, in_place));
}
KLSH_TARGET static inline Vec LoadPart(const Bfloat16* p, int n) {
  const __m256i bits = LoadPartBits(p, n);
  return {Widen(_mm256_castsi256_si128(bits)),
          Widen(_mm256_extracti128_si256(bits, 1))};
}
KLSH_TARGET static inline void StorePart(float* p, Vec v, int n) {
  _mm256_maskstore_ps(p, Mask(n), v.low);
  if (n > 8) _mm256_maskstore_ps(p + 8, Mask(n - 8), v.high);
}
KLSH_TARGET static inline Vec Fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low),
          _mm256_fmadd_ps(a.high, b.high, c.high)};
}
KLSH_TARGET static inline Vec Mul(Vec a, Vec b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
KLSH_TARGET static inline Vec Add(Vec a, Vec b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
KLSH_TARGET static inline Vec Sub(Vec a, Vec b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
KLSH_TARGET static inline Vec Div(Vec a, Vec b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
KLSH_TARGET static inline Vec Sqrt(Vec a) {
  return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)};
}
KLSH_TARGET static inline Vec Min(Vec a, Vec b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
KLSH_TARGET static inline Vec Max(Vec a, Vec b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
KLSH_TARGET static inline __m256 PowerOfTwo8(__m256 v) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(v), 23);
  return _mm256_castsi256_ps(
      _mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f800000)));
}
KLSH_TARGET static inline Vec PowerOfTwo(Vec v) {
  return {PowerOfTwo8(v.low), PowerOfTwo8(v.high)};
}
KLSH_TARGET static inline void StoreWhole(int32_t* p, Vec v, int32_t added) {
  __m256i* halves = reinterpret_cast<__m256i*>(p);
  const __m256i more = _mm256_set1_epi32(added);
  _mm256_storeu_si256(halves,
                      _mm256_add_epi32(_mm256_cvttps_epi32(v.low), more));
  _mm256_storeu_si256(halves + 1,
                      _mm256_add_epi32(_mm256_cvttps_epi32(v.high), more));
}
KLSH_TARGET static inline uint32_t AtLeast(const int32_t* p, int32_t least) {
  const __m256i limit = _mm256_set1_epi32(least);
  uint32_t below = 0;
  for (int half = 0; half < 2; ++half) {
    const __m256i values =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p) + half);
    const __m256 less = _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, values));
    below |= static_cast<uint32_t>(_mm256_movemask_ps(less)) << 8 * half;
  }
  return below ^ 0xffff;
}
KLSH_TARGET static inline float Sum8(__m256 v) {
  __m128 four =
      _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}
KLSH_TARGET static inline float Sum(Vec v) {
  return Sum8(_mm256_add_ps(v.low, v.high));
}
// Keeps a value in a register. GCC would load it again for each use, as part
// of the multiplication; the processor loads no faster than it multiplies.
KLSH_TARGET static inline __m256 Kept(__m256 v) {
  asm("" : "+x"(v));
  return v;
}

// One half of the lanes after the other: both would not fit the registers.
template <int kRows, int kVectors, typename T>
KLSH_TARGET static inline void MultiplySquare(const T* const* rows,
                                              const float* const* vectors,
                                              int64_t j,
                                              Vec (&sums)[kRows][kVectors]) {
  __m256 row[kRows];
  for (int r = 0; r < kRows; ++r) row[r] = LoadHalf(rows[r] + j);
  for (int i = 0; i < kVectors; ++i) {
    const __m256 vector = Kept(_mm256_loadu_ps(vectors[i] + j));
    for (int r = 0; r < kRows; ++r) {
      sums[r][i].low = _mm256_fmadd_ps(row[r], vector, sums[r][i].low);
    }
  }
  for (int r = 0; r < kRows; ++r) row[r] = LoadHalf(rows[r] + j + 8);
  for (int i = 0; i < kVectors; ++i) {
    const __m256 vector = Kept(_mm256_loadu_ps(vectors[i] + j + 8));
    for (int r = 0; r < kRows; ++r) {
      sums[r][i].high = _mm256_fmadd_ps(row[r], vector, sums[r][i].high);
    }
  }
}

KLSH_TARGET static inline __m256i LoadBytes(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
// table[nibble] for the lower nibbles of bytes; of 16 bytes and a table each.
KLSH_TARGET static inline __m256i LookUp(__m256i table, __m256i bytes) {
  return _mm256_shuffle_epi8(table,
                             _mm256_and_si256(bytes, _mm256_set1_epi8(15)));
}
// The bytes of odd places, as 16-bit numbers: by a multiplication, as shifts
// have enough to do.
KLSH_TARGET static inline __m256i OddBytes(__m256i bytes) {
  return _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(0x100));
}
// Adds to 16 sums what was added up as 16-bit numbers: the bytes of even and
// odd places together, and those of odd places. The halves are of other groups.
KLSH_TARGET static inline void AddSums(__m256i all, __m256i odd, __m256i* low,
                                       __m256i* high) {
  const __m256i even =  // modulo 2^16, but they are less
      _mm256_sub_epi16(all, _mm256_slli_epi16(odd, 8));
  const __m128i e = _mm_add_epi16(_mm256_castsi256_si128(even),
                                  _mm256_extracti128_si256(even, 1));
  const __m128i o = _mm_add_epi16(_mm256_castsi256_si128(odd),
                                  _mm256_extracti128_si256(odd, 1));
  *low =
      _mm256_add_epi32(*low, _mm256_cvtepu16_epi32(_mm_unpacklo_epi16(e, o)));
  *high =
      _mm256_add_epi32(*high, _mm256_cvtepu16_epi32(_mm_unpackhi_epi16(e, o)));
}
constexpr int64_t kBytesAhead = 2048;   // of codes, in the scan of a sketch
constexpr int64_t kNeuronsAhead = 256;  // of scales and biases

// The sums of 32 neurons, as `groups` nibbles say what to add. A register holds
// the 16 bytes of two groups, and the tables of these: one shuffle looks up 32
// numbers. Two of them fit a byte, those of 512 groups 16 bits. Asks for the
// codes that are a few blocks further: the processor does not do so early
// enough for all of a scan's streams.
KLSH_TARGET static inline void BlockSums(const uint8_t* codes,
                                         const uint8_t* tables, int64_t groups,
                                         __m256i (&sums)[4]) {
  constexpr int64_t kGroupsAtOnce = 512;
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  while (groups > 0) {
    const int64_t end = groups < kGroupsAtOnce ? groups : kGroupsAtOnce;
    __m256i all_low = _mm256_setzero_si256(), all_high = all_low;
    __m256i odd_low = all_low, odd_high = all_low;
#pragma GCC unroll 4
    for (int64_t g = 0; g < end; g += 4) {
      _mm_prefetch(codes + 16 * g + kBytesAhead, _MM_HINT_T0);
      const __m256i a = LoadBytes(codes + 16 * g);
      const __m256i b = LoadBytes(codes + 16 * g + 32);
      const __m256i of_a = LoadBytes(tables + 16 * g);
      const __m256i of_b = LoadBytes(tables + 16 * g + 32);
      const __m256i low = _mm256_add_epi8(LookUp(of_a, a), LookUp(of_b, b));
      all_low = _mm256_add_epi16(all_low, low);
      odd_low = _mm256_add_epi16(odd_low, OddBytes(low));
      const __m256i high =
          _mm256_add_epi8(LookUp(of_a, _mm256_srli_epi16(a, 4)),
                          LookUp(of_b, _mm256_srli_epi16(b, 4)));
      all_high = _mm256_add_epi16(all_high, high);
      odd_high = _mm256_add_epi16(odd_high, OddBytes(high));
    }
    AddSums(all_low, odd_low, &sums[0], &sums[1]);
    AddSums(all_high, odd_high, &sums[2], &sums[3]);
    codes += 16 * end;
    tables += 16 * end;
    groups -= end;
  }
}
KLSH_TARGET static inline uint32_t ScoreBlock(const SketchScan& scan,
                                              int64_t first, int n, float limit,
                                              float* scores) {
  __m256i sums[4];
  BlockSums(scan.codes + first * scan.groups / 2, scan.tables, scan.groups,
            sums);
  const float* scales = scan.scales + first;
  const float* biases = scan.bias == nullptr ? nullptr : scan.bias + first;
  for (int i = 0; i < kSketchBlock; i += 16) {
    _mm_prefetch(scales + kNeuronsAhead + i, _MM_HINT_T0);
    if (biases != nullptr) {
      _mm_prefetch(biases + kNeuronsAhead + i, _MM_HINT_T0);
    }
  }
  float some[2][kSketchBlock];
  if (n < kSketchBlock) {
    std::fill_n(some[0], 2 * kSketchBlock, 0.0f);
    std::copy_n(scales, n, some[0]);
    if (biases != nullptr) std::copy_n(biases, n, some[1]);
    scales = some[0];
    biases = some[1];
  }
  __m256 score[4], is_chosen[4];
  for (int i = 0; i < 4; ++i) {
    const __m256i product = _mm256_sub_epi32(_mm256_add_epi32(sums[i], sums[i]),
                                             _mm256_set1_epi32(scan.base));
    const __m256 value =
        _mm256_mul_ps(_mm256_set1_ps(scan.step), _mm256_cvtepi32_ps(product));
    const __m256 bias = biases == nullptr ? _mm256_setzero_ps()
                                          : _mm256_loadu_ps(biases + 8 * i);
    score[i] = _mm256_add_ps(
        _mm256_mul_ps(_mm256_loadu_ps(scales + 8 * i), value), bias);
    is_chosen[i] = _mm256_cmp_ps(score[i], _mm256_set1_ps(limit), _CMP_NLT_UQ);
  }
  const __m256 any = _mm256_or_ps(_mm256_or_ps(is_chosen[0], is_chosen[1]),
                                  _mm256_or_ps(is_chosen[2], is_chosen[3]));
  if (_mm256_movemask_ps(any) == 0) return 0;  // as nearly always
  uint32_t chosen = 0;
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(scores + 8 * i, score[i]);
    chosen |= static_cast<uint32_t>(_mm256_movemask_ps(is_chosen[i])) << 8 * i;
  }
  return n == kSketchBlock ? chosen : chosen & ((1u << n) - 1);
}

#include "custom_ops/core/vector_kernels_body.inc"
#undef KLSH_TARGET

}  // namespace avx2

namespace avx512 {

#define KLSH_TARGET __attribute__((target("avx512f,avx2,fma")))

using Vec = __m512;
constexpr int kMultiplyRows = 8, kMultiplyVectors = 3;
constexpr int kSquareRows = 6, kSquareVectors = 4, kSumVectors = 8;

KLSH_TARGET static inline float FmaOne(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);  // one instruction, without a call
}
KLSH_TARGET static inline Vec Broadcast(float value) {
  return _mm512_set1_ps(value);
}
KLSH_TARGET static inline Vec Zero() { return _mm512_setzero_ps(); }
KLSH_TARGET static inline Vec Load(const float* p) {
  return _mm512_loadu_ps(p);
}
KLSH_TARGET static inline void Store(float* p, Vec v) {
  _mm512_storeu_ps(p, v);
}
KLSH_TARGET static inline __mmask16 Mask(int n) {
  return static_cast<__mmask16>((1u << n) - 1);
}
KLSH_TARGET static inline Vec LoadPart(const float* p, int n) {
  return _mm512_maskz_loadu_ps(Mask(n), p);
}
KLSH_TARGET static inline Vec Widen(__m256i bits) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
KLSH_TARGET static inline Vec Load(const Bfloat16* p) {
  return Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
KLSH_TARGET static inline Vec LoadPart(const Bfloat16* p, int n) {
  // AVX-512F has no masks for 16 bits.
  return Widen(avx2::LoadPartBits(p, n));
}
KLSH_TARGET static inline void StorePart(float* p, Vec v, int n) {
  _mm512_mask_storeu_ps(p, Mask(n), v);
}
KLSH_TARGET static inline Vec Fma(Vec a, Vec b, Vec c) {
  return _mm512_fmadd_ps(a, b, c);
}
KLSH_TARGET static inline Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
KLSH_TARGET static inline Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
KLSH_TARGET static inline Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
KLSH_TARGET static inline Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
KLSH_TARGET static inline Vec Sqrt(Vec a) { return _mm512_sqrt_ps(a); }
KLSH_TARGET static inline Vec Min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
KLSH_TARGET static inline Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
KLSH_TARGET static inline Vec PowerOfTwo(Vec v) {
  const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(v), 23);
  return _mm512_castsi512_ps(
      _mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f800000)));
}
KLSH_TARGET static inline void StoreWhole(int32_t* p, Vec v, int32_t added) {
  _mm512_storeu_si512(
      p, _mm512_add_epi32(_mm512_cvttps_epi32(v), _mm512_set1_epi32(added)));
}
KLSH_TARGET static inline uint32_t AtLeast(const int32_t* p, int32_t least) {
  return _mm512_cmpge_epi32_mask(_mm512_loadu_si512(p),
                                 _mm512_set1_epi32(least));
}
KLSH_TARGET static inline float Sum(Vec v) {
  const __m256 low = _mm512_castps512_ps256(v);
  const __m256 high =
      _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
  const __m256 eight = _mm256_add_ps(low, high);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight),
                           _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}
template <int kRows, int kVectors, typename T>
KLSH_TARGET static inline void MultiplySquare(const T* const* rows,
                                              const float* const* vectors,
                                              int64_t j,
                                              Vec (&sums)[kRows][kVectors]) {
  Vec row[kRows];
  for (int r = 0; r < kRows; ++r) row[r] = Load(rows[r] + j);
  for (int i = 0; i < kVectors; ++i) {
    const Vec vector = Load(vectors[i] + j);
    for (int r = 0; r < kRows; ++r) {
      sums[r][i] = Fma(row[r], vector, sums[r][i]);
    }
  }
}

// AVX-512F has no shuffle of bytes.
KLSH_TARGET static inline uint32_t ScoreBlock(const SketchScan& scan,
                                              int64_t first, int n, float limit,
                                              float* scores) {
  return avx2::ScoreBlock(scan, first, n, limit, scores);
}

#include "custom_ops/core/vector_kernels_body.inc"
#undef KLSH_TARGET

}  // namespace avx512

#endif  // defined(__x86_64__)

const VectorKernels& GetVectorKernels(SimdLevel level) {
#if defined(__x86_64__)
  if (level == SimdLevel::kAvx512) return avx512::kKernels;
  if (level == SimdLevel::kAvx2) return avx2::kKernels;
#endif
  (void)level;
  return scalar::kKernels;
}

const VectorKernels& GetVectorKernels() {
  return GetVectorKernels(ActiveSimdLevel());
}

}  // namespace keras_lsh
