// SPDX-License-Identifier: Apache-2.0
// What both layouts share: their task, what a token's taps may reach, weights and activation.
#pragma once

#include "causal_conv1d/causal_conv1d.h"
#include "core/cuda/math.cuh"
#include "core/cuda/vector.cuh"

namespace ww {
namespace {

constexpr int kThreads = 128;
constexpr int kLanes = 32;
constexpr int kWarps = kThreads / kLanes;

struct Task {
  CausalConv1dParams p;
  uint32_t chunk;       // tokens
  uint32_t chunks;      // of one batch row
  uint32_t count;       // warps, but for tiles: a 64-bit division would be a function call
  uint32_t tiles;       // of C: a warp's each (channel_last), a block's (channel_first_general)
  bool packed_weights;  // taps and biases of a vector of channels are vectors, too
};

// --- Sequences. cu_seqlens stays on the device: invalid offsets give wrong numbers, but every
// index that comes from them is clamped, so no access leaves the tensors. ---

struct Run {           // tokens of one sequence
  int64_t begin, end;  // exact within W-1 before and up to `limit` after the token asked for
  int64_t state;       // row of initial_states, or -1
  bool padding;
};

__device__ inline int64_t cu_seqlen(const CausalConv1dParams& p, int64_t i) {
  const int64_t t = p.cu_seqlens_is_int64 ? static_cast<const int64_t*>(p.cu_seqlens)[i]
                                          : static_cast<const int32_t*>(p.cu_seqlens)[i];
  return t < 0 ? 0 : (t > p.T ? p.T : t);
}

// Of cu_seqlens: the last sequence that starts at or before t.
__device__ inline int64_t sequence_at(const CausalConv1dParams& p, int64_t t) {
  int64_t low = 0, high = p.num_seqs;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (cu_seqlen(p, middle) <= t ? low : high) = middle;
  }
  return low;
}

__device__ inline Run run_at(const CausalConv1dParams& p, int64_t b, int64_t t, int64_t limit) {
  if (p.cu_seqlens) {
    const int64_t i = sequence_at(p, t), begin = cu_seqlen(p, i), end = cu_seqlen(p, i + 1);
    return {begin < t ? begin : t, end > t ? end : t + 1, i, false};
  }
  if (p.seq_idx) {
    const int32_t* idx = p.seq_idx + b * p.seq_idx_stride_b;
    int64_t begin = t, end = t + 1;
    while (begin > 0 && t - begin < p.W - 1 && idx[begin - 1] == idx[t]) --begin;
    while (end < limit && idx[end] == idx[t]) ++end;
    return {begin, end, begin == 0 ? b : -1, idx[t] < 0};
  }
  return {0, p.T, b, false};
}

// The input at t as the taps of `run` see it, for t >= run.begin - (W-1).
template <typename T>
__device__ inline T input(const CausalConv1dParams& p, const Run& run, int64_t b, int64_t c,
                          int64_t t) {
  if (t >= run.begin)
    return static_cast<const T*>(p.x)[b * p.x_stride_b + c * p.x_stride_c + t * p.x_stride_t];
  if (!p.initial_states || run.state < 0) return T{};
  const int64_t w = t - run.begin + p.W - 1;
  return static_cast<const T*>(p.initial_states)[run.state * p.initial_stride_b +
                                                 c * p.initial_stride_c + w * p.initial_stride_w];
}

// --- Arithmetic ---

template <typename U, int V, int W>
__device__ inline void load_weights_of(const Task& task, int64_t c, float (&tap)[W][V],
                                       float (&bias)[V]) {
  const CausalConv1dParams& p = task.p;
  const U* weight = static_cast<const U*>(p.weight) + c * p.weight_stride_c;
  const U* from = static_cast<const U*>(p.bias) + c;
  float by_channel[V][W];
#pragma unroll
  for (int i = 0; i < V; ++i) bias[i] = 0.f;
  if (V > 1 && task.packed_weights) {
    load_widened<U, kVector<U>, V * W>(weight, by_channel[0]);
    if (p.bias) load_widened<U, kVector<U>, V>(from, bias);
  } else if (V == 1 && W == 4 && task.packed_weights) {
    load_widened<U, 4, 4>(weight, by_channel[0]);
    if (p.bias) bias[0] = widen(*from);
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (p.bias) bias[i] = widen(from[i]);
#pragma unroll
      for (int w = 0; w < W; ++w)
        by_channel[i][w] = widen(weight[i * p.weight_stride_c + w * p.weight_stride_w]);
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i)
#pragma unroll
    for (int w = 0; w < W; ++w) tap[w][i] = by_channel[i][w];
}

template <typename T, int V, int W>
__device__ inline void load_weights(const Task& task, int64_t c, float (&tap)[W][V],
                                    float (&bias)[V]) {
  if (task.p.weight_dtype == DType::f32)
    load_weights_of<float, V, W>(task, c, tap, bias);
  else
    load_weights_of<T, V, W>(task, c, tap, bias);
}

template <typename T, int kCount>
__device__ inline void activate(float (&v)[kCount], bool is_silu) {
  if (is_silu)
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] = silu<T>(v[i]);
}

}  // namespace
}  // namespace ww
