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
  static __device__ uint32_t mix(uint32_t a, uint32_t b, uint32_t key) { return a ^ b ^ key; }
};

// v with its random bits added, to be truncated: the product puts fp16's subnormals where fp32 has
// its own, so that the bits that fp16 has not are the same 13 for every v. The bits of infinity and
// NaN must stay as they are, which costs two instructions of nine where it is not known that there
// is none.
template <bool kFinite>
__device__ inline float add_random(float v, uint32_t random) {
  const uint32_t units = __float_as_uint(__fmul_rz(v, 0x1p-112f));
  if (!kFinite) random = fabsf(v) < 65504.f ? random : 0;
  return __uint_as_float(units + random) * 0x1p112f;
}

// narrow_word<f16_t>() with the rounding of core/philox.h by both halves of a word. cvt.rz
// truncates and saturates; past fp32's largest value add_random() is infinite.
template <bool kFinite>
__device__ inline uint32_t stochastic_word(float low, float high, uint32_t random) {
  const float a = add_random<kFinite>(high, random >> 16 & kHalfBits),
              b = add_random<kFinite>(low, random & kHalfBits);
  uint32_t word;
  if constexpr (kFinite)
    asm("cvt.rz.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(a), "f"(b));
  else
    asm("cvt.rz.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(a), "f"(b));
  return word;
}

// narrow<f16_t, V>() of elements n, ... of a row by the words of their counter; V is 1 or all of
// them.
template <int V, bool kFinite>
__device__ inline Packed<f16_t, V> narrow_stochastic(const float* v, const uint32_t (&words)[4],
                                                     int n) {
  if constexpr (V == kHalvesOfCounter) {
    const auto word = [&](int i) {
      return stochastic_word<kFinite>(v[2 * i], v[2 * i + 1], words[i]);
    };
    return {word(0), word(1), word(2), word(3)};
  } else {
    const uint32_t pair[2] = {n & 2 ? words[1] : words[0], n & 2 ? words[3] : words[2]};
    const uint32_t word = n & 4 ? pair[1] : pair[0];
    return {uint16_t(stochastic_word<kFinite>(v[0], 0.f, n & 1 ? word >> 16 : word))};
  }
}

}  // namespace ww
