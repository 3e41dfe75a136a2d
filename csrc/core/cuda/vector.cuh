// SPDX-License-Identifier: Apache-2.0
// 16 bytes of a storage type in registers, the widest access of a thread, 8 where a vector of
// another type has as many elements, or a single element where alignment forbids that; and the fp32
// values.
#pragma once

#include <stdint.h>

#include <type_traits>

#include "core/types.h"

namespace ww {

template <typename T>
constexpr int kVector = 16 / sizeof(T);  // elements

template <typename T, int V>             // V is 1, 4 or kVector<T>
using Packed =
    std::conditional_t<V == 1, T,
                       std::conditional_t<dtype_of<T> == DType::f32, float4,
                                          std::conditional_t<V * sizeof(T) == 16, uint4, uint2>>>;

// One 32-bit word: one fp32, or two 16-bit elements with the first in the low half.
template <typename T>
__device__ inline void widen_word(uint32_t word, float* out) {
  if constexpr (dtype_of<T> == DType::f32) {
    out[0] = __uint_as_float(word);
  } else if constexpr (dtype_of<T> == DType::bf16) {
    asm("shl.b32 %0, %1, 16;" : "=f"(out[0]) : "r"(word));  // no move from an integer register
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
  widen_word<T>(v.x, out), widen_word<T>(v.y, out + 2);
  widen_word<T>(v.z, out + 4), widen_word<T>(v.w, out + 6);
}
template <typename T>
__device__ inline void widen(uint2 v, float* out) {
  widen_word<T>(v.x, out), widen_word<T>(v.y, out + 2);
}
template <typename T>
__device__ inline void widen(float4 v, float* out) {
  out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
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
  if constexpr (dtype_of<T> == DType::f32) {
    if constexpr (V == 1)
      return v[0];
    else
      return {v[0], v[1], v[2], v[3]};
  } else if constexpr (V == 1) {
    return {uint16_t(narrow_word<T>(v[0], 0.f))};
  } else if constexpr (V == 4) {
    return {narrow_word<T>(v[0], v[1]), narrow_word<T>(v[2], v[3])};
  } else {
    return {narrow_word<T>(v[0], v[1]), narrow_word<T>(v[2], v[3]), narrow_word<T>(v[4], v[5]),
            narrow_word<T>(v[6], v[7])};
  }
}

template <typename T, int V>
__device__ inline Packed<T, V> load_packed(const T* p) {
  return *reinterpret_cast<const Packed<T, V>*>(p);
}

// kCount elements from p on, in vectors of V of them.
template <typename T, int V, int kCount>
__device__ inline void load_widened(const T* p, float* v) {
#pragma unroll
  for (int k = 0; k < kCount; k += V) widen<T>(load_packed<T, V>(p + k), v + k);
}

template <typename T, int V>
__device__ inline void store_packed(T* p, Packed<T, V> v) {
  // nvcc may cut an assignment of a vector into four. A global address is also its generic one.
  if constexpr (V == 1)
    *p = v;
  else if constexpr (dtype_of<T> == DType::f32)
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(v.x), "f"(v.y), "f"(v.z),
                 "f"(v.w)
                 : "memory");
  else if constexpr (V == 4)
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(p), "r"(v.x), "r"(v.y) : "memory");
  else
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}

}  // namespace ww
