// SPDX-License-Identifier: Apache-2.0
// The recurrence, for fp32 and for sizes that tensor cores do not take: lanes in a group share a
// row of the state and keep it in registers over all tokens, about 25 warp instructions for 32
// elements of it and a token, where the dual form needs one.
//
// Decays and state are sums of two floats: a product of thousands of rounded decays would lose what
// the dual form, which rounds sums of their logarithms, keeps.
#pragma once

#include "core/cuda/launch.h"
#include "ssd_scan/ssd_sequences.cuh"

namespace ww {

struct RecurrentTask {
  SsdScanParams p;
  int lanes;       // of a group, a power of two; 32 for the kernels of more than 4 elements
  uint32_t tiles;  // of P, a block each
};

constexpr int kRecurrentThreads = 128;

struct TwoFloats {
  float high = 0.f, low = 0.f;

  // this = this * decay + added, rounded to 2^-46 or so. What is not finite has no low part.
  __device__ void advance(TwoFloats decay, float added) {
    const float product = high * decay.high;
    float rest = fmaf(high, decay.high, -product);
    rest = fmaf(low, decay.high, fmaf(high, decay.low, rest));
    const float sum = product + added, part = sum - product;
    rest += (product - (sum - part)) + (added - part);
    if (!isfinite(rest)) rest = 0.f;
    high = sum + rest;
    low = isfinite(high) ? rest - (high - sum) : 0.f;
  }
};

template <typename T, int kElements, int kRows>
__global__ void __launch_bounds__(kRecurrentThreads)
    ssd_recurrent(const __grid_constant__ RecurrentTask task) {
  // Of the next tokens, a thread's each.
  __shared__ float steps[kRecurrentThreads];
  __shared__ TwoFloats decays[kRecurrentThreads];
  __shared__ bool starts[kRecurrentThreads];
  const SsdScanParams& p = task.p;
  const uint32_t heads = uint32_t(p.H), unit = blockIdx.x / task.tiles;
  const int64_t tile = blockIdx.x % task.tiles, row = unit / heads, h = unit % heads;
  const int64_t g = uint32_t(h) / (heads / uint32_t(p.G));
  // Where a lane has many elements of a row, a warp has one: places become constants.
  const int lanes = kElements > 4 ? 32 : task.lanes;
  const int lane = threadIdx.x % lanes, group = threadIdx.x / lanes, N = int(p.N);
  const int64_t p0 = (tile * (kRecurrentThreads / lanes) + group) * kRows;
  const TokenRow tokens = token_row(p, row);
  const int64_t b = tokens.batch;

  TwoFloats state[kRows][kElements];
  const int64_t states = (row * p.H + h) * p.P;
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int k = 0; k < kElements; ++k) {
      const int n = lane + k * lanes;
      if (p.initial_states && p0 + r < p.P && n < N)
        state[r][k].high = p.initial_states[(states + p0 + r) * p.N + n];
    }
  // Lane r of a group has the inputs and the result of its row r.
  const int64_t own = p0 + lane;
  const bool owns = lane < kRows && own < p.P;
  const float D = p.D && owns ? p.D[h * p.D_stride_h + own * p.D_stride_p] : 0.f;
  const auto input = [&](const void* base, int64_t at) {
    return widen(static_cast<const T*>(base)[at]);
  };

#pragma unroll 1
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    const int i = int(t - tokens.begin) % kRecurrentThreads;
    if (i == 0) {
      __syncthreads();
      if (const int64_t mine = t + threadIdx.x; mine < tokens.end) {
        const float step = step_of(p, b, mine, h);
        const double decay = exp(double(step) * p.A[h]);
        steps[threadIdx.x] = step;
        const float high = float(decay);
        decays[threadIdx.x] = {high, isfinite(high) ? float(decay - high) : 0.f};
        starts[threadIdx.x] = starts_run(p, b, mine);
      }
      __syncthreads();
    }
    const float step = steps[i];
    const TwoFloats decay = decays[i];
    if (starts[i]) {
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int k = 0; k < kElements; ++k) state[r][k] = {};
    }
    const float x =
        owns ? input(p.x, b * p.x_stride_b + t * p.x_stride_t + h * p.x_stride_h + own) : 0.f;
    float B[kElements], C[kElements];
#pragma unroll
    for (int k = 0; k < kElements; ++k) {
      const int n = lane + k * lanes;
      B[k] = n < N ? input(p.B_, b * p.B_stride_b + t * p.B_stride_t + g * p.B_stride_g + n) : 0.f;
      C[k] = n < N ? input(p.C, b * p.C_stride_b + t * p.C_stride_t + g * p.C_stride_g + n) : 0.f;
    }
    float y = 0.f;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float in = step * __shfl_sync(~0u, x, r, lanes);
      float sum = 0.f;
#pragma unroll
      for (int k = 0; k < kElements; ++k) {
        state[r][k].advance(decay, in * B[k]);
        sum = fmaf(state[r][k].high, C[k], sum);
      }
      for (int away = lanes / 2; away > 0; away /= 2) sum += __shfl_xor_sync(~0u, sum, away);
      if (lane == r) y = sum;
    }
    if (!owns) continue;
    y = fmaf(D, x, y);
    if (p.z)
      y *= silu<float>(input(p.z, b * p.z_stride_b + t * p.z_stride_t + h * p.z_stride_h + own));
    static_cast<T*>(p.out)[((b * p.T + t) * p.H + h) * p.P + own] = narrow<T, 1>(&y);
  }
  if (!p.final_states) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int k = 0; k < kElements; ++k) {
      const int n = lane + k * lanes;
      if (p0 + r < p.P && n < N) p.final_states[(states + p0 + r) * p.N + n] = state[r][k].high;
    }
}

}  // namespace ww
