// SPDX-License-Identifier: Apache-2.0
// The CUDA kernel. A thread owns a channel of a row: its window moves along the tokens in
// registers, and the state is read and written once. Neighbouring threads have neighbouring
// channels, so what a warp touches of a state with S columns lies in S times as many bytes, all of
// them used.
#include "causal_conv1d_update/causal_conv1d_update.h"
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"

namespace ww {
namespace {

constexpr int kThreads = 128;

struct Task {
  CausalConv1dUpdateParams p;
  uint32_t tiles;    // of C, a block each
  bool packed_taps;  // the four of a channel start on the bytes that they are
};

template <typename U, int W>
__device__ inline void load_weights(const CausalConv1dUpdateParams& p, bool packed, int64_t c,
                                    float (&tap)[W], float& bias) {
  const U* weight = static_cast<const U*>(p.weight) + c * W;
  if (W == 4 && packed)
    load_widened<U, 4, 4>(weight, tap);
  else
#pragma unroll
    for (int w = 0; w < W; ++w) tap[w] = widen(weight[w]);
  bias = p.bias ? widen(static_cast<const U*>(p.bias)[c]) : 0.f;
}

template <typename T, int W>
__global__ void __launch_bounds__(kThreads) update(const __grid_constant__ Task task) {
  const CausalConv1dUpdateParams& p = task.p;
  const int64_t b = blockIdx.x / task.tiles;
  const int64_t c = int64_t(blockIdx.x % task.tiles) * kThreads + threadIdx.x;
  if (c >= p.C) return;
  const T* x = static_cast<const T*>(p.x) + b * p.x_stride[0] + c * p.x_stride[1];
  T* out = static_cast<T*>(p.out) + b * p.out_stride[0] + c * p.out_stride[1];
  const int64_t slot = p.state_indices ? p.state_indices[b] : b;
  if (slot < 0 || slot >= p.slots) {  // one that is not there would be an access outside
    for (int64_t t = 0; t < p.T; ++t) out[t * p.out_stride[2]] = T{};
    return;
  }
  T* state = static_cast<T*>(p.state) + slot * p.state_stride[0] + c * p.state_stride[1];
  const int64_t stride = p.state_stride[2];
  const bool circular = p.cache_seqlens, is_window = !circular && p.S == W - 1;
  const uint32_t S = uint32_t(p.S);
  // Where the next input of a circular state goes; the inputs before it are in the columns before.
  uint32_t column = circular ? uint32_t(p.cache_seqlens[b]) % S : 0;

  float tap[W], bias;
  if (p.weight_dtype == DType::f32)
    load_weights<float, W>(p, task.packed_taps, c, tap, bias);
  else
    load_weights<T, W>(p, task.packed_taps, c, tap, bias);
  T window[W];                   // the inputs of a token, the newest last
#pragma unroll
  for (int w = 1; w < W; ++w) {  // input w - W
    const uint32_t from = column - uint32_t(W - w);
    window[w] = state[(column < uint32_t(W - w) ? from + S : from) * stride];
  }
  // A shifting state keeps its last S - T inputs; reads and writes of a column are the same
  // thread's.
  if (!circular && !is_window)
    for (int64_t s = 0; p.S > s + p.T; ++s) state[s * stride] = state[(s + p.T) * stride];
#pragma unroll 1
  for (int64_t t = 0; t < p.T; ++t, x += p.x_stride[2], out += p.out_stride[2]) {
    float sum = bias;
#pragma unroll
    for (int w = 0; w < W; ++w) {
      window[w] = w < W - 1 ? window[w + 1] : *x;
      sum = fmaf(tap[w], widen(window[w]), sum);
    }
    if (p.silu) sum = silu<T>(sum);
    *out = narrow<T, 1>(&sum);
    if (circular) {
      state[column * stride] = window[W - 1];
      column = column + 1 == S ? 0 : column + 1;
    } else if (!is_window && t >= p.T - p.S) {
      state[(p.S - p.T + t) * stride] = window[W - 1];
    }
  }
  if (is_window)
#pragma unroll
    for (int w = 1; w < W; ++w) state[(w - 1) * stride] = window[w];
}

#define WW_WIDTHS(dtype, T)                                \
  {                                                        \
      {"causal_conv1d_update", "W2", dtype, update<T, 2>}, \
      {"causal_conv1d_update", "W3", dtype, update<T, 3>}, \
      {"causal_conv1d_update", "W4", dtype, update<T, 4>}, \
  }

const CudaKernel<Task> kKernels[3][3] = {WW_WIDTHS("float32", float), WW_WIDTHS("bfloat16", bf16_t),
                                         WW_WIDTHS("float16", f16_t)};

}  // namespace
}  // namespace ww

WW_EXPORT int ww_causal_conv1d_update(const ww::CausalConv1dUpdateParams* params, void* stream) {
  using namespace ww;
  const CausalConv1dUpdateParams& p = *params;
  if (p.B == 0 || p.C == 0 || p.T == 0) return cudaSuccess;
  const int64_t tiles = (p.C + kThreads - 1) / kThreads;
  const bool packed = reinterpret_cast<uintptr_t>(p.weight) % 16 == 0;
  return kKernels[int(p.dtype)][p.W - 2].launch(
      tiles * p.B, kThreads, static_cast<cudaStream_t>(stream), {p, uint32_t(tiles), packed});
}
