// SPDX-License-Identifier: Apache-2.0
// Tokens in fixed point, as digits that byte products take: NVFP4 weights times bf16 tokens without
// widening the weights. For per-ISA files.
//
// E2M1 times 2, plus 12, is a byte 0 .. 24. The 8 elements that meet one 32-bit lane of codes are
// integers of one unit, 2^-21 of the power of two at or below the largest of them, and those are
// three signed digits of base 256. Sums of 4 products of bytes are exact in 32 bits, and so is the
// sum of all digits of a lane: it is rounded for the first time when it is widened to fp32.
//
// The 8 bits of an element are all kept unless it is smaller than 2^-14 of the largest of its lane.
// A token is taken only if that changes it by no more than 2^-24 of the sum of its magnitudes,
// which is what one addition in fp32 may change; other tokens, and those not finite, stay fp32.
#pragma once

#include "core/cpu/decode.h"

namespace ww::WW_ISA {
namespace {

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
constexpr bool kHasDigits = true;

struct alignas(64) Digits {  // of 128 elements, in place of as many fp32
  int8_t digit[3][2][64];    // lowest first; of those that meet even and odd codes
  I32 offset;                // -12 times the sum of each lane
  F32 unit;                  // half of it, because the weights are doubled
};
static_assert(sizeof(Digits) == 128 * sizeof(float));

// Byte i of lane p of digits[d] is byte d of lane p of v[2 * i].
WW_INLINE void split_bytes(const U32* v, U32 (&digits)[3]) {
  const uint32_t kEven = 0x00ff00ff, kLow = 0xffff;
  U32 even[2], odd[2];  // bytes 0 and 2, bytes 1 and 3, of two vectors
  for (int i = 0; i < 2; ++i) {
    const U32 a = v[4 * i], b = v[4 * i + 2];
    even[i] = (a & kEven) | (b & kEven) << 8;
    odd[i] = (a >> 8 & kEven) | (b & ~kEven);
  }
  digits[0] = (even[0] & kLow) | even[1] << 16;
  digits[1] = (odd[0] & kLow) | odd[1] << 16;
  digits[2] = even[0] >> 16 | (even[1] & ~kLow);
}

// k elements, a multiple of 128: of every 128, vector q holds those of codes q, q + 8, .. False if
// they are not to be taken; they are lost then.
inline bool to_digits(float* token, int64_t k) {
  constexpr uint32_t kExponent = 0x7f800000, kMagnitude = 0x7fffffff, kOne = 1 << 23;
  U32 largest{};
  F32 changed{}, magnitudes{};
  for (float* block = token; block < token + k; block += 128) {
    F32 v[8];
    U32 top = U32{} + 23 * kOne;  // so that units and their reciprocals are normal
    for (int q = 0; q < 8; ++q) {
      v[q] = load(block + q * kLanes);
      const U32 magnitude = bitcast<U32>(v[q]) & kMagnitude;
      magnitudes += bitcast<F32>(magnitude);
      top = magnitude > top ? magnitude : top;
    }
    largest = top > largest ? top : largest;
    top &= kExponent;
    const F32 unit = bitcast<F32>(top - 21 * kOne), units = bitcast<F32>(275 * kOne - top);
    U32 biased[8];
    I32 total{};
    for (int q = 0; q < 8; ++q) {
      const I32 integer = I32(_mm512_cvtps_epi32(__m512(v[q] * units)));
      const F32 difference = v[q] - __builtin_convertvector(integer, F32) * unit;
      changed += bitcast<F32>(bitcast<U32>(difference) & kMagnitude);
      total += integer;
      biased[q] = U32(integer) + 0x808080u;  // so that every byte is a digit plus 128
    }
    Digits out;
    out.offset = total * -12;
    out.unit = unit * .5f;
    for (int parity = 0; parity < 2; ++parity) {
      U32 digits[3];
      split_bytes(biased + parity, digits);
      for (int d = 0; d < 3; ++d) {
        const U32 bytes = digits[d] ^ 0x80808080u;
        memcpy(out.digit[d][parity], &bytes, sizeof bytes);
      }
    }
    memcpy(block, &out, sizeof out);
  }
  return !any(I32(largest >= kExponent)) && sum(changed) <= 0x1p-24f * sum(magnitudes);
}

// total[m][0] += the products of a vector of NVFP4 codes with tokens x[m], given as digits; scale
// is that of each lane's block.
template <int M, typename Total>
WW_INLINE void add_digit_products(U32 codes, const float* const* x, F32 scale, Total* total) {
  // A permutation looks at 6 bits of an index, so the table is there once for every value of the
  // two above the code.
  constexpr Bytes kTwice = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
  const __m512i table = _mm512_broadcast_i32x4(__m128i(kTwice));
  const __m512i even = _mm512_permutexvar_epi8(__m512i(codes), table);
  const __m512i odd = _mm512_permutexvar_epi8(_mm512_srli_epi16(__m512i(codes), 4), table);
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) {
    const Digits& token = *reinterpret_cast<const Digits*>(x[m]);
    I32 sums[3] = {token.offset};
#pragma GCC unroll 3
    for (int d = 0; d < 3; ++d) {
      const __m512i of_even = _mm512_load_si512(token.digit[d][0]);
      const __m512i of_odd = _mm512_load_si512(token.digit[d][1]);
      const __m512i half = _mm512_dpbusd_epi32(__m512i(sums[d]), even, of_even);
      sums[d] = I32(_mm512_dpbusd_epi32(half, odd, of_odd));
    }
    const I32 all = sums[0] + (sums[1] << 8) + (sums[2] << 16);
    total[m][0] = mul_add(__builtin_convertvector(all, F32) * token.unit, scale, total[m][0]);
  }
}
#else
constexpr bool kHasDigits = false;
#endif

}  // namespace
}  // namespace ww::WW_ISA
