// SPDX-License-Identifier: Apache-2.0
// The CUDA kernel. A thread owns a channel of a row: its window moves along the tokens in registers,
// and the state is read and written once. Neighbouring threads have neighbouring channels, so what a
// warp touches of a state with S columns lies in S times as many bytes, all of them used.
#include "causal_conv1d_update/causal_conv1d_update.h"
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"

namespace ww {
namespace {

constexpr int kThreads = 128;

struct Task {
  CausalConv1dUpdateParams p;
  uint32_t tiles;  // of C, a block each
};

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
  const bool circular = p.cache_seqlens;
  const uint32_t S = uint32_t(p.S);
  // Where the next input of a circular state goes.
  uint32_t column = circular ? uint32_t(p.cache_seqlens[b]) % S : 0;

  float tap[W], window[W];  // the inputs of a token, the newest last
#pragma unroll
  for (int w = 0; w < W; ++w) tap[w] = load_param(p.weight, p.weight_dtype, c * W + w);
  const float bias = p.bias ? load_param(p.bias, p.weight_dtype, c) : 0.f;
#pragma unroll
  for (int w = 1; w < W; ++w) {  // input w - W
    const uint32_t from = circular ? (column + S - (W - w)) % S : S - (W - w);
    window[w] = widen(state[from * p.state_stride[2]]);
  }
  // A shifting state keeps its last S - T inputs; reads and writes of a column are the same thread's.
  if (!circular)
    for (int64_t s = 0; p.S > s + p.T; ++s)
      state[s * p.state_stride[2]] = state[(s + p.T) * p.state_stride[2]];
#pragma unroll 1
  for (int64_t t = 0; t < p.T; ++t) {
    const T input = x[t * p.x_stride[2]];
    float sum = bias;
#pragma unroll
    for (int w = 0; w < W - 1; ++w) {
      window[w] = window[w + 1];
      sum = fmaf(tap[w], window[w], sum);
    }
    window[W - 1] = widen(input);
    sum = fmaf(tap[W - 1], window[W - 1], sum);
    if (p.silu) sum = silu<T>(sum);
    out[t * p.out_stride[2]] = narrow<T, 1>(&sum);
    if (circular) {
      state[column * p.state_stride[2]] = input;
      column = column + 1 == S ? 0 : column + 1;
    } else if (t >= p.T - p.S) {
      state[(p.S - p.T + t) * p.state_stride[2]] = input;
    }
  }
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
  return kKernels[int(p.dtype)][p.W - 2].launch(
      tiles * p.B, kThreads, static_cast<cudaStream_t>(stream), {p, uint32_t(tiles)});
}
