// SPDX-License-Identifier: Apache-2.0
// core/philox.h on a CPU's vectors: a counter in each lane.
#pragma once

#include <type_traits>
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

struct PhiloxLanes {
  using U = U32;
  static WW_INLINE void multiply(U a, uint32_t b, U& high, U& low) {
    const U64 even = even_products(a, b);
    const U64 odd = even_products(bitcast<U32>(bitcast<U64>(a) >> 32), b);
    low = bitcast<U32>((even & 0xffffffffu) | odd << 32);
    high = bitcast<U32>(even >> 32 | (odd & 0xffffffff00000000u));
  }
};

// The lanes of a and b in turn: of their lower halves, and of their upper ones.
template <int kFirst, typename V, int... i>
WW_INLINE V zip(V a, V b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (kFirst + i / 2 + i % 2 * int(sizeof...(i)))...);
}
template <typename V>
WW_INLINE void zip(V a, V b, V& low, V& high) {
  constexpr int kSize = int(sizeof(V) / sizeof(V{}[0]));
  low = zip<0>(a, b, std::make_integer_sequence<int, kSize>());
  high = zip<kSize / 2>(a, b, std::make_integer_sequence<int, kSize>());
}

// The halves of the counters [first, first + count), one after the other; room for a multiple of
// kLanes counters.
inline void random_halves(uint64_t first, int64_t count, uint64_t seed, uint16_t* halves) {
  U32 lane{};
  for (int l = 0; l < kLanes; ++l) lane[l] = uint32_t(l);
  for (int64_t i = 0; i < count; i += kLanes) {
    const uint64_t counter = first + uint64_t(i);
    const U32 low = lane + uint32_t(counter);
    const U32 carry = bitcast<U32>(low < lane) >> 31;
    U32 word[4], pair[4];
    philox<PhiloxLanes>(low, carry + uint32_t(counter >> 32), seed, word);
    zip(word[0], word[1], pair[0], pair[1]);
    zip(word[2], word[3], pair[2], pair[3]);
    U64 out[4];
    zip(bitcast<U64>(pair[0]), bitcast<U64>(pair[2]), out[0], out[1]);
    zip(bitcast<U64>(pair[1]), bitcast<U64>(pair[3]), out[2], out[3]);
    memcpy(halves + i * kHalvesOfCounter, out, sizeof out);
  }
}

// v in fp16, rounded by random halves. Below 2^-14 fp16 has a fixed step, and the sum is one of
// integers; above, the random bits are added to those that truncation drops.
WW_INLINE U16 stochastic_half(F32 v, const uint16_t* halves) {
  U16 half;
  memcpy(&half, halves, sizeof half);
  const U32 random = __builtin_convertvector(half, U32) & kHalfBits;
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
}

}  // namespace
}  // namespace ww::WW_ISA
