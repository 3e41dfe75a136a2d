// SPDX-License-Identifier: Apache-2.0
// core/philox.h for CUDA: a counter a thread.
#pragma once

#include "core/cuda/vector.cuh"
#include "core/philox.h"

namespace ww {

struct PhiloxLane {
  using U = uint32_t;
  static __device__ void multiply(uint32_t a, uint32_t b, uint32_t& high, uint32_t& low) {
    high = __umulhi(a, b), low = a * b;
  }
};

// v with its random bits added, to be truncated: the product puts fp16's subnormals where fp32 has its
// own, so that the bits that fp16 has not are the same 13 for every v. What saturates or is not
// finite stays as it is.
__device__ inline float add_random(float v, uint32_t random) {
  const uint32_t units = __float_as_uint(__fmul_rz(v, 0x1p-112f));
  return __uint_as_float(units + (fabsf(v) < 65504.f ? random & kHalfBits : 0)) * 0x1p112f;
}

// narrow_word<f16_t>() with the rounding of core/philox.h by both halves of a word. cvt.rz truncates
// and saturates.
__device__ inline uint32_t stochastic_word(float low, float high, uint32_t random) {
  uint32_t word;
  asm("cvt.rz.f16x2.f32 %0, %1, %2;"
      : "=r"(word)
      : "f"(add_random(high, random >> 16)), "f"(add_random(low, random)));
  return word;
}

// narrow<f16_t, V>() of elements n, ... of a row by the words of their counter; V is 1 or all of them.
template <int V>
__device__ inline Packed<f16_t, V> narrow_stochastic(const float* v, const uint32_t (&words)[4],
                                                     int n) {
  if constexpr (V == kHalvesOfCounter) {
    return {stochastic_word(v[0], v[1], words[0]), stochastic_word(v[2], v[3], words[1]),
            stochastic_word(v[4], v[5], words[2]), stochastic_word(v[6], v[7], words[3])};
  } else {
    const uint32_t pair[2] = {n & 2 ? words[1] : words[0], n & 2 ? words[3] : words[2]};
    const uint32_t word = n & 4 ? pair[1] : pair[0];
    return {uint16_t(stochastic_word(v[0], 0.f, n & 1 ? word >> 16 : word))};
  }
}

}  // namespace ww
