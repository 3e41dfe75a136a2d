// SPDX-License-Identifier: Apache-2.0
// Storage types shared by every kernel. No torch and no std containers: per-ISA files include this.
#pragma once

#include <stdint.h>

namespace ww {

enum class DType : int32_t { f32, bf16, f16 };

struct bf16_t { uint16_t bits; };  // 1-8-7, the upper half of an fp32
struct f16_t { uint16_t bits; };   // 1-5-10, IEEE 754 binary16
struct e4m3_t { uint8_t bits; };   // 1-4-3 "fn": bias 7, no infinities, NaN = S.1111.111, max 448
struct e2m1_t { uint8_t bits; };   // 1-2-1 in the low nibble: 0 .5 1 1.5 2 3 4 6

template <typename T>
static constexpr DType dtype_of = DType::f32;
template <>
constexpr DType dtype_of<bf16_t> = DType::bf16;
template <>
constexpr DType dtype_of<f16_t> = DType::f16;

static inline const char* dtype_name(DType t) {
  switch (t) {
    case DType::f32: return "float32";
    case DType::bf16: return "bfloat16";
    case DType::f16: return "float16";
  }
  return "unknown";
}

}  // namespace ww
