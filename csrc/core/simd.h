// SPDX-License-Identifier: Apache-2.0
// One vector type per ISA, for per-ISA files only (WW_ISA names the namespace).
//
// F32 and I32 are GCC/Clang vector types: arithmetic, comparison and ?: are the language's own. Here are
// only what the language lacks: loads and stores with conversion, tails, fma, sums. The build passes
// -ffp-contract=off, so a multiply-add is fused where the source says so and nowhere else.
// Everything sits in an unnamed namespace: nothing of an ISA object may be linked from another one.
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

// One rounding on every ISA, for error-compensated functions. The baseline goes through float64, where
// the product is exact.
WW_INLINE F32 fma(F32 a, F32 b, F32 c) {
#if defined(__AVX2__)
  return mul_add(a, b, c);
#else
  using F64 = double __attribute__((vector_size(2 * WW_VECTOR_BYTES)));
  return __builtin_convertvector(__builtin_convertvector(a, F64) * __builtin_convertvector(b, F64) +
                                     __builtin_convertvector(c, F64), F32);
#endif
}

// a < b ? a : b, so a NaN in either operand gives b, as minps does.
WW_INLINE F32 min(F32 a, F32 b) { return a < b ? a : b; }
WW_INLINE F32 max(F32 a, F32 b) { return a > b ? a : b; }

WW_INLINE F32 sqrt(F32 v) {
#if defined(__AVX512F__)
  return F32(_mm512_sqrt_ps(__m512(v)));
#elif defined(__AVX2__)
  return F32(_mm256_sqrt_ps(__m256(v)));
#else
  return F32(_mm_sqrt_ps(__m128(v)));
#endif
}

// Lanes are added pairwise: the same order on every call, so sums are reproducible.
WW_INLINE float sum(F32 v) {
  float lane[kLanes];
  memcpy(lane, &v, sizeof v);
  for (int n = kLanes / 2; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) lane[i] += lane[i + n];
  return lane[0];
}

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

// The hardware conversion (vcvtneps2bf16) is not used: it flushes subnormals to zero.
WW_INLINE U16 narrow_bf16(F32 v) {
  const U32 u = bitcast<U32>(v);
  const U32 rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  const U32 bits = v == v ? rounded : (u >> 16) | 0x40;
#if defined(__AVX512F__)
  return U16(_mm512_cvtepi32_epi16(__m512i(bits)));
#else
  return __builtin_convertvector(bits, U16);
#endif
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

// f(index, lanes) over [0, n): whole vectors first with lanes = kLanes, then one tail.
template <typename F>
WW_INLINE void for_lanes(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, kLanes);
  if (i < n) f(i, int(n - i));
}

// For use inside for_lanes and reduce, where lanes is kLanes at compile time in the main loop.
template <typename T>
WW_INLINE F32 load(const T* p, int lanes) { return lanes == kLanes ? load(p) : load_n(p, lanes); }
template <typename T>
WW_INLINE void store(T* p, F32 v, int lanes) { lanes == kLanes ? store(p, v) : store_n(p, v, lanes); }

// The sum of n terms, where f(index, lanes, acc) returns acc plus the terms of its lanes. Four chains hide
// the latency of an addition, and the order depends on n alone.
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
