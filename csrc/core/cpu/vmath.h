// SPDX-License-Identifier: Apache-2.0
// exp, log1p, softplus, sigmoid, silu on vectors: at most 2 ulp over all fp32 inputs, measured
// against float64 (tests/test_vector_math.py), with subnormal results, infinities and NaN right.
// For per-ISA files.
//
// exp: Cody-Waite reduction by ln 2 in two parts, then a degree-7 polynomial. log1p: the reduction
// and coefficients of FreeBSD's msun (s = f/(2+f), even polynomial in s), with the rounding error
// of 1 + x carried as a correction; W. Kahan's argument is why that is enough.
#pragma once

#include "core/cpu/simd.h"

namespace ww::WW_ISA {
namespace {

constexpr float kRoundMagic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer

// v * 2^n for an integer n, |n| < 2^22.
WW_INLINE F32 scale_by_power_of_two(F32 v, F32 n) {
#if defined(__AVX512F__)
  return F32(_mm512_scalef_ps(__m512(v), __m512(n)));
#else
  // Two exact steps: only the second can reach the subnormals, so there is one rounding.
  const I32 whole = bitcast<I32>(n + kRoundMagic) - bitcast<I32>(splat(kRoundMagic));
  const I32 half = whole >> 1, rest = whole - half;
  return v * bitcast<F32>((half + 127) << 23) * bitcast<F32>((rest + 127) << 23);
#endif
}

struct Exp { F32 mantissa, n; };  // mantissa * 2^n

// (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2: minimax, relative error of exp 5e-11.
WW_INLINE F32 exp_tail(F32 r) {
  F32 p = splat(1.97902977e-4f);
  p = fma(p, r, splat(1.39447034e-3f));
  p = fma(p, r, splat(8.33349768e-3f));
  p = fma(p, r, splat(4.16662954e-2f));
  p = fma(p, r, splat(1.66666657e-1f));
  p = fma(p, r, splat(0.5f));
  return p;
}

WW_INLINE Exp exp_parts(F32 x) {
  constexpr float kLog2e = 1.44269504f;
  // The high part has 9 bits: n * kLn2Hi is exact.
  constexpr float kLn2Hi = 0.693359375f, kLn2Lo = -2.12194440e-4f;
  const F32 clamped = max(splat(-126.f), min(splat(89.f), x));  // a NaN passes
  const F32 shifted = fma(clamped, splat(kLog2e), splat(kRoundMagic));
  const F32 n = shifted - kRoundMagic;
  const F32 hi = fma(n, splat(-kLn2Hi), clamped);
  const F32 lo = n * kLn2Lo;
  const F32 r = hi - lo;
  const F32 p = exp_tail(r);
  // What rounding r and 1 + r lost goes back in with the small terms: 0.52 ulp instead of 0.98.
  const F32 sum = 1.f + r;
  const F32 small = fma(p, r * r, (hi - r) - lo) + ((1.f - sum) + r);
  return {sum + small, n};
}

WW_INLINE F32 exp(F32 x) {
  const Exp e = exp_parts(x);
  return scale_by_power_of_two(e.mantissa, e.n);
}

// x >= -1.
WW_INLINE F32 log1p(F32 x) {
  constexpr float kLn2Hi = 6.9313812256e-01f, kLn2Lo = 9.0580006145e-06f;
  const F32 u = 1.f + x;
  // Move the exponent split to sqrt(1/2), so that the mantissa lies in [sqrt(1/2), sqrt(2)).
  const I32 bits = bitcast<I32>(u) + (0x3f800000 - 0x3f3504f3);
  const I32 k = (bits >> 23) - 127;
  const F32 mantissa = bitcast<F32>((bits & 0x007fffff) + 0x3f3504f3);
  const F32 lost = k >= 2 ? 1.f - (u - x) : x - (u - 1.f);  // what rounding 1 + x dropped
  const I32 tiny = (k == 0);                                // then f = x carries no rounding at all
  const F32 c = tiny ? F32{} : (k < 25 ? lost / u : F32{});
  const F32 f = tiny ? x : mantissa - 1.f;
  const F32 s = f / (2.f + f), z = s * s, w = z * z;
  const F32 t1 = w * fma(w, splat(0.24279078841f), splat(0.40000972152f));
  const F32 t2 = z * fma(w, splat(0.28498786688f), splat(0.66666662693f));
  const F32 half_square = 0.5f * f * f;
  const F32 kf = __builtin_convertvector(k, F32);
  const F32 value =
      fma(kf, splat(kLn2Hi),
          f - (half_square - (fma(s, half_square + (t2 + t1), fma(kf, splat(kLn2Lo), c)))));
  const F32 inf = splat(__builtin_inff());
  const F32 edge = x == -1.f ? -inf : (x < -1.f ? splat(__builtin_nanf("")) : (x == inf ? inf : x));
  return (x > -1.f) & (x < inf) ? value : edge;
}

WW_INLINE F32 absolute(F32 x) { return bitcast<F32>(bitcast<I32>(x) & 0x7fffffff); }

// log(1 + exp(x)) without overflow. Past 20 this is x to the last bit, the threshold of the SSD
// papers' code.
WW_INLINE F32 softplus(F32 x) { return max(x, F32{}) + log1p(exp(-absolute(x))); }

// 1 / (1 + exp(-x)), written so that exp never overflows. What rounding 1 + e lost is divided out
// to first order; without it the error reaches 2.4 ulp.
WW_INLINE F32 sigmoid(F32 x) {
  const F32 e = exp(-absolute(x));
  const F32 denominator = 1.f + e, lost = e - (denominator - 1.f);
  const F32 q = (x < 0.f ? e : splat(1.f)) / denominator;
  return fma(-q, lost, q);
}

// 1 / v to 1 ulp for normal and infinite v: the 14-bit estimate and a Newton step take a third of a
// division's time. The step is left out where it would multiply 0 by infinity.
WW_INLINE F32 reciprocal(F32 v) {
#if defined(__AVX512F__)
  const __m512 estimate = _mm512_rcp14_ps(__m512(v));
  const __m512 step = _mm512_fnmadd_ps(__m512(v), estimate, _mm512_set1_ps(2.f));
  const __mmask16 finite =
      _mm512_cmp_ps_mask(__m512(v), __m512(splat(__builtin_inff())), _CMP_LT_OQ);
  return F32(_mm512_mask_mul_ps(estimate, finite, estimate, step));
#else
  return 1.f / v;
#endif
}

// x * sigmoid(x). For x < 0 the power of two comes last: exp(x) alone would lose bits to underflow.
// x - x keeps silu(-inf) a NaN, the product -inf * 0 of the definition. The quotient is refined by
// what the product, 1 + exp and the division lost: 1.7 ulp instead of 3.
WW_INLINE F32 silu(F32 x) {
  const Exp e = exp_parts(-absolute(x));
  const F32 power = scale_by_power_of_two(e.mantissa, e.n);
  const F32 denominator = 1.f + power, lost = power - (denominator - 1.f);
  const F32 inf = splat(__builtin_inff());
  const I32 negative = x < 0.f;
  const F32 bounded = x < -126.f ? splat(-126.f) : x;
  const F32 numerator = negative ? fma(bounded, e.mantissa, x - x) : x;
  const F32 inverse = reciprocal(denominator), q = numerator * inverse;
  const F32 product_error = negative ? fma(bounded, e.mantissa, -numerator) : F32{};
  const F32 residual = fma(-q, lost, fma(-q, denominator, numerator)) + product_error;
  const F32 refined = fma(residual, inverse, q);
  return scale_by_power_of_two(x < inf ? refined : x, negative ? e.n : F32{});
}

// 2^t to 1.5 ulp where that is normal, for any t: infinity above 128, NaN for NaN.
WW_INLINE F32 exp2(F32 t) {
#if defined(__AVX512F__)
  const F32 r = F32(_mm512_reduce_ps(__m512(t), _MM_FROUND_TO_NEG_INF));  // t - floor(t)
#else
  t = max(splat(-126.f), min(splat(128.f), t));
  const F32 n = floor(t), r = t - n;
#endif
  F32 p = splat(1.87757667e-3f);
  p = mul_add(p, r, splat(8.98934009e-3f));
  p = mul_add(p, r, splat(5.58263179e-2f));
  p = mul_add(p, r, splat(2.40153617e-1f));
  p = mul_add(p, r, splat(6.93153073e-1f));
  p = mul_add(p, r, splat(9.99999925e-1f));
#if defined(__AVX512F__)
  return F32(_mm512_scalef_ps(__m512(p), __m512(t)));  // which takes the floor of t itself
#else
  return p * bitcast<F32>((__builtin_convertvector(n, I32) + 127) << 23);
#endif
}

// x / (1 + exp(-x)) as it stands, for results that are then rounded to 16 bits: a third of the
// instructions of silu. Its error grows with -x from 3 to 64 ulp at -88, since the argument of exp2
// is rounded once; -0 below -88.7; -inf still gives NaN.
WW_INLINE F32 silu_coarse(F32 x) { return x * reciprocal(1.f + exp2(x * -1.44269504f)); }

// silu as the storage type T of the result deserves it.
template <typename T>
WW_INLINE F32 silu_for(F32 x) {
  return sizeof(T) == 2 ? silu_coarse(x) : silu(x);
}

}  // namespace
}  // namespace ww::WW_ISA
