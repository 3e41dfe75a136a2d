// SPDX-License-Identifier: Apache-2.0
// Blocks of 16 elements to and from a CPU's vectors, for per-ISA files only: kLanes neighbouring
// ones are transposed, so that neither the largest of a block nor the packing of its codes crosses
// lanes. `Lanes` is what core/nvfp4.h wants of them.
#pragma once

#include <type_traits>

#include "core/cpu/philox.h"
#include "core/nvfp4.h"

namespace ww::WW_ISA {
namespace {

struct Lanes : PhiloxLanes {
  using F = F32;
  using I = I32;
  static WW_INLINE F min(F a, F b) { return ww::WW_ISA::min(a, b); }
  static WW_INLINE F max(F a, F b) { return ww::WW_ISA::max(a, b); }
  static WW_INLINE F mul_add(F a, F b, F c) { return ww::WW_ISA::mul_add(a, b, c); }
  static WW_INLINE F add_square(F sum, F v) { return sum + v * v; }
  static WW_INLINE bool any(I mask) { return ww::WW_ISA::any(mask); }
  static WW_INLINE bool any_above(F v, float bound) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(__m512(v), _mm512_set1_ps(bound), _CMP_NLE_UQ) != 0;
#else
    return any(~(v <= bound));
#endif
  }
#if defined(__AVX512F__)
  static WW_INLINE F min_magnitude(F v, F b) {
    return F(_mm512_range_ps(__m512(v), __m512(b), 0b1010));
  }
  static WW_INLINE U or_sign(U a, F v) {
    const __m512i sign = _mm512_set1_epi32(int32_t(0x80000000));
    return U(_mm512_ternarylogic_epi32(__m512i(a), __m512i(v), sign, 0xf8));
  }
  static WW_INLINE U round_up(F v) {
    return U(_mm512_cvt_roundps_epi32(__m512(v), _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC));
  }
#else
  static WW_INLINE F min_magnitude(F v, F b) { return min(magnitude<Lanes>(v), b); }
  static WW_INLINE U or_sign(U a, F v) { return a | (bitcast<U>(v) & 0x80000000u); }
  static WW_INLINE U round_up(F v) {
    return bitcast<U>(__builtin_convertvector(-ww::WW_ISA::floor(-v), I));
  }
#endif
#if defined(__AVX2__)
  static constexpr bool kDivides = false;
#else
  static constexpr bool kDivides = true;
#endif
  static WW_INLINE F quotient(F v, F divisor, F reciprocal) {
#if defined(__AVX2__)
    return fused_quotient(v, divisor, reciprocal,
                          [](F a, F b, F c) { return ww::WW_ISA::fma(a, b, c); });
#else
    return Dividing<Lanes>::quotient(v, divisor, reciprocal);
#endif
  }
};

// --- Loading: v[k] holds element k of kLanes blocks ---

#if defined(__AVX512F__)
#define WW_UNPACK(half, width, a, b) U32(_mm512_unpack##half##_epi##width(__m512i(a), __m512i(b)))
#elif defined(__AVX2__)
#define WW_UNPACK(half, width, a, b) U32(_mm256_unpack##half##_epi##width(__m256i(a), __m256i(b)))
#else
#define WW_UNPACK(half, width, a, b) U32(_mm_unpack##half##_epi##width(__m128i(a), __m128i(b)))
#endif

// Words 8 * half to 8 * half + 7 of kLanes blocks of `bytes`, lane l that of block l.
WW_INLINE void load_words(const char* blocks, int64_t bytes, int half, U32 (&word)[8]) {
  const auto at = [&](int block) {
    return reinterpret_cast<const __m128i*>(blocks + block * bytes + half * 32);
  };
  U32 rows[8];            // 4 by 4 of their words change places
  WW_UNROLL
  for (int i = 0; i < 8; ++i) {
#if defined(__AVX512F__)  // halves of blocks i and i + 4, then of i + 8 and i + 12
    const int block = i % 4 + i / 4 * 8;
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at(block)));
    const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at(block + 4)));
    rows[i] = U32(_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1));
#elif defined(__AVX2__)  // quarters of blocks i and i + 4
    const __m128i first = _mm_loadu_si128(at(i % 4) + i / 4);
    const __m128i second = _mm_loadu_si128(at(i % 4 + 4) + i / 4);
    rows[i] = U32(_mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1));
#else
    rows[i] = U32(_mm_loadu_si128(at(i % 4) + i / 4));
#endif
  }
  U32 mixed[8];
  WW_UNROLL
  for (int i = 0; i < 8; i += 4) {
    const U32* row = rows + i;
    const U32 lo01 = WW_UNPACK(lo, 32, row[0], row[1]), hi01 = WW_UNPACK(hi, 32, row[0], row[1]);
    const U32 lo23 = WW_UNPACK(lo, 32, row[2], row[3]), hi23 = WW_UNPACK(hi, 32, row[2], row[3]);
    mixed[i] = WW_UNPACK(lo, 64, lo01, lo23), mixed[i + 1] = WW_UNPACK(hi, 64, lo01, lo23);
    mixed[i + 2] = WW_UNPACK(lo, 64, hi01, hi23), mixed[i + 3] = WW_UNPACK(hi, 64, hi01, hi23);
  }
  WW_UNROLL
  for (int i = 0; i < 8; ++i)
#if defined(__AVX512F__)
    word[i] = U32(_mm512_shuffle_i64x2(__m512i(mixed[i % 4]), __m512i(mixed[i % 4 + 4]),
                                       i < 4 ? 0x88 : 0xdd));
#else
    word[i] = mixed[i];
#endif
}

// Halves in the lower half of each lane.
WW_INLINE F32 widen_f16(U32 halves) {
#if defined(__AVX512F__)
  return F32(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(__m512i(halves))));
#elif defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi32(__m256i(halves), __m256i(halves));
  return F32(_mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08))));
#else
  F32 v;
  for (int l = 0; l < kLanes; ++l) v[l] = ww::to_float(f16_t{uint16_t(halves[l])});
  return v;
#endif
}

// They return the bits of each block's largest magnitude.
WW_INLINE I32 load_blocks(const float* x, F32 (&v)[kNvfp4Block]) {
  WW_UNROLL
  for (int half = 0; half < 2; ++half) {
    U32 word[8];
    load_words(reinterpret_cast<const char*>(x), 64, half, word);
    WW_UNROLL
    for (int i = 0; i < 8; ++i) v[8 * half + i] = bitcast<F32>(word[i]);
  }
  return bitcast<I32>(nvfp4_amax<Lanes>(v));
}
template <typename T>
WW_INLINE I32 load_blocks(const T* x, F32 (&v)[kNvfp4Block]) {
  constexpr bool kBf16 = std::is_same_v<T, bf16_t>;
  using I16 = int16_t __attribute__((vector_size(WW_VECTOR_BYTES)));
  I16 most{};  // of the even elements and of the odd ones
  U32 word[8];
  load_words(reinterpret_cast<const char*>(x), 32, 0, word);
  WW_UNROLL
  for (int i = 0; i < 8; ++i) {
    v[2 * i] = kBf16 ? bitcast<F32>(word[i] << 16) : widen_f16(word[i] & 0xffff);
    v[2 * i + 1] = kBf16 ? bitcast<F32>(word[i] & 0xffff0000u) : widen_f16(word[i] >> 16);
    const I16 pair = bitcast<I16>(word[i]) & 0x7fff;
    most = pair > most ? pair : most;
  }
  const I32 even = bitcast<I32>(most) & 0xffff, odd = bitcast<I32>(bitcast<U32>(most) >> 16);
  const I32 largest = even > odd ? even : odd;
  return kBf16 ? largest << 16 : bitcast<I32>(widen_f16(bitcast<U32>(largest)));
}

// The first n of kLanes blocks; the others are zero.
template <typename T>
WW_INLINE I32 load_blocks(const T* x, int n, F32 (&v)[kNvfp4Block]) {
  if (n == kLanes) return load_blocks(x, v);
  T padded[kLanes * kNvfp4Block] = {};
  memcpy(padded, x, size_t(n) * kNvfp4Block * sizeof(T));
  return load_blocks(padded, v);
}

// A page ahead: the hardware's own prefetching stops at the end of this one.
template <typename T>
WW_INLINE void prefetch(const T* x) {
  _mm_prefetch(reinterpret_cast<const char*>(x) + 4096, _MM_HINT_T0);
}

// The bits of elements of so many bytes, one vector for a block at the most.
template <int kBytes>
struct Bits {
  using Element = int32_t;
  using Vector = int32_t __attribute__((vector_size(WW_VECTOR_BYTES)));
};
template <>
struct Bits<2> {
  using Element = int16_t;
  using Vector = int16_t __attribute__((vector_size(WW_VECTOR_BYTES < 32 ? WW_VECTOR_BYTES : 32)));
};

// The largest magnitude of whole blocks, whose order is that of their bits; NaN is above infinity.
template <typename T>
WW_INLINE float amax_of(const T* x, int64_t blocks) {
  using Vector = typename Bits<sizeof(T)>::Vector;
  using Element = typename Bits<sizeof(T)>::Element;
  constexpr int kWidth = sizeof(Vector) / sizeof(T), kChains = 4;
  Vector most[kChains] = {};
  const auto take = [&](int64_t i, int chain) {
    Vector v;
    prefetch(x + i);
    memcpy(&v, x + i, sizeof v);
    v &= sizeof(T) == 2 ? 0x7fff : 0x7fffffff;
    most[chain] = v > most[chain] ? v : most[chain];
  };
  const int64_t n = blocks * kNvfp4Block;
  int64_t i = 0;
  for (; i + kChains * kWidth <= n; i += kChains * kWidth) {
    WW_UNROLL
    for (int c = 0; c < kChains; ++c) take(i + c * kWidth, c);
  }
  for (; i < n; i += kWidth) take(i, 0);
  Element lane[kChains * kWidth], largest = 0;
  memcpy(lane, most, sizeof lane);
  for (const Element v : lane) largest = v > largest ? v : largest;
  return to_float(bitcast<T>(largest));
}

// --- Storing ---

// Word 0 and word 1 of each block, block after block.
WW_INLINE void store_codes(const U32 (&words)[2], uint8_t* out) {
  const U32 lo = WW_UNPACK(lo, 32, words[0], words[1]), hi = WW_UNPACK(hi, 32, words[0], words[1]);
#if defined(__AVX512F__)
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);  // of lo, then of hi
  const __m512i last = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  const U32 in_order[2] = {U32(_mm512_permutex2var_epi64(__m512i(lo), first, __m512i(hi))),
                           U32(_mm512_permutex2var_epi64(__m512i(lo), last, __m512i(hi)))};
#elif defined(__AVX2__)
  const U32 in_order[2] = {U32(_mm256_permute2x128_si256(__m256i(lo), __m256i(hi), 0x20)),
                           U32(_mm256_permute2x128_si256(__m256i(lo), __m256i(hi), 0x31))};
#else
  const U32 in_order[2] = {lo, hi};
#endif
  memcpy(out, in_order, sizeof in_order);
}

// The first n of kLanes blocks.
WW_INLINE void store_blocks(const U32 (&words)[2], I32 scale, int n, uint8_t* codes,
                            e4m3_t* scales) {
  using U8 = uint8_t __attribute__((vector_size(kLanes)));
#if defined(__AVX512F__)  // of which GCC makes sixteen insertions
  const U8 bytes = U8(_mm512_cvtepi32_epi8(__m512i(scale)));
#else
  const U8 bytes = __builtin_convertvector(scale, U8);
#endif
  if (n == kLanes) {
    store_codes(words, codes);
    memcpy(scales, &bytes, sizeof bytes);
  } else {
    uint8_t whole[8 * kLanes];
    store_codes(words, whole);
    memcpy(codes, whole, size_t(n) * 8);
    memcpy(scales, &bytes, size_t(n));
  }
}

}  // namespace
}  // namespace ww::WW_ISA
