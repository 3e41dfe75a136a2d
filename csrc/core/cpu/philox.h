// SPDX-License-Identifier: Apache-2.0
// core/philox.h on a CPU's vectors: a counter in each lane.
#pragma once

#include <utility>

#include "core/cpu/simd.h"
#include "core/philox.h"

namespace ww::WW_ISA {
namespace {

using U64 = uint64_t __attribute__((vector_size(WW_VECTOR_BYTES)));

// Of the even lanes, 64 bits each; the language would take three of these for it.
WW_INLINE U64 even_products(U32 a, uint32_t b) {
  const I32 factor = splat(int32_t(b));
#if defined(__AVX512F__)
  return U64(_mm512_mul_epu32(__m512i(a), __m512i(factor)));
#elif defined(__AVX2__)
  return U64(_mm256_mul_epu32(__m256i(a), __m256i(factor)));
#else
  return U64(_mm_mul_epu32(__m128i(a), __m128i(factor)));
#endif
}

// a ^ b ^ key, of which GCC would make two instructions.
template <typename U>
WW_INLINE U mix_key(U a, U b, uint32_t key) {
#if defined(__AVX512F__)
  return U(
      _mm512_ternarylogic_epi32(__m512i(a), __m512i(b), _mm512_set1_epi32(int32_t(key)), 0x96));
#else
  return a ^ b ^ key;
#endif
}

struct PhiloxLanes {
  using U = U32;
  static WW_INLINE U mix(U a, U b, uint32_t key) { return mix_key(a, b, key); }
  static WW_INLINE void multiply(U a, uint32_t b, U& high, U& low) {
    const U64 even = even_products(a, b);
#if defined(__AVX512F__)
    U32 shifted;  // by a load, since arithmetic is what there is too much of
    asm("vmovshdup %1, %0" : "=v"(shifted) : "m"(a));
    const U64 odd = even_products(shifted, b);
    low = U(_mm512_mask_moveldup_ps(__m512(even), 0xaaaa, __m512(odd)));
    high = U(_mm512_mask_movehdup_ps(__m512(odd), 0x5555, __m512(even)));
#else
    const U64 odd = even_products(bitcast<U32>(bitcast<U64>(a) >> 32), b);
    low = bitcast<U32>((even & 0xffffffffu) | odd << 32);
    high = bitcast<U32>(even >> 32 | (odd & 0xffffffff00000000u));
#endif
  }
};

// Half as many counters, in the lower halves of 64-bit lanes; what is above is left over. Products
// stay where they are, so a round is six instructions.
struct PhiloxWideLanes {
  using U = U64;
  static WW_INLINE U mix(U a, U b, uint32_t key) { return mix_key(a, b, key); }
  static WW_INLINE void multiply(U a, uint32_t b, U& high, U& low) {
    low = even_products(bitcast<U32>(a), b);
    high = low >> 32;
  }
};

template <int kFirst, int... i>
WW_INLINE U64 zip(U64 a, U64 b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (kFirst + i / 2 + i % 2 * int(sizeof...(i)))...);
}

// The halves of the counters [first, first + count), one after the other; room for a multiple of
// kLanes / 2 counters.
inline void random_halves(uint64_t first, int64_t count, uint64_t seed, uint16_t* halves) {
  constexpr int kWide = kLanes / 2;
  constexpr auto kEach = std::make_integer_sequence<int, kWide>();
  const PhiloxKeys keys = philox_keys(seed);
  U64 lane{};
  for (int l = 0; l < kWide; ++l) lane[l] = uint64_t(l);
  for (int64_t i = 0; i < count; i += kWide) {
    const U64 counter[1] = {lane + (first + uint64_t(i))};
    U64 word[1][4];
    philox<PhiloxWideLanes>(counter, counter[0] >> 32, keys, word);
    const U64 low = (word[0][0] & 0xffffffffu) | word[0][1] << 32;
    const U64 high = (word[0][2] & 0xffffffffu) | word[0][3] << 32;
    const U64 out[2] = {zip<0>(low, high, kEach), zip<kWide / 2>(low, high, kEach)};
    memcpy(halves + i * kHalvesOfCounter, out, sizeof out);
  }
}

// v in fp16, rounded by random halves.
WW_INLINE U16 stochastic_half(F32 v, const uint16_t* halves) {
  U16 half;
  memcpy(&half, halves, sizeof half);
  const U32 random = __builtin_convertvector(half, U32) & kHalfBits;
#if defined(__AVX512F__)
  // The definition as it stands, where an instruction can truncate.
  const U32 bits = bitcast<U32>(v), least = (bits & 0x80000000u) | (113u << 23);
  const U32 power = bits & 0xff800000u;  // of two, with the sign
  const F32 unit = bitcast<F32>((power > least ? power : least) - (23u << 23));
  const F32 r = __builtin_convertvector(bitcast<I32>(random), F32);
  constexpr int kTruncate = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
  const __m512 sum = _mm512_fmadd_round_ps(__m512(r), __m512(unit), __m512(v), kTruncate);
  return U16(_mm512_cvtps_ph(sum, kTruncate));
#else
  // Below 2^-14 fp16 has a fixed step, and the sum is one of integers; above, the random bits are
  // added to those that truncation drops.
  const U32 sign = bitcast<U32>(v) >> 16 & 0x8000;
  const I32 bits = bitcast<I32>(v) & 0x7fffffff;
  const F32 magnitude = bitcast<F32>(bits);
  const F32 small = min(magnitude, splat(0x1p-14f));  // what an integer can hold
  const I32 units =
      magnitude < 0x1p-14f ? __builtin_convertvector(small * 0x1p37f, I32) : bits - (112 << 23);
  const I32 sum = bitcast<I32>((bitcast<U32>(units) + random) >> 13);
  const I32 finite = sum < 0x7bff ? sum : splat(int32_t(0x7bff));
  const I32 infinity = splat(int32_t(0x7c00)), nan = splat(int32_t(0x7fff));
  const I32 special = bits > 0x7f800000 ? nan : infinity;
  const U32 code = bitcast<U32>(bits < 0x7f800000 ? finite : special) | sign;
  return __builtin_convertvector(code, U16);
#endif
}

}  // namespace
}  // namespace ww::WW_ISA
