// SPDX-License-Identifier: Apache-2.0
// One vector type per ISA, for per-ISA files only (WW_ISA names the namespace).
//
// F32 and I32 are GCC/Clang vector types: arithmetic, comparison and ?: are the language's own.
// Here are only what the language lacks: loads and stores with conversion, tails, fma, sums. The
// build passes -ffp-contract=off, so a multiply-add is fused where the source says so and nowhere
// else. Everything sits in an unnamed namespace: nothing of an ISA object may be linked from
// another one.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "core/numerics.h"
#include "core/types.h"

#if defined(__AVX512F__)
#define WW_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define WW_VECTOR_BYTES 32
#else
#define WW_VECTOR_BYTES 16
#endif
#define WW_INLINE inline __attribute__((always_inline))

namespace ww::WW_ISA {
namespace {

using F32 = float __attribute__((vector_size(WW_VECTOR_BYTES)));
using I32 = int32_t __attribute__((vector_size(WW_VECTOR_BYTES)));
using U32 = uint32_t __attribute__((vector_size(WW_VECTOR_BYTES)));
using U16 = uint16_t __attribute__((vector_size(WW_VECTOR_BYTES / 2)));
constexpr int kLanes = WW_VECTOR_BYTES / 4;

template <typename To, typename From>
WW_INLINE To bitcast(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  memcpy(&out, &v, sizeof out);
  return out;
}

WW_INLINE F32 splat(float v) { return v - F32{}; }
WW_INLINE I32 splat(int32_t v) { return v - I32{}; }

// a * b + c with one rounding where the ISA fuses, two on the baseline: for sums of many products.
WW_INLINE F32 mul_add(F32 a, F32 b, F32 c) {
#if defined(__AVX512F__)
  return F32(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
#elif defined(__AVX2__)
  return F32(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
#else
  return a * b + c;
#endif
}

// One rounding on every ISA, for error-compensated functions. The baseline goes through float64,
// where the product is exact.
WW_INLINE F32 fma(F32 a, F32 b, F32 c) {
#if defined(__AVX2__)
  return mul_add(a, b, c);
#else
  using F64 = double __attribute__((vector_size(2 * WW_VECTOR_BYTES)));
  return __builtin_convertvector(__builtin_convertvector(a, F64) * __builtin_convertvector(b, F64) +
                                     __builtin_convertvector(c, F64),
                                 F32);
#endif
}

// a < b ? a : b, so a NaN in either operand gives b. Spelled out because GCC makes a compare and a
// blend of the operators.
WW_INLINE F32 min(F32 a, F32 b) {
#if defined(__AVX512F__)
  return F32(_mm512_min_ps(__m512(a), __m512(b)));
#elif defined(__AVX2__)
  return F32(_mm256_min_ps(__m256(a), __m256(b)));
#else
  return F32(_mm_min_ps(__m128(a), __m128(b)));
#endif
}
WW_INLINE F32 max(F32 a, F32 b) {
#if defined(__AVX512F__)
  return F32(_mm512_max_ps(__m512(a), __m512(b)));
#elif defined(__AVX2__)
  return F32(_mm256_max_ps(__m256(a), __m256(b)));
#else
  return F32(_mm_max_ps(__m128(a), __m128(b)));
#endif
}

// Of the masks that comparisons give.
WW_INLINE bool any(I32 mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask(__m512i(mask), __m512i(mask)) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8(__m256i(mask)) != 0;
#else
  return _mm_movemask_epi8(__m128i(mask)) != 0;
#endif
}

WW_INLINE F32 sqrt(F32 v) {
#if defined(__AVX512F__)
  return F32(_mm512_sqrt_ps(__m512(v)));
#elif defined(__AVX2__)
  return F32(_mm256_sqrt_ps(__m256(v)));
#else
  return F32(_mm_sqrt_ps(__m128(v)));
#endif
}

#if !defined(__AVX512F__)  // AVX-512 has the fraction in one step, where it is wanted
WW_INLINE F32 floor(F32 v) {
#if defined(__AVX2__)
  return F32(_mm256_floor_ps(__m256(v)));
#else
  return F32(_mm_floor_ps(__m128(v)));
#endif
}
#endif

// Lanes are added pairwise, halves first: the same order on every call, so sums are reproducible.
WW_INLINE float sum(F32 v) {
#if defined(__AVX512F__)
  const __m256 half =
      _mm256_add_ps(_mm512_castps512_ps256(__m512(v)), _mm512_extractf32x8_ps(__m512(v), 1));
#elif defined(__AVX2__)
  const __m256 half = __m256(v);
#endif
#if defined(__AVX2__)
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#else
  const __m128 quarter = __m128(v);
#endif
  const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
}

// While alive, subnormal operands and results of this thread count as zero. For sums of products
// that decay: there a subnormal is noise 10^-30 below the result, but costs the core some 150
// cycles each.
class FlushSubnormals {
 public:
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }  // FTZ, DAZ
  ~FlushSubnormals() { _mm_setcsr(saved_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  unsigned saved_;
};

// --- Loads widen to fp32, stores round to nearest even once. ---

WW_INLINE F32 load(const float* p) {
  F32 v;
  memcpy(&v, p, sizeof v);
  return v;
}

WW_INLINE F32 widen_bf16(U16 bits) {
#if defined(__AVX512F__)
  return F32(_mm512_slli_epi32(_mm512_cvtepu16_epi32(__m256i(bits)), 16));
#elif defined(__AVX2__)
  return F32(_mm256_slli_epi32(_mm256_cvtepu16_epi32(__m128i(bits)), 16));
#else
  return bitcast<F32>(__builtin_convertvector(bits, U32) << 16);
#endif
}

WW_INLINE F32 load(const bf16_t* p) {
  U16 bits;
  memcpy(&bits, p, sizeof bits);
  return widen_bf16(bits);
}

WW_INLINE F32 load(const f16_t* p) {
#if defined(__AVX512F__)
  return F32(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__)
  return F32(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  F32 v;
  for (int i = 0; i < kLanes; ++i) v[i] = to_float(p[i]);
  return v;
#endif
}

// v rounded to bf16 in the upper half of each lane; the lower half is left over. The hardware
// conversion (vcvtneps2bf16) is not used: it flushes subnormals to zero.
WW_INLINE U32 round_bf16(F32 v) {
  const U32 u = bitcast<U32>(v);
#if defined(__AVX512F__)
  const __m512i bits = __m512i(u), half = _mm512_set1_epi32(0x7fff);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i rounded =
      _mm512_mask_add_epi32(_mm512_add_epi32(bits, half), odd, bits, _mm512_set1_epi32(0x8000));
  const __mmask16 nan = _mm512_cmp_ps_mask(__m512(v), __m512(v), _CMP_UNORD_Q);
  return U32(_mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000)));
#else
  return v == v ? u + 0x7fff + ((u >> 16) & 1) : u | 0x400000;
#endif
}

WW_INLINE U16 narrow_bf16(F32 v) {
#if defined(__AVX512BW__)
  using I16 = int16_t __attribute__((vector_size(64)));
  constexpr I16 kUpper = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
  return U16(
      _mm512_castsi512_si256(_mm512_permutexvar_epi16(__m512i(kUpper), __m512i(round_bf16(v)))));
#else
  return __builtin_convertvector(round_bf16(v) >> 16, U16);
#endif
}

// lo in the lower half of each lane, hi in the upper: adjacent rows as a bf16 dot product takes
// them.
WW_INLINE U32 narrow_bf16_pairs(F32 lo, F32 hi) {
  return (round_bf16(lo) >> 16) | (round_bf16(hi) & 0xffff0000u);
}

WW_INLINE void store(float* p, F32 v) { memcpy(p, &v, sizeof v); }

WW_INLINE void store(bf16_t* p, F32 v) {
  const U16 bits = narrow_bf16(v);
  memcpy(p, &bits, sizeof bits);
}

WW_INLINE void store(f16_t* p, F32 v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(__m512(v), 0));
#elif defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(__m256(v), 0));
#else
  for (int i = 0; i < kLanes; ++i) p[i] = from_float<f16_t>(v[i]);
#endif
}

// --- Tails: n live lanes, 0 < n < kLanes; dead lanes read as zero and are not written. ---

template <typename T>
WW_INLINE F32 load_n(const T* p, int n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return F32(_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p));
#endif
  T lane[kLanes] = {};
  memcpy(lane, p, size_t(n) * sizeof(T));
  return load(lane);
}

template <typename T>
WW_INLINE void store_n(T* p, F32 v, int n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), __m512(v));
    return;
  }
#endif
  T lane[kLanes];
  store(lane, v);
  memcpy(p, lane, size_t(n) * sizeof(T));
}

// Square transpose: dst[i * ld + r] = row(r)[i] for r, i < kLanes, where row(r) is an F32.
template <typename Row>
WW_INLINE void transpose(const Row& row, float* dst, int64_t ld) {
#if defined(__AVX512F__)
  __m512 a[16], b[16];
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) a[r] = __m512(row(r));
#pragma GCC unroll 4
  for (int r = 0; r < 16; r += 4) {  // 4x4 blocks within 128-bit lanes
    const __m512 lo01 = _mm512_unpacklo_ps(a[r], a[r + 1]),
                 hi01 = _mm512_unpackhi_ps(a[r], a[r + 1]);
    const __m512 lo23 = _mm512_unpacklo_ps(a[r + 2], a[r + 3]),
                 hi23 = _mm512_unpackhi_ps(a[r + 2], a[r + 3]);
    b[r] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(lo01), _mm512_castps_pd(lo23)));
    b[r + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(lo01), _mm512_castps_pd(lo23)));
    b[r + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(hi01), _mm512_castps_pd(hi23)));
    b[r + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(hi01), _mm512_castps_pd(hi23)));
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {  // then 4x4 of those lanes
    const __m512 even_lo = _mm512_shuffle_f32x4(b[j], b[4 + j], 0x88),
                 odd_lo = _mm512_shuffle_f32x4(b[j], b[4 + j], 0xdd);
    const __m512 even_hi = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0x88),
                 odd_hi = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0xdd);
    _mm512_storeu_ps(dst + j * ld, _mm512_shuffle_f32x4(even_lo, even_hi, 0x88));
    _mm512_storeu_ps(dst + (j + 4) * ld, _mm512_shuffle_f32x4(odd_lo, odd_hi, 0x88));
    _mm512_storeu_ps(dst + (j + 8) * ld, _mm512_shuffle_f32x4(even_lo, even_hi, 0xdd));
    _mm512_storeu_ps(dst + (j + 12) * ld, _mm512_shuffle_f32x4(odd_lo, odd_hi, 0xdd));
  }
#else
  for (int r = 0; r < kLanes; ++r) {
    const F32 v = row(r);
    for (int i = 0; i < kLanes; ++i) dst[i * ld + r] = v[i];
  }
#endif
}

// f(index, lanes) over [0, n): whole vectors first with lanes = kLanes, then one tail.
template <typename F>
WW_INLINE void for_lanes(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, kLanes);
  if (i < n) f(i, int(n - i));
}

// For use inside for_lanes and reduce, where lanes is kLanes at compile time in the main loop.
template <typename T>
WW_INLINE F32 load(const T* p, int lanes) {
  return lanes == kLanes ? load(p) : load_n(p, lanes);
}
template <typename T>
WW_INLINE void store(T* p, F32 v, int lanes) {
  lanes == kLanes ? store(p, v) : store_n(p, v, lanes);
}

// The sum of n terms, where f(index, lanes, acc) returns acc plus the terms of its lanes. Four
// chains hide the latency of an addition, and the order depends on n alone.
template <typename F>
WW_INLINE float reduce(int64_t n, const F& f) {
  F32 acc[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) acc[c] = f(i + c * kLanes, kLanes, acc[c]);
  for (; i + kLanes <= n; i += kLanes) acc[0] = f(i, kLanes, acc[0]);
  if (i < n) acc[1] = f(i, int(n - i), acc[1]);
  return sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
}

}  // namespace
}  // namespace ww::WW_ISA
