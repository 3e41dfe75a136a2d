// SPDX-License-Identifier: Apache-2.0
// Vectors of E2M1 and E4M3 codes as fp32. For per-ISA files.
//
// E4M3 comes times 2^-8: shifted into place as fp16 that is what a code means, its subnormals too,
// and fp16 is widened in one instruction that no thread's flush-to-zero mode touches. The 127 that
// stands for NaN is decoded like a number: one makes the whole result of its row NaN, so nan_bits()
// looks for it once a row. Every result is exact, in bf16 too.
#pragma once

#include "core/cpu/simd.h"

namespace ww::WW_ISA {
namespace {

constexpr float kE4m3Unit = 0x1p8f;  // what decoded E4M3 is to be multiplied by

using U8 = uint8_t __attribute__((vector_size(WW_VECTOR_BYTES)));
using Bytes = uint8_t __attribute__((vector_size(kLanes)));

// The first n bytes at p, at most as many as V has, and zeros.
template <typename V>
WW_INLINE V load_first(const uint8_t* p, int64_t n) {
#if defined(__AVX512F__)
  const uint64_t live = _bzhi_u64(~uint64_t(0), unsigned(n));
  if constexpr (sizeof(V) == 64)
    return V(_mm512_maskz_loadu_epi8(live, p));
  else
    return V(_mm_maskz_loadu_epi8(__mmask16(live), p));
#else
  V v{};
  memcpy(&v, p, size_t(n));
  return v;
#endif
}

// The code is in the low bits of each lane; what is above it does not matter.
WW_INLINE F32 e2m1(U32 codes) {
#if defined(__AVX512F__)
  const __m512 values = _mm512_setr_ps(0.f, .5f, 1.f, 1.5f, 2.f, 3.f, 4.f, 6.f, -0.f, -.5f, -1.f,
                                       -1.5f, -2.f, -3.f, -4.f, -6.f);
  return F32(_mm512_permutexvar_ps(__m512i(codes), values));
#else
#if defined(__AVX2__)
  const __m256 values = _mm256_setr_ps(0.f, .5f, 1.f, 1.5f, 2.f, 3.f, 4.f, 6.f);
  const U32 magnitude = U32(_mm256_permutevar8x32_ps(values, __m256i(codes)));
#else
  const U32 code = codes & 7, normal = (code << 22) + 0x3f000000u;
  const U32 magnitude = code > 1 ? normal : code * 0x3f000000u;
#endif
  return bitcast<F32>(magnitude | (codes << 28 & 0x80000000u));
#endif
}

// A quarter of a vector of E4M3 codes: lane p is code e4m3_index(q, p).
constexpr int e4m3_index(int q, int p) {
  return WW_VECTOR_BYTES == 16 ? 4 * p + q : q % 2 * WW_VECTOR_BYTES / 2 + 2 * p + q / 2;
}
WW_INLINE F32 e4m3_quarter(U32 codes, int q) {
#if defined(__AVX512F__)
  const __m512i first = q < 2 ? _mm512_slli_epi16(__m512i(codes), 8) : __m512i(codes);
  const __m512i halves =
      _mm512_and_si512(_mm512_srai_epi16(first, 1), _mm512_set1_epi16(int16_t(0xbf80)));
  return F32(_mm512_cvtph_ps(q % 2 ? _mm512_extracti64x4_epi64(halves, 1)
                                   : _mm512_castsi512_si256(halves)));
#elif defined(__AVX2__)
  const __m256i first = q < 2 ? _mm256_slli_epi16(__m256i(codes), 8) : __m256i(codes);
  const __m256i halves =
      _mm256_and_si256(_mm256_srai_epi16(first, 1), _mm256_set1_epi16(int16_t(0xbf80)));
  return F32(_mm256_cvtph_ps(q % 2 ? _mm256_extracti128_si256(halves, 1)
                                   : _mm256_castsi256_si128(halves)));
#else
  F32 values;
  for (int p = 0; p < kLanes; ++p)
    values[p] = to_float(e4m3_t{uint8_t(codes[p] >> (8 * q))}) * (1 / kE4m3Unit);
  return values;
#endif
}

// kLanes E4M3 codes in order.
WW_INLINE F32 e4m3(Bytes codes) {
#if defined(__AVX512F__)
  const __m256i words = _mm256_slli_epi16(_mm256_cvtepu8_epi16(__m128i(codes)), 8);
  return F32(_mm512_cvtph_ps(
      _mm256_and_si256(_mm256_srai_epi16(words, 1), _mm256_set1_epi16(int16_t(0xbf80)))));
#elif defined(__AVX2__)
  const __m128i words =
      _mm_slli_epi16(_mm_cvtepu8_epi16(_mm_cvtsi64_si128(bitcast<int64_t>(codes))), 8);
  return F32(
      _mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(words, 1), _mm_set1_epi16(int16_t(0xbf80)))));
#else
  F32 values;
  for (int p = 0; p < kLanes; ++p) values[p] = to_float(e4m3_t{codes[p]}) * (1 / kE4m3Unit);
  return values;
#endif
}

#if defined(__AVX512BF16__)
// 32 E4M3 codes, each in a 16-bit lane, as bf16: shifted into place but for subnormals, looked up.
WW_INLINE __m512i e4m3_bf16(__m512i codes) {
  using Bits = uint16_t __attribute__((vector_size(64)));
  constexpr Bits kSubnormal = {0, 0x3700, 0x3780, 0x37c0, 0x3800, 0x3820, 0x3840, 0x3860};
  constexpr int kBitsOr = 0xea, kOrBits = 0xf8;  // a & b | c, a | b & c
  const __m512i normal =
      _mm512_ternarylogic_epi32(_mm512_slli_epi16(codes, 4), _mm512_set1_epi16(0x7f << 4),
                                _mm512_set1_epi16((120 - 8) << 7), kBitsOr);
  const __mmask32 is_subnormal = _mm512_testn_epi16_mask(codes, _mm512_set1_epi16(0x78));
  const __m512i magnitude =
      _mm512_mask_permutexvar_epi16(normal, is_subnormal, codes, __m512i(kSubnormal));
  return _mm512_ternarylogic_epi32(magnitude, _mm512_slli_epi16(codes, 8),
                                   _mm512_set1_epi16(int16_t(0x8000)), kOrBits);
}
#endif

// Lane p is lane p / 2 of v.
WW_INLINE F32 in_pairs(F32 v) {
#if defined(__AVX512F__)
  const __m512i pairs = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return F32(_mm512_permutexvar_ps(pairs, __m512(v)));
#elif defined(__AVX2__)
  return F32(_mm256_permutevar8x32_ps(__m256(v), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)));
#else
  return F32(_mm_unpacklo_ps(__m128(v), __m128(v)));
#endif
}

// Not zero if one of n E4M3 codes is NaN.
WW_INLINE U8 nan_bits(const uint8_t* codes, int64_t n) {
  U8 seen{};
  for (int64_t i = 0; i < n; i += WW_VECTOR_BYTES) {
    const U8 v = load_first<U8>(codes + i, n - i < WW_VECTOR_BYTES ? n - i : WW_VECTOR_BYTES);
    seen |= ((v & 0x7f) + 1) & 0x80;
  }
  return seen;
}

WW_INLINE bool any(U8 v) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask(__m512i(v), __m512i(v)) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256(__m256i(v), __m256i(v));
#else
  return !_mm_testz_si128(__m128i(v), __m128i(v));
#endif
}

}  // namespace
}  // namespace ww::WW_ISA
