// SPDX-License-Identifier: Apache-2.0
// Small number functions of the interpreter.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/numerics.h"

namespace ptxsim {

inline float flush(float v) {
  return std::fpclassify(v) == FP_SUBNORMAL ? std::copysign(0.f, v) : v;
}
inline float f16_to_float(uint16_t bits) { return ww::to_float(ww::f16_t{bits}); }
inline float bf16_to_float(uint16_t bits) { return ww::to_float(ww::bf16_t{bits}); }
inline uint16_t float_to_f16(float v) { return ww::from_float<ww::f16_t>(v).bits; }
inline uint16_t float_to_bf16(float v) { return ww::from_float<ww::bf16_t>(v).bits; }
// fp16 subnormals are normal as fp32: below the smallest normal fp16, 2^-14.
inline float flush_f16(float v) { return std::fabs(v) < 0x1p-14f ? std::copysign(0.f, v) : v; }

}  // namespace ptxsim
