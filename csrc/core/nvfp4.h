// SPDX-License-Identifier: Apache-2.0
// The encoder of NVFP4, one implementation for CPU and CUDA. A lane has a block of 16 elements to
// itself, so nothing crosses lanes: a float of a CUDA thread, or a vector of a CPU. `L` says which:
//
//   L::F, L::I, L::U                          float, int32_t and uint32_t, or vectors of them
//   L::to_float(U), below 2^24                -> F
//   L::multiply()                             as for philox()
//   L::min(F, F)
//   L::mul_add(F a, F b, F c)                 a * b + c, rounded once or twice
//   L::add_square(F sum, F v)                 sum + v * v, rounded twice
//   L::any(v == w)                            in one lane at least
//   L::quotient(F v, F divisor, F reciprocal) v / divisor, as for divisors from 2^-100 to 2^100
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

// v / divisor for L::quotient() where products are fused, from the correctly rounded reciprocal:
// the first step leaves an error below an ulp, and the second rounds as a division would
// (Markstein, IBM J. Res. Dev. 34, 1990).
template <typename F, typename Fma>
WW_LANES F fused_quotient(F v, F divisor, F reciprocal, const Fma& fma) {
  F q = v * reciprocal;
  q = fma(fma(-q, divisor, v), reciprocal, q);
  return fma(fma(-q, divisor, v), reciprocal, q);
}

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

template <typename L>
WW_LANES Rounded<L> round_to_e2m1(typename L::F v) {
  return round_to_format<L, 1, 0>(L::min(v, typename L::F{} + 6.f));
}

// What a block is divided by, 0 where its codes are all 0.
template <typename L>
struct Nvfp4Scale {
  typename L::I code;  // e4m3
  typename L::F value, divisor;
};

// `top` is the E2M1 value that amax goes to. What has no finite scale gets NaN and no codes.
template <typename L>
WW_LANES Nvfp4Scale<L> nvfp4_scale(typename L::F amax, float top, typename L::F global_scale) {
  using F = typename L::F;
  using I = typename L::I;
  const F v = amax / top / global_scale;
  const Rounded<L> r = round_to_format<L, 3, -6>(L::min(v, F{} + 448.f));
  const I nan = I{} + 0x7f;
  const I code = global_scale > 0.f ? (lanes_cast<I>(amax) < kInfinityBits ? r.code : nan) : nan;
  const F divisor = r.value * global_scale;
  return {code, r.value, divisor > 0.f ? (code < nan ? divisor : F{}) : F{}};
}

// The sum of squared errors of rounding to nearest, over the divisor's square.
template <typename L>
WW_LANES typename L::F nvfp4_squares(const typename L::F (&v)[kNvfp4Block], typename L::F divisor) {
  using F = typename L::F;
  F total{};
  WW_UNROLL
  for (int k = 0; k < kNvfp4Block; ++k) {
    const F q = magnitude<L>(v[k]) / divisor;
    total = L::add_square(total, q - round_to_e2m1<L>(q).value);
  }
  return total;
}

// Four over six: of the scales that take amax to 6 and to 4, the one with the smaller error.
template <typename L>
WW_LANES Nvfp4Scale<L> nvfp4_better(const Nvfp4Scale<L>& six, typename L::F squares_six,
                                    const Nvfp4Scale<L>& four, typename L::F squares_four) {
  using F = typename L::F;
  const F infinity = lanes_cast<F>(typename L::I{} + kInfinityBits);
  const F error_six = six.divisor > 0.f ? squares_six * (six.value * six.value) : infinity;
  const F error_four = four.divisor > 0.f ? squares_four * (four.value * four.value) : infinity;
  const auto fewer = error_four < error_six;
  return {fewer ? four.code : six.code, fewer ? four.value : six.value,
          fewer ? four.divisor : six.divisor};
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

// The code of q <= 6 below or above it, above with the probability of the way there.
template <typename L>
WW_LANES typename L::I e2m1_stochastic(typename L::F q, typename L::U word) {
  using F = typename L::F;
  using I = typename L::I;
  const I one = I{} + (127 << 23), bits = lanes_cast<I>(q);
  const F step = lanes_cast<F>(((bits > one ? bits : one) & kInfinityBits) - (1 << 23));
  const Rounded<L> r = round_to_format<L, 1, 0>(q);
  const auto above = r.value > q;
  const F low = above ? r.value - step : r.value;
  const auto up = L::to_float(word >> 8) * (step * 0x1p-24f) < q - low;  // all of it exact
  return (above ? r.code - 1 : r.code) + (up ? I{} + 1 : I{});
}

// The code of q >= 0 rounded to nearest, plus kCodeBase. E2M1 is concave in its codes: code =
// min(2 q, q + 2, q / 2 + 4, 7), and adding 2^23 rounds each of these once, ties to the even code.
constexpr uint32_t kCodeBase = 0x4b000000;  // the bits of 2^23
template <typename L>
WW_LANES typename L::I e2m1_nearest(typename L::F q) {
  using F = typename L::F;
  constexpr float kMagic = 0x1p23f;
  const F small = L::mul_add(q, F{} + 2.f, F{} + kMagic), middle = q + (kMagic + 2.f);
  const F large = L::mul_add(q, F{} + 0.5f, F{} + (kMagic + 4.f));
  return lanes_cast<typename L::I>(
      L::min(L::min(small, middle), L::min(large, F{} + (kMagic + 7.f))));
}

template <typename L>
WW_LANES typename L::I with_sign(typename L::I code, typename L::F v) {
  return v < 0.f ? code | 8 : code;
}

// Packs the codes of the 16 elements, the first in the lowest bits; code(k) is too large by kBase.
template <typename L, uint32_t kBase, typename Code>
WW_LANES void nvfp4_pack(const Code& code, typename L::F divisor, typename L::U (&words)[2]) {
  using U = typename L::U;
  WW_UNROLL
  for (int w = 0; w < 2; ++w) {
    U word = U{} - kBase * 0x11111111u;
    WW_UNROLL
    for (int k = 0; k < 8; ++k) word += lanes_cast<U>(code(8 * w + k)) << (4 * k);
    words[w] = divisor > 0.f ? word : U{};
  }
}

// To nearest, for divisors of any size. Apart on CPUs, or its registers would be those of the usual
// case.
template <typename L>
WW_HD WW_COLD void nvfp4_divide(const typename L::F (&v)[kNvfp4Block], typename L::F divisor,
                                typename L::U (&words)[2]) {
  const auto code = [&](int k) {
    return with_sign<L>(e2m1_nearest<L>(magnitude<L>(v[k]) / divisor), v[k]);
  };
  nvfp4_pack<L, kCodeBase>(code, divisor, words);
}

// To nearest. L::quotient() is as good as a division while its products are no subnormals.
template <typename L>
WW_LANES void nvfp4_codes(const typename L::F (&v)[kNvfp4Block], typename L::F divisor,
                          typename L::U (&words)[2]) {
  using F = typename L::F;
  const F live = divisor > 0.f ? divisor : F{} + 1.f, reciprocal = 1.f / live;
  if (L::any(live < 0x1p-100f) || L::any(live > 0x1p100f)) {
    nvfp4_divide<L>(v, divisor, words);
    return;
  }
  const auto code = [&](int k) {
    return with_sign<L>(e2m1_nearest<L>(L::quotient(magnitude<L>(v[k]), live, reciprocal)), v[k]);
  };
  nvfp4_pack<L, kCodeBase>(code, divisor, words);
}

// Stochastic, with the random words of the counters from the block's first element / 4 on.
template <typename L>
WW_LANES void nvfp4_codes(const typename L::F (&v)[kNvfp4Block], typename L::F divisor,
                          typename L::U low, typename L::U high, uint64_t seed,
                          typename L::U (&words)[2]) {
  using F = typename L::F;
  typename L::U random[4];
  const auto code = [&](int k) {
    if (k % 4 == 0) philox<L>(low + uint32_t(k / 4), high, seed, random);
    const F q = magnitude<L>(v[k]) / divisor;
    return with_sign<L>(e2m1_stochastic<L>(L::min(q, F{} + 6.f), random[k % 4]), v[k]);
  };
  nvfp4_pack<L, 0>(code, divisor, words);
}

}  // namespace ww
