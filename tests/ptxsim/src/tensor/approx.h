// SPDX-License-Identifier: Apache-2.0
// The approximate functions of PTX ISA 9.0: ex2, lg2, rcp, rsqrt, sqrt, sin, cos, tanh with
// .approx.
//
// The ISA bounds their errors and fixes their special values; the bits between are the hardware's
// own. Here each is the double function of <cmath>, rounded once to the result: as close to the
// true value as a result can be, so a kernel that needs the hardware's exact bits is not shown to
// be right. Special values follow the tables of the ISA, which those of <cmath> are but for NaN:
// results are the canonical NaN. .ftz flushes subnormal f32 operands and results to zero, keeping
// the sign.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "tensor/formats.h"

namespace ptxsim {

enum class Approx : uint8_t { ex2, lg2, rcp, rsqrt, sqrt, sin, cos, tanh };

inline double approx_exact(Approx function, double x) {
  switch (function) {
    case Approx::ex2: return std::exp2(x);
    case Approx::lg2: return std::log2(x);
    case Approx::rcp: return 1.0 / x;
    case Approx::rsqrt: return 1.0 / std::sqrt(x);
    case Approx::sqrt: return std::sqrt(x);
    case Approx::sin: return std::sin(x);
    case Approx::cos: return std::cos(x);
    case Approx::tanh: return std::tanh(x);
  }
  return x;
}

inline float approx_f32(Approx function, float x, bool ftz) {
  if (ftz) x = flush_subnormal(x);
  const float r = float(approx_exact(function, double(x)));
  if (r != r) return std::bit_cast<float>(0x7fffffffu);
  return ftz ? flush_subnormal(r) : r;
}

// f16 or bf16, one value in the low 16 bits. .ftz is of ex2.bf16 alone, where it is not optional.
inline uint16_t approx_16(Approx function, Format format, uint16_t x, bool ftz) {
  double v = decode(format, x);
  const double smallest = std::ldexp(1.0, 1 - info(format).bias);
  if (ftz && std::fabs(v) < smallest) v = std::copysign(0.0, v);
  const uint64_t code = encode(format, approx_exact(function, v));
  if (ftz && std::fabs(decode(format, code)) < smallest) return uint16_t(code & 0x8000);
  return uint16_t(code);
}

inline uint32_t approx_16x2(Approx function, Format format, uint32_t x, bool ftz) {
  return uint32_t(approx_16(function, format, uint16_t(x >> 16), ftz)) << 16 |
         approx_16(function, format, uint16_t(x), ftz);
}

// rcp.approx.ftz.f64, rsqrt.approx{.ftz}.f64: of the upper 32 bits of the operand only, and only
// those of the result are kept (ISA: "the lower 32 bits of the result are zero").
inline double approx_f64(Approx function, double x, bool ftz) {
  constexpr uint64_t kUpper = 0xffffffff00000000;
  const auto flush = [ftz](double v) {
    return ftz && std::fabs(v) < 0x1p-1022 ? std::copysign(0.0, v) : v;
  };
  if (x != x) return std::bit_cast<double>(0x7fffffff00000000);
  x = flush(x);
  if (ftz) x = std::bit_cast<double>(std::bit_cast<uint64_t>(x) & kUpper);
  const double r = approx_exact(function, x);
  if (r != r) return std::bit_cast<double>(0x7fffffff00000000);
  return ftz ? flush(std::bit_cast<double>(std::bit_cast<uint64_t>(r) & kUpper)) : r;
}

}  // namespace ptxsim
