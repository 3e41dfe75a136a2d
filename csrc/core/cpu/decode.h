// SPDX-License-Identifier: Apache-2.0
// Vectors of E2M1 and E4M3 codes as fp32, or as the bf16 pairs of a dot product. For per-ISA files.
//
// Every code is exact in both. The 127 of E4M3 is decoded like a number: has_nan() looks for it once
// a row, since one NaN makes the whole result of that row NaN. Nothing here relies on fp32
// subnormals, which a thread may have switched off.
#pragma once

#include "core/cpu/simd.h"

namespace ww::WW_ISA {
namespace {

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

WW_INLINE F32 e4m3(U32 codes) {
  const U32 code = codes & 0x7f, normal = (code << 20) + (120u << 23);
  // Below 2^-6 the leading one is missing: it is put there, and its value taken away again.
  const F32 value =
      code < 8 ? bitcast<F32>(normal + (1u << 23)) - 0x1p-6f : bitcast<F32>(normal);
  return bitcast<F32>(bitcast<U32>(value) | (codes << 24 & 0x80000000u));
}

// kLanes / 2 E4M3 codes times 2^-8, each in two lanes. As fp16 an E4M3 code is its value times 2^-8.
WW_INLINE F32 e4m3_in_pairs(const uint8_t* codes) {
#if defined(__AVX2__)
  __m128i bytes;
#if defined(__AVX512F__)
  bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
#else
  bytes = _mm_loadu_si32(codes);
#endif
  const __m128i shifted = _mm_srai_epi16(_mm_unpacklo_epi8(__m128i{}, bytes), 1);
  const __m128i halves = _mm_and_si128(shifted, _mm_set1_epi16(int16_t(0xbf80)));
#if defined(__AVX512F__)
  const __m512i pairs = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return F32(_mm512_permutexvar_ps(pairs, _mm512_castps256_ps512(_mm256_cvtph_ps(halves))));
#else
  const __m256i pairs = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
  return F32(_mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_cvtph_ps(halves)), pairs));
#endif
#else
  const float a = to_float(e4m3_t{codes[0]}) * 0x1p-8f, b = to_float(e4m3_t{codes[1]}) * 0x1p-8f;
  return F32{a, a, b, b};
#endif
}

#if defined(__AVX512BF16__)
// 32 codes in the low bits of 16-bit lanes as bf16.
WW_INLINE I32 e2m1_bf16(__m512i codes) {
  using Bits = uint16_t __attribute__((vector_size(64)));  // the index takes five bits: all twice
  constexpr Bits kValues = {
      0,      0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, 0x8000, 0xbf00, 0xbf80,
      0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0, 0,      0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040,
      0x4080, 0x40c0, 0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};
  return I32(_mm512_permutexvar_epi16(codes, __m512i(kValues)));
}

WW_INLINE I32 e4m3_bf16(__m512i codes) {
  using Bits = uint16_t __attribute__((vector_size(64)));
  constexpr Bits kSubnormal = {0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60};
  const __m512i code =
      _mm512_and_si512(_mm512_slli_epi16(codes, 4), _mm512_set1_epi16(0x7f << 4));
  const __m512i normal = _mm512_add_epi16(code, _mm512_set1_epi16(120 << 7));
  const __mmask32 is_subnormal = _mm512_testn_epi16_mask(codes, _mm512_set1_epi16(0x78));
  const __m512i magnitude =
      _mm512_mask_permutexvar_epi16(normal, is_subnormal, codes, __m512i(kSubnormal));
  constexpr int kOrAnd = 0xf8;  // a | (b & c)
  return I32(_mm512_ternarylogic_epi32(magnitude, _mm512_slli_epi16(codes, 8),
                                       _mm512_set1_epi16(int16_t(0x8000)), kOrAnd));
}
#endif

// Whether one of n E4M3 codes is NaN.
inline bool has_nan(const uint8_t* codes, int64_t n) {
  using U8 = uint8_t __attribute__((vector_size(WW_VECTOR_BYTES)));
  U8 seen{};
  for (int64_t i = 0; i < n; i += WW_VECTOR_BYTES) {
    U8 v{};
    if (n - i >= WW_VECTOR_BYTES)
      memcpy(&v, codes + i, sizeof v);
    else
      memcpy(&v, codes + i, size_t(n - i));
    seen |= (v & 0x7f) + 1;
  }
  const U32 words = bitcast<U32>(seen) & 0x80808080u;
  for (int i = 0; i < kLanes; ++i)
    if (words[i]) return true;
  return false;
}

}  // namespace
}  // namespace ww::WW_ISA
