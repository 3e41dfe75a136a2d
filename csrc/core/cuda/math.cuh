// SPDX-License-Identifier: Apache-2.0
// Functions of fp32 values, and sums over the lanes of a warp.
#pragma once

#include "core/cuda/ptx.cuh"
#include "core/cuda/vector.cuh"

namespace ww {

// Element i of a tensor whose dtype is known only at run time: small parameters, single values.
__device__ inline float load_param(const void* base, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::f32: return static_cast<const float*>(base)[i];
    case DType::bf16: return widen(static_cast<const bf16_t*>(base)[i]);
    case DType::f16: break;
  }
  return widen(static_cast<const f16_t*>(base)[i]);
}

__device__ inline void store_param(void* base, DType dtype, int64_t i, float v) {
  switch (dtype) {
    case DType::f32: static_cast<float*>(base)[i] = v; return;
    case DType::bf16: static_cast<bf16_t*>(base)[i] = narrow<bf16_t, 1>(&v); return;
    case DType::f16: static_cast<f16_t*>(base)[i] = narrow<f16_t, 1>(&v); return;
  }
}

// v * sigmoid(v). fp32: by exp of a negative number only, so that the denominator lies in [1, 2].
// 16 bits: ex2.approx is far inside their ulp, and 2^-20 on both sides of the fraction keeps it
// from overflowing and from being flushed to zero wherever the result is one of bfloat16's.
// -inf * 0 is the NaN of the definition in both.
template <typename T>
__device__ inline float silu(float v) {
  if constexpr (dtype_of<T> == DType::f32) {
    const float e = expf(-fabsf(v));
    return (v < 0.f ? v * e : v) * ptx::rcp_approx(1.f + e);
  } else {
    constexpr float kLog2e = 1.44269504f, kScale = 0x1p-20f;
    const float e = ptx::ex2_approx(fmaf(v, -kLog2e, -20.f));
    return v * (ptx::rcp_approx(e + kScale) * kScale);
  }
}

// Linear above 20, as torch has it.
__device__ inline float softplus(float v) { return v > 20.f ? v : log1pf(expf(v)); }

// The step of a state space model from its raw input: softplus and limits, NaN kept.
__device__ inline float time_step(float v, bool is_softplus, float least, float most) {
  if (is_softplus) v = softplus(v);
  return v < least ? least : (v > most ? most : v);
}

// The sum over each group of `lanes` neighbouring lanes, a power of two, in every lane of it. The
// same tree for every lane, so all have the same bits.
template <int lanes = 32>
__device__ inline float lane_sum(float v) {
#pragma unroll
  for (int step = lanes / 2; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}

}  // namespace ww
