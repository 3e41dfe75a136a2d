// SPDX-License-Identifier: Apache-2.0
// The encoder of NVFP4, one implementation for CPU and CUDA. A lane has a block of 16 elements to
// itself, so nothing crosses lanes: a float of a CUDA thread, or a vector of a CPU. `L` says which:
//
//   L::F, L::I, L::U                          float, int32_t and uint32_t, or vectors of them
//   L::multiply(), L::mix()                   as for philox()
//   L::min(F v, F b), max, min_magnitude      of v and b, or |v| and b; if v is NaN b
//   L::mul_add(F a, F b, F c)                 a * b + c, rounded once or twice
//   L::add_square(F sum, F v)                 sum + v * v, rounded twice
//   L::any(v == w)                            in one lane at least
//   L::any_above(F v, float w)                v > w, or v is NaN, in one lane at least
//   L::or_sign(U a, F v)                      a, with the uppermost bit of v in its own
//   L::round_up(F v), 0 <= v < 2^30           -> U
//   L::quotient(F v, F divisor, F reciprocal) v / divisor, +0 for v = -0; where L::kDivides always,
//                                             else as nvfp4_usual() and those after it say
//
// Every quotient and product is rounded once, in the order written here, so that all lanes of all
// machines have the same bits: without contraction, and with IEEE division.
#pragma once

#include "core/philox.h"

#if defined(__CUDACC__)
#define WW_COLD static inline
#else
#define WW_COLD static __attribute__((noinline))
#endif

namespace ww {

constexpr int kNvfp4Block = 16;
constexpr int32_t kInfinityBits = 0x7f800000;

template <typename To, typename From>
WW_LANES To lanes_cast(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  memcpy(&out, &v, sizeof out);
  return out;
}

template <typename L>
WW_LANES typename L::F magnitude(typename L::F v) {
  return lanes_cast<typename L::F>(lanes_cast<typename L::I>(v) & 0x7fffffff);
}

// v / divisor for L::quotient() where products are fused, from the correctly rounded reciprocal
// (Markstein, IBM J. Res. Dev. 34, 1990). One step is enough for fp32: it leaves an error of 3.5
// 2^-24 ulp at most, and of all quotients that lie so close to where the rounding changes (there
// are 46 million, from congruences) none comes out wrong.
template <typename F, typename Fma>
WW_LANES F fused_quotient(F v, F divisor, F reciprocal, const Fma& fma) {
  const F q = v * reciprocal;
  return fma(fma(-q, divisor, v), reciprocal, q);
}

// L with a quotient that serves always. Adding 0 makes +0 of -0.
template <typename L>
struct Dividing : L {
  using F = typename L::F;
  static constexpr bool kDivides = true;
  WW_LANES F quotient(F v, F divisor, F) { return (v + 0.f) / divisor; }
};

// A magnitude rounded to a format with kMantissa bits, subnormal below 2^kMinExponent, and its
// code; 0 <= v, and not above the format's largest. See round_to_grid() for the adder that rounds.
template <typename L>
struct Rounded {
  typename L::F value;
  typename L::I code;
};
template <typename L, int kMantissa, int kMinExponent>
WW_LANES Rounded<L> round_to_format(typename L::F v) {
  using F = typename L::F;
  using I = typename L::I;
  const I least = I{} + ((kMinExponent + 127) << 23), bits = lanes_cast<I>(v);
  const I exponent = (bits > least ? bits : least) & kInfinityBits;
  const I magic = exponent + ((23 - kMantissa) << 23);
  const F sum = v + lanes_cast<F>(magic);
  return {sum - lanes_cast<F>(magic),
          lanes_cast<I>(sum) - magic + ((exponent - least) >> (23 - kMantissa))};
}

// What a block is divided by, and the reciprocal. Where the divisor is not positive all codes are
// 0, and the reciprocal is 1.
template <typename F, typename I>
struct Nvfp4Scale {
  I code;  // e4m3
  F value, divisor, reciprocal;
};
template <typename L>
using Nvfp4ScaleOf = Nvfp4Scale<typename L::F, typename L::I>;

// Whether L::quotient() serves under a global scale: divisors are from 2^-89 to 2^29 then, and what
// it makes of magnitudes below 2^-102, whose remainders are subnormal, is less than 2^-12.
WW_HD static inline bool nvfp4_usual(float global_scale) {
  return global_scale >= 0x1p-80f && global_scale <= 0x1p20f;
}

// f(L{}), or where L::quotient() does not serve f(Dividing<L>{}): apart on CPUs, or its registers
// would be those of the usual case.
template <typename L, typename F>
WW_HD WW_COLD void nvfp4_divide(const F& f) {
  f(Dividing<L>{});
}
template <typename L, typename F>
WW_LANES void nvfp4_with_quotients(bool usual, const F& f) {
  if (usual)
    f(L{});
  else
    nvfp4_divide<L>(f);
}

// `top` is the E2M1 value that amax goes to. What has no finite scale gets NaN and no codes.
template <typename L>
WW_LANES Nvfp4ScaleOf<L> nvfp4_scale(typename L::F amax, float top, float global_scale) {
  using F = typename L::F;
  using I = typename L::I;
  const F to_top = L::quotient(amax, F{} + top, F{} + 1.f / top);
  const F v = L::quotient(to_top, F{} + global_scale, F{} + 1.f / global_scale);
  const Rounded<L> r = round_to_format<L, 3, -6>(L::min(v, F{} + 448.f));
  const auto finite = lanes_cast<I>(amax) < kInfinityBits;
  const I nan = I{} + 0x7f;
  const F value = finite ? r.value : F{}, divisor = value * global_scale;
  return {global_scale > 0.f ? (finite ? r.code : nan) : nan, value, divisor,
          1.f / (divisor > 0.f ? divisor : F{} + 1.f)};
}

// Whether quotients are at most so large, and x finite. Larger ones might overflow on the way.
constexpr float kUsualQuotient = 0x1p90f;
template <typename L>
WW_LANES bool nvfp4_bounded(typename L::F amax, const Nvfp4ScaleOf<L>& scale, float most) {
  return !L::any_above(amax * scale.reciprocal, most);
}

// Whether L::quotient() serves where more than rounding to nearest is at stake, the square of a
// small quotient or that it is not 0. By divisors from 2^-27 to 1 the quotients of magnitudes below
// 2^-102 have a square of 0 and are not 0 themselves; else there must be no such magnitudes.
template <typename L>
WW_LANES bool nvfp4_exact(const typename L::F (&v)[kNvfp4Block], const Nvfp4ScaleOf<L>& scale) {
  using U = typename L::U;
  if (!L::any_above(scale.reciprocal, 0x1p27f) && !L::any_above(-scale.reciprocal, -1.f))
    return true;
  U least = ~U{};  // of the magnitudes less 1, so that 0 is the largest
  WW_UNROLL
  for (int k = 0; k < kNvfp4Block; ++k) {
    const U bits = (lanes_cast<U>(v[k]) & 0x7fffffffu) - 1;
    least = bits < least ? bits : least;
  }
  return !L::any(least < (25u << 23));
}

// q >= 0 less the nearest E2M1 value. A q of 7 or more has to come from a division.
template <typename L>
WW_LANES typename L::F e2m1_error(typename L::F q) {
  using F = typename L::F;
  const F power = lanes_cast<F>(lanes_cast<typename L::I>(L::max(q, F{} + 1.f)) & kInfinityBits);
  const F sum = L::mul_add(power, F{} + 0x1p22f, q);  // the products are exact
  const F rounded = L::mul_add(power, F{} - 0x1p22f, sum);
  return q - (L::kDivides ? L::min(rounded, F{} + 6.f) : rounded);
}

// Adds the squared errors of rounding to nearest with two scales, over their divisors' squares.
template <typename L>
WW_LANES void nvfp4_squares(const typename L::F (&v)[kNvfp4Block], const Nvfp4ScaleOf<L>& six,
                            const Nvfp4ScaleOf<L>& four, typename L::F (&squares)[2]) {
  using F = typename L::F;
  F sums[2] = {};
  WW_UNROLL
  for (int k = 0; k < kNvfp4Block; ++k) {
    const F of = magnitude<L>(v[k]);
    sums[0] = L::add_square(sums[0], e2m1_error<L>(L::quotient(of, six.divisor, six.reciprocal)));
    sums[1] = L::add_square(sums[1], e2m1_error<L>(L::quotient(of, four.divisor, four.reciprocal)));
  }
  squares[0] += sums[0], squares[1] += sums[1];
}

// Four over six: of the scales that take amax to 6 and to 4, the one with the smaller error.
template <typename L>
WW_LANES Nvfp4ScaleOf<L> nvfp4_better(const Nvfp4ScaleOf<L>& six, typename L::F squares_six,
                                      const Nvfp4ScaleOf<L>& four, typename L::F squares_four) {
  using F = typename L::F;
  const F infinity = lanes_cast<F>(typename L::I{} + kInfinityBits);
  const F error_six = six.divisor > 0.f ? squares_six * (six.value * six.value) : infinity;
  const F error_four = four.divisor > 0.f ? squares_four * (four.value * four.value) : infinity;
  const auto fewer = error_four < error_six;
  return {fewer ? four.code : six.code, fewer ? four.value : six.value,
          fewer ? four.divisor : six.divisor, fewer ? four.reciprocal : six.reciprocal};
}

// v diag(s) H / 4, H the Sylvester matrix of order 16.
template <typename L>
WW_LANES void nvfp4_hadamard(typename L::F (&v)[kNvfp4Block]) {
  using F = typename L::F;
  constexpr uint32_t kNegative = 0b1101'0111'1110'1000;  // bit k is the sign of s[k]
  WW_UNROLL
  for (int k = 0; k < kNvfp4Block; ++k)
    if (kNegative >> k & 1) v[k] = -v[k];
  WW_UNROLL
  for (int log = 0; log < 4; ++log) {
    WW_UNROLL
    for (int k = 0; k < kNvfp4Block; ++k) {
      const int h = 1 << log;
      if (k & h) continue;
      const F a = v[k], b = v[k | h];
      v[k] = a + b, v[k | h] = a - b;
    }
  }
  WW_UNROLL
  for (int k = 0; k < kNvfp4Block; ++k) v[k] = v[k] * 0.25f;
}

// NaN is above infinity.
template <typename L>
WW_LANES typename L::F nvfp4_amax(const typename L::F (&v)[kNvfp4Block]) {
  using I = typename L::I;
  I largest{};
  WW_UNROLL
  for (int k = 0; k < kNvfp4Block; ++k) {
    const I bits = lanes_cast<I>(v[k]) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  return lanes_cast<typename L::F>(largest);
}

// The code of 0 <= q <= 6 rounded to nearest, plus the bits of 2^23. E2M1 is concave in its codes:
// code = min(2 q, q + 2, q / 2 + 4), and adding 2^23 rounds each of these once, ties to the even
// code.
template <typename L>
WW_LANES typename L::U e2m1_nearest(typename L::F q) {
  using F = typename L::F;
  constexpr float kMagic = 0x1p23f;
  const F small = L::mul_add(q, F{} + 2.f, F{} + kMagic), middle = q + (kMagic + 2.f);
  const F large = L::mul_add(q, F{} + 0.5f, F{} + (kMagic + 4.f));
  return lanes_cast<typename L::U>(L::min(L::min(small, middle), large));
}

// The code of 0 <= q / 2^29 <= 6 below or above it, above with the probability of the way there.
// With 28 bits behind the point codes are linear below q = 2^29, and the float's bits from there
// on.
template <typename L>
WW_LANES typename L::U e2m1_stochastic(typename L::F q, typename L::U word) {
  using U = typename L::U;
  const U large = (lanes_cast<U>(q) << 6) + (5u << 29);
  const U code = q < 0x1p29f ? L::round_up(q) : large;
  const U rest = (~(word >> 4) & 0x0ffffff0u) | 15;  // 2^28 - 1 - (word >> 8) * 16
  return (code + rest) >> 28;
}

template <typename U>
WW_LANES U rotated(U v, int bits) {
  return bits ? v << bits | v >> (32 - bits) : v;
}

// Packs 16 codes, the first in the lowest bits. code(k) is too large by kBase below its uppermost
// bit, and q[k] has its sign. The sign of the element before comes along in the uppermost bit, and
// rotating puts it where it belongs.
template <typename L, uint32_t kBase, typename Code>
WW_LANES void nvfp4_pack(const typename L::F (&q)[kNvfp4Block], const Code& code,
                         typename L::F divisor, typename L::U (&words)[2]) {
  using U = typename L::U;
  WW_UNROLL
  for (int w = 0; w < 2; ++w) {
    U word{};
    uint32_t base = 0;
    WW_UNROLL
    for (int k = 0; k < 8; ++k) {
      word ^= rotated(L::or_sign(code(8 * w + k), q[8 * w + (k + 7) % 8]), 4 * k);
      base ^= rotated(kBase, 4 * k);
    }
    words[w] = divisor > 0.f ? word ^ base : U{};
  }
}

// To nearest.
template <typename L>
WW_LANES void nvfp4_codes(const typename L::F (&v)[kNvfp4Block], const Nvfp4ScaleOf<L>& scale,
                          typename L::U (&words)[2]) {
  using F = typename L::F;
  F q[kNvfp4Block];
  WW_UNROLL
  for (int k = 0; k < kNvfp4Block; ++k) q[k] = L::quotient(v[k], scale.divisor, scale.reciprocal);
  const auto code = [&](int k) { return e2m1_nearest<L>(L::min_magnitude(q[k], F{} + 6.f)); };
  nvfp4_pack<L, 0x4b000000>(q, code, scale.divisor, words);
}

// Stochastic, with the random words of the counters from the block's first element / 4 on.
template <typename L>
WW_LANES void nvfp4_codes(const typename L::F (&v)[kNvfp4Block], const Nvfp4ScaleOf<L>& scale,
                          typename L::U low, typename L::U high, const PhiloxKeys& keys,
                          typename L::U (&words)[2]) {
  using F = typename L::F;
  const typename L::U counters[4] = {low, low + 1, low + 2, low + 3};
  typename L::U random[4][4];
  philox<L>(counters, high, keys, random);
  // Scaled for e2m1_stochastic(), where a subnormal divisor is not at stake.
  constexpr float kScale = L::kDivides ? 1.f : 0x1p29f;
  const F divisor = scale.divisor * (1.f / kScale), reciprocal = scale.reciprocal * kScale;
  F q[kNvfp4Block];
  WW_UNROLL
  for (int k = 0; k < kNvfp4Block; ++k)
    q[k] = L::quotient(v[k], divisor, reciprocal) * (0x1p29f / kScale);
  const auto code = [&](int k) {
    return e2m1_stochastic<L>(L::min_magnitude(q[k], F{} + 6 * 0x1p29f), random[k / 4][k % 4]);
  };
  nvfp4_pack<L, 0>(q, code, scale.divisor, words);
}

}  // namespace ww
