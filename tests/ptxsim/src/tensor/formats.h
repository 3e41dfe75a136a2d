// SPDX-License-Identifier: Apache-2.0
// Floating-point formats of PTX: exact decoding, and encoding with every rounding of `cvt`.
//
// Everything goes through double, which holds each value of each format exactly; what cannot be a
// double (64-bit integers) is encoded from its magnitude. Special values follow PTX ISA 9.0, `cvt`:
// NaN results are the canonical positive NaN of the format, and where a format has no NaN its
// largest value.
#pragma once

#include <cmath>
#include <cstdint>

namespace ptxsim {

enum class Format : uint8_t {
  f64,
  f32,
  tf32,
  bf16,
  f16,
  e5m2,
  e4m3,
  e3m2,
  e2m3,
  e2m1,
  ue4m3,  // e4m3 without a sign, the scales of NVFP4; bit 7 is not looked at
  ue8m0,  // powers of two from 2^-127, no zero; 255 is NaN
};

struct FormatInfo {
  const char* name;
  uint8_t bits;         // of the code, without padding
  uint8_t exponent_bits, mantissa_bits;
  int16_t bias;
  uint8_t shift;        // unused bits below the code: 13 for tf32, which lies in a 32-bit word
  bool is_signed, has_infinity;
  uint64_t max_finite;  // code, without the shift
  uint64_t nan;         // canonical; the largest value where there is no NaN
};
const FormatInfo& info(Format format);

// The order of the modes is that of the test API.
enum class Rounding : uint8_t {
  rn,   // to nearest, ties to even
  rna,  // to nearest, ties away from zero
  rz,
  rm,
  rp,
  rs,  // adds random bits below the last place kept and truncates
};

struct EncodeOptions {
  Rounding rounding = Rounding::rn;
  bool satfinite = false;  // what is too large becomes the largest finite value
  bool relu = false;       // negative numbers and -0 become +0; NaN stays
  uint32_t random = 0;     // of rs: added to the `random_bits` uppermost bits that are dropped
  int random_bits = 0;
};

// Bits that do not belong to the code are ignored.
double decode(Format format, uint64_t code);
uint64_t encode(Format format, double value, const EncodeOptions& options = {});
// Of +-magnitude.
uint64_t encode_integer(Format format, uint64_t magnitude, bool is_negative, Rounding rounding);

// Integral value next to `value` in the direction of the rounding (rn, rz, rm, rp).
double round_to_integral(double value, Rounding rounding);

// .ftz of f32.
inline float flush_subnormal(float v) {
  return std::fabs(v) < 0x1p-126f ? std::copysign(0.f, v) : v;
}

}  // namespace ptxsim
