// SPDX-License-Identifier: Apache-2.0
// Scalar conversions between fp32 and the storage types: one implementation for CPU and CUDA.
//
// Every encoder rounds to nearest, ties to even. What does not fit:
//   bf16, f16   overflow gives infinity; NaN stays NaN (quiet, sign kept)
//   e4m3        from_float: NaN past the rounding range of 448, as in IEEE; saturate: +-448
//   e2m1        always saturates to +-6; NaN has no code and gives 6 with the NaN's sign
// Functions are static: a per-ISA object must not export an inline body that another ISA could
// link.
#pragma once

#include <stdint.h>
#include <string.h>

#include "core/types.h"

#if defined(__CUDACC__)
#define WW_HD __host__ __device__
#else
#define WW_HD
#endif

namespace ww {

WW_HD static inline uint32_t float_bits(float v) {
  uint32_t u;
  memcpy(&u, &v, sizeof u);
  return u;
}

WW_HD static inline float bits_float(uint32_t u) {
  float v;
  memcpy(&v, &u, sizeof v);
  return v;
}

WW_HD static inline float to_float(float v) { return v; }

WW_HD static inline float to_float(bf16_t v) { return bits_float(uint32_t(v.bits) << 16); }

WW_HD static inline float to_float(f16_t v) {
  const uint32_t sign = uint32_t(v.bits & 0x8000) << 16, exp = (v.bits >> 10) & 31,
                 man = v.bits & 1023;
  if (exp == 31) return bits_float(sign | 0x7f800000 | (man << 13));
  if (exp != 0) return bits_float(sign | ((exp + 112) << 23) | (man << 13));
  const float magnitude = float(man) * 0x1p-24f;  // exact: subnormals are multiples of 2^-24
  return sign ? -magnitude : magnitude;
}

WW_HD static inline float to_float(e4m3_t v) {
  const uint32_t sign = uint32_t(v.bits & 0x80) << 24, exp = (v.bits >> 3) & 15, man = v.bits & 7;
  if (exp == 15 && man == 7) return bits_float(sign | 0x7fc00000);
  if (exp != 0) return bits_float(sign | ((exp + 120) << 23) | (man << 20));
  const float magnitude = float(man) * 0x1p-9f;
  return sign ? -magnitude : magnitude;
}

WW_HD static inline float to_float(e2m1_t v) {
  const uint32_t sign = uint32_t(v.bits & 8) << 28, exp = (v.bits >> 1) & 3, man = v.bits & 1;
  if (exp != 0) return bits_float(sign | ((exp + 126) << 23) | (man << 22));
  return bits_float(sign | (man ? 0x3f000000 : 0));
}

#if !defined(__CUDACC__)  // core/cuda/math.cuh has its own
// Element i of a small parameter vector that keeps its own dtype.
static inline float load_param(const void* base, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::bf16: return to_float(static_cast<const bf16_t*>(base)[i]);
    case DType::f16: return to_float(static_cast<const f16_t*>(base)[i]);
    case DType::f32: break;
  }
  return static_cast<const float*>(base)[i];
}
#endif

// Rounds |v| to `mantissa` bits at exponents >= min_exp (below it the grid is the subnormal one)
// and returns it as fp32, exactly. Adding 2^(e+23-mantissa) makes the fp32 adder round at the
// wanted bit.
WW_HD static inline float round_to_grid(float magnitude, int mantissa, int min_exp) {
  const int biased = int(float_bits(magnitude) >> 23);
  const int exp = biased - 127 > min_exp ? biased - 127 : min_exp;
  const float magic = bits_float(uint32_t(exp + 23 - mantissa + 127) << 23);
  return (magnitude + magic) - magic;
}

template <typename T>
WW_HD static inline T from_float(float v);

template <>
WW_HD inline float from_float<float>(float v) {
  return v;
}

template <>
WW_HD inline bf16_t from_float<bf16_t>(float v) {
  const uint32_t u = float_bits(v);
  if ((u & 0x7fffffff) > 0x7f800000) return {uint16_t((u >> 16) | 0x40)};
  return {uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16)};
}

template <>
WW_HD inline f16_t from_float<f16_t>(float v) {
  const uint32_t u = float_bits(v), sign = (u >> 16) & 0x8000, mag = u & 0x7fffffff;
  if (mag > 0x7f800000) return {uint16_t(sign | 0x7e00 | ((mag >> 13) & 0x1ff))};
  if (mag >= 0x477ff000) return {uint16_t(sign | 0x7c00)};  // 65520 and above rounds to infinity
  const float r = round_to_grid(bits_float(mag), 10, -14);
  if (r < 0x1p-14f) return {uint16_t(sign | uint32_t(r * 0x1p24f))};
  return {uint16_t(sign | ((float_bits(r) - (112u << 23)) >> 13))};
}

WW_HD static inline e4m3_t e4m3_saturate(float v) {
  const uint32_t u = float_bits(v), sign = (u >> 24) & 0x80, mag = u & 0x7fffffff;
  if (mag > 0x7f800000) return {uint8_t(sign | 0x7f)};
  const float clamped = bits_float(mag) > 448.f ? 448.f : bits_float(mag);
  const float r = round_to_grid(clamped, 3, -6);
  if (r < 0x1p-6f) return {uint8_t(sign | uint32_t(r * 0x1p9f))};
  return {uint8_t(sign | ((float_bits(r) - (120u << 23)) >> 20))};
}

template <>
WW_HD inline e4m3_t from_float<e4m3_t>(float v) {
  const uint32_t mag = float_bits(v) & 0x7fffffff;
  if (mag > 0x43e80000) return {uint8_t(((float_bits(v) >> 24) & 0x80) | 0x7f)};  // above 464
  return e4m3_saturate(v);
}

template <>
WW_HD inline e2m1_t from_float<e2m1_t>(float v) {
  const uint32_t u = float_bits(v), sign = (u >> 28) & 8, mag = u & 0x7fffffff;
  if (!(bits_float(mag) < 6.f)) return {uint8_t(sign | 7)};
  const float r = round_to_grid(bits_float(mag), 1, 0);
  if (r < 1.f) return {uint8_t(sign | uint32_t(r * 2.f))};
  return {uint8_t(sign | ((float_bits(r) - (126u << 23)) >> 22))};
}

}  // namespace ww
