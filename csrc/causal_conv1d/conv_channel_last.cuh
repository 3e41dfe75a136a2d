// SPDX-License-Identifier: Apache-2.0
// Channels in the vector: a thread owns a vector of them and walks down a chunk of tokens, the
// warps of a block down neighbouring chunks, so that L1 has the inputs before them. Vectors of one
// channel where C or a stride is no multiple of 16 bytes.
#pragma once

#include <type_traits>

#include "causal_conv1d/conv_core.cuh"

namespace ww {
namespace {

constexpr int kMinRows = 8;
constexpr int kMaxRows = 64;  // tokens of a chunk: W-1 rows read again cost 5%

template <typename T, int V, int W>
__global__ void __launch_bounds__(kThreads, 4) channel_last(const __grid_constant__ Task task) {
  constexpr int kGroup = W == 3 ? 6 : 4;  // rows in flight, 64 bytes or more; a multiple of W
  const CausalConv1dParams& p = task.p;
  const uint32_t row = blockIdx.x / task.tiles * kWarps + threadIdx.x / kLanes;
  const int64_t c = int64_t(blockIdx.x % task.tiles * kLanes + threadIdx.x % kLanes) * V;
  if (row >= task.count || c >= p.C) return;
  const int64_t b = row / task.chunks, t0 = int64_t(row % task.chunks) * task.chunk;
  const int64_t t1 = t0 + task.chunk < p.T ? t0 + task.chunk : p.T;

  float tap[W][V], bias[V];
  load_weights<T, V, W>(task, c, tap, bias);

  for (int64_t t = t0, end; t < t1; t = end) {
    const Run run = run_at(p, b, t, t1);
    end = run.end < t1 ? run.end : t1;
    const T* x = static_cast<const T*>(p.x) + b * p.x_stride_b + t * p.x_stride_t + c;
    T* out = static_cast<T*>(p.out) + b * p.out_stride_b + t * p.out_stride_t + c;
    if (run.padding) {
      for (int64_t n = end - t; n > 0; --n, out += p.out_stride_t) store_packed<T, V>(out, {});
      continue;
    }
    // The last W inputs in a ring: token k of a group goes to slot (k + W-1) % W.
    float window[W][V];
#pragma unroll
    for (int w = 0; w < W - 1; ++w) {
      if (const int64_t s = t - (W - 1) + w; s >= run.begin) {
        widen<T>(load_packed<T, V>(x - (W - 1 - w) * p.x_stride_t), window[w]);
      } else {
#pragma unroll
        for (int i = 0; i < V; ++i) window[w][i] = widen(input<T>(p, run, b, c + i, s));
      }
    }

    int n = int(end - t);
    const auto group = [&](auto is_whole) {
      constexpr bool kWhole = decltype(is_whole)::value;
      Packed<T, V> raw[kGroup];
#pragma unroll
      for (int k = 0; k < kGroup; ++k, x += p.x_stride_t)
        if (kWhole || k < n) raw[k] = load_packed<T, V>(x);
#pragma unroll
      for (int k = 0; k < kGroup; ++k, out += p.out_stride_t) {
        if (!kWhole && k >= n) break;
        float acc[V];
        widen<T>(raw[k], window[(k + W - 1) % W]);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          acc[i] = bias[i];
#pragma unroll
          for (int w = 0; w < W; ++w) acc[i] = fmaf(tap[w][i], window[(k + w) % W][i], acc[i]);
        }
        activate<T>(acc, p.silu);
        store_packed<T, V>(out, narrow<T, V>(acc));
      }
    };
#pragma unroll 1
    for (; n >= kGroup; n -= kGroup) group(std::true_type{});
    if (n > 0) group(std::false_type{});
  }
}

}  // namespace
}  // namespace ww
