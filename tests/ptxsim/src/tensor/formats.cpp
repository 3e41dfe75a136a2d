// SPDX-License-Identifier: Apache-2.0
#include "tensor/formats.h"

#include <array>
#include <bit>
#include <cmath>
#include <limits>

namespace ptxsim {
namespace {

// Bits, exponent and mantissa widths, bias, shift, sign, infinity, largest finite code, NaN.
constexpr FormatInfo kFormats[] = {
    {"f64", 64, 11, 52, 1023, 0, true, true, 0x7fefffffffffffff, 0x7fffffffffffffff},
    {"f32", 32, 8, 23, 127, 0, true, true, 0x7f7fffff, 0x7fffffff},
    {"tf32", 19, 8, 10, 127, 13, true, true, 0x3fbff, 0x3ffff},
    {"bf16", 16, 8, 7, 127, 0, true, true, 0x7f7f, 0x7fff},
    {"f16", 16, 5, 10, 15, 0, true, true, 0x7bff, 0x7fff},
    {"e5m2", 8, 5, 2, 15, 0, true, true, 0x7b, 0x7f},
    {"e4m3", 8, 4, 3, 7, 0, true, false, 0x7e, 0x7f},
    {"e3m2", 6, 3, 2, 3, 0, true, false, 0x1f, 0x1f},
    {"e2m3", 6, 2, 3, 1, 0, true, false, 0x1f, 0x1f},
    {"e2m1", 4, 2, 1, 1, 0, true, false, 0x7, 0x7},
    {"ue4m3", 7, 4, 3, 7, 0, false, false, 0x7e, 0x7f},
    {"ue8m0", 8, 8, 0, 127, 0, false, false, 0xfe, 0xff},
};

// Whether the dropped part `rest` of 2^-shift carries into the place kept.
bool rounds_up(Rounding rounding, bool is_negative, bool is_odd, uint64_t rest, int shift,
               const EncodeOptions& options) {
  if (rest == 0) return false;
  // Half of the place kept; a shift past 64 leaves less than half of it.
  const uint64_t half = shift <= 64 ? uint64_t(1) << (shift - 1) : 0;
  switch (rounding) {
    case Rounding::rn: return half && (rest > half || (rest == half && is_odd));
    case Rounding::rna: return half && rest >= half;
    case Rounding::rz: return false;
    case Rounding::rm: return is_negative;
    case Rounding::rp: return !is_negative;
    case Rounding::rs: break;
  }
  const int n = options.random_bits;
  uint64_t top = rest;
  if (shift > n) {
    top = shift - n >= 64 ? 0 : rest >> (shift - n);
  } else {
    top = rest << (n - shift);
  }
  return top + options.random >= uint64_t(1) << n;
}

uint64_t overflow(const FormatInfo& f, Rounding rounding, bool is_negative, bool satfinite) {
  const bool to_largest = satfinite || rounding == Rounding::rz || rounding == Rounding::rs ||
                          rounding == (is_negative ? Rounding::rp : Rounding::rm);
  if (to_largest) return f.max_finite;
  return f.has_infinity ? f.max_finite + 1 : f.nan;
}

// Code of magnitude * 2^exponent without the sign.
uint64_t encode_magnitude(const FormatInfo& f, uint64_t magnitude, int exponent, bool is_negative,
                          const EncodeOptions& options) {
  if (magnitude == 0) return 0;
  const int top = 63 - std::countl_zero(magnitude) + exponent;  // exponent of the leading one
  const int min_exponent = 1 - f.bias;
  const int place = (top > min_exponent ? top : min_exponent) - f.mantissa_bits;  // the last kept
  const int shift = place - exponent;
  uint64_t kept;
  if (shift <= 0) {
    kept = magnitude << -shift;
  } else {
    const uint64_t rest = shift >= 64 ? magnitude : magnitude & ((uint64_t(1) << shift) - 1);
    kept = shift >= 64 ? 0 : magnitude >> shift;
    kept += rounds_up(options.rounding, is_negative, kept & 1, rest, shift, options);
  }
  // A carry out of the mantissa moves into the exponent, also from the subnormal numbers.
  const int biased = place + f.mantissa_bits + f.bias - 1;
  const uint64_t code = (uint64_t(biased) << f.mantissa_bits) + kept;
  return code > f.max_finite ? overflow(f, options.rounding, is_negative, options.satfinite) : code;
}

// Of a power of two: the sign is dropped, and what is below 2^-127 becomes it.
uint64_t encode_ue8m0(double value, const EncodeOptions& options) {
  const double magnitude = std::fabs(value);
  if (magnitude <= 0x1p-127) return 0;
  const bool is_infinite = std::isinf(magnitude);
  int exponent = is_infinite ? 128 : std::ilogb(magnitude);
  if (!is_infinite && options.rounding == Rounding::rp && std::ldexp(1.0, exponent) != magnitude) {
    ++exponent;
  }
  if (exponent <= 127) return uint64_t(exponent + 127);
  return options.satfinite ? 0xfe : 0xff;
}

}  // namespace

const FormatInfo& info(Format format) { return kFormats[int(format)]; }

double decode(Format format, uint64_t code) {
  if (format == Format::f64) return std::bit_cast<double>(code);
  if (format == Format::f32) return double(std::bit_cast<float>(uint32_t(code)));
  const FormatInfo& f = info(format);
  code >>= f.shift;
  if (format == Format::ue8m0) {
    code &= 0xff;
    return code == 0xff ? std::numeric_limits<double>::quiet_NaN()
                        : std::ldexp(1.0, int(code) - 127);
  }
  const int magnitude_bits = f.exponent_bits + f.mantissa_bits;
  const uint64_t magnitude = code & ((uint64_t(1) << magnitude_bits) - 1);
  const double sign = f.is_signed && (code >> magnitude_bits) & 1 ? -1.0 : 1.0;
  if (magnitude > f.max_finite) {
    return f.has_infinity && magnitude == f.max_finite + 1
               ? sign * std::numeric_limits<double>::infinity()
               : std::numeric_limits<double>::quiet_NaN();
  }
  const int exponent = int(magnitude >> f.mantissa_bits);
  uint64_t mantissa = magnitude & ((uint64_t(1) << f.mantissa_bits) - 1);
  if (exponent != 0) mantissa |= uint64_t(1) << f.mantissa_bits;
  return sign * std::ldexp(double(mantissa), (exponent ? exponent : 1) - f.bias - f.mantissa_bits);
}

uint64_t encode(Format format, double value, const EncodeOptions& options) {
  const FormatInfo& f = info(format);
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  bool is_negative = bits >> 63;
  uint64_t code;
  if (std::isnan(value)) {
    is_negative = false;
    code = f.nan;
  } else if (options.relu && is_negative) {
    return 0;
  } else if (format == Format::ue8m0) {
    return encode_ue8m0(value, options);
  } else if (std::isinf(value)) {
    code = f.has_infinity && !options.satfinite ? f.max_finite + 1
           : options.satfinite                  ? f.max_finite
                                                : f.nan;
  } else {
    const int exponent = int(bits >> 52) & 0x7ff;
    const uint64_t fraction = bits & ((uint64_t(1) << 52) - 1);
    const uint64_t magnitude = exponent ? fraction | uint64_t(1) << 52 : fraction;
    code = encode_magnitude(f, magnitude, (exponent ? exponent : 1) - 1075, is_negative, options);
  }
  if (f.is_signed && is_negative) code |= uint64_t(1) << (f.bits - 1);
  return code << f.shift;
}

uint64_t encode_integer(Format format, uint64_t magnitude, bool is_negative, Rounding rounding) {
  const FormatInfo& f = info(format);
  EncodeOptions options;
  options.rounding = rounding;
  uint64_t code = encode_magnitude(f, magnitude, 0, is_negative, options);
  if (is_negative) code |= uint64_t(1) << (f.bits - 1);
  return code << f.shift;
}

double round_to_integral(double value, Rounding rounding) {
  switch (rounding) {
    case Rounding::rz: return std::trunc(value);
    case Rounding::rm: return std::floor(value);
    case Rounding::rp: return std::ceil(value);
    default: return std::nearbyint(value);  // the process runs in round-to-nearest-even
  }
}

}  // namespace ptxsim
