// SPDX-License-Identifier: Apache-2.0
// 16 bytes of a storage type in registers, the widest access of a thread, or a single element where
// alignment forbids that; and the fp32 values of either.
#pragma once

#include <stdint.h>

#include "core/types.h"

namespace ww {

template <typename T>
constexpr int kVector = 16 / sizeof(T);  // elements

template <typename T, int V>
struct PackedOf {
  using type = uint4;
};
template <typename T>
struct PackedOf<T, 1> {
  using type = T;
};
template <typename T, int V>  // V is 1 or kVector<T>
using Packed = typename PackedOf<T, V>::type;

// One 32-bit word: one fp32, or two 16-bit elements with the first in the low half.
template <typename T>
__device__ inline void widen_word(uint32_t word, float* out) {
  if constexpr (dtype_of<T> == DType::f32) {
    out[0] = __uint_as_float(word);
  } else if constexpr (dtype_of<T> == DType::bf16) {
    asm("shl.b32 %0, %1, 16;" : "=f"(out[0]) : "r"(word));  // no moves between register types
    asm("and.b32 %0, %1, 0xffff0000;" : "=f"(out[1]) : "r"(word));
  } else {
    asm("{ .reg .f16 lo, hi; mov.b32 {lo, hi}, %2; cvt.f32.f16 %0, lo; cvt.f32.f16 %1, hi; }"
        : "=f"(out[0]), "=f"(out[1])
        : "r"(word));
  }
}

template <typename T>
__device__ inline uint32_t narrow_word(float low, float high) {  // to nearest, ties to even
  uint32_t word;
  if constexpr (dtype_of<T> == DType::f32)
    word = __float_as_uint(low);
  else if constexpr (dtype_of<T> == DType::bf16)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

template <typename T>
__device__ inline void widen(uint4 v, float* out) {
  constexpr int n = kVector<T> / 4;
  widen_word<T>(v.x, out), widen_word<T>(v.y, out + n);
  widen_word<T>(v.z, out + 2 * n), widen_word<T>(v.w, out + 3 * n);
}

template <typename T>
__device__ inline float widen(T v) {
  if constexpr (dtype_of<T> == DType::f32) {
    return v;
  } else {
    float pair[2];
    widen_word<T>(v.bits, pair);
    return pair[0];
  }
}
template <typename T>
__device__ inline void widen(T v, float* out) {
  *out = widen(v);
}

template <typename T, int V>
__device__ inline Packed<T, V> narrow(const float* v) {
  if constexpr (V > 1) {
    constexpr int n = kVector<T> / 4;
    return {narrow_word<T>(v[0], v[n - 1]), narrow_word<T>(v[n], v[2 * n - 1]),
            narrow_word<T>(v[2 * n], v[3 * n - 1]), narrow_word<T>(v[3 * n], v[4 * n - 1])};
  } else if constexpr (dtype_of<T> == DType::f32) {
    return v[0];
  } else {
    return {uint16_t(narrow_word<T>(v[0], 0.f))};
  }
}

template <typename T, int V>
__device__ inline Packed<T, V> load_packed(const T* p) {
  return *reinterpret_cast<const Packed<T, V>*>(p);
}

template <typename T, int V>
__device__ inline void store_packed(T* p, Packed<T, V> v) {
  if constexpr (V > 1)  // nvcc may cut an assignment into four
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)),
                 "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
  else
    *p = v;
}

}  // namespace ww
