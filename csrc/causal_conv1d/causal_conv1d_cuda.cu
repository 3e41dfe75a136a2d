// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels. A thread moves 16 bytes of x at a time and keeps taps, window and sums in
// registers; x is read once but for the W-1 inputs before a chunk. One kernel a layout, in the
// files below; final_states, a thread per element, follows either.
#include "causal_conv1d/conv_channel_first.cuh"
#include "causal_conv1d/conv_channel_last.cuh"
#include "core/cuda/launch.h"

namespace ww {
namespace {

constexpr int kBlocksPerSm = 4;  // chunks are halved until there are as many blocks

// --- The last W-1 inputs of each sequence ---

template <typename T>
__global__ void __launch_bounds__(kThreads) final_states(const __grid_constant__ Task task) {
  const CausalConv1dParams& p = task.p;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.num_seqs * p.C * (p.W - 1)) return;
  const int64_t w = i % (p.W - 1), c = i / (p.W - 1) % p.C, row = i / (p.W - 1) / p.C;
  const int64_t b = p.cu_seqlens ? 0 : row;
  Run run{0, p.T, row, false};
  if (p.cu_seqlens) {
    run.begin = cu_seqlen(p, row);
    run.end = cu_seqlen(p, row + 1);
  } else if (p.seq_idx && p.T > 0) {
    run = run_at(p, b, p.T - 1, p.T);
  }
  const int64_t t = run.end - (p.W - 1) + w;
  const bool reachable = t >= run.begin - (p.W - 1) && !run.padding;
  static_cast<T*>(p.final_states)[i] = reachable ? input<T>(p, run, b, c, t) : T{};
}

// --- Launch: tables by dtype (the order of DType) and width ---

#define WW_WIDTHS(name, dtype, kernel, ...)                         \
  {                                                                 \
      {"causal_conv1d", name " W2", dtype, kernel<__VA_ARGS__, 2>}, \
      {"causal_conv1d", name " W3", dtype, kernel<__VA_ARGS__, 3>}, \
      {"causal_conv1d", name " W4", dtype, kernel<__VA_ARGS__, 4>}, \
  }

const CudaKernel<Task> kChannelLast[3][3] = {
    WW_WIDTHS("channel_last", "float32", channel_last, float, kVector<float>),
    WW_WIDTHS("channel_last", "bfloat16", channel_last, bf16_t, kVector<bf16_t>),
    WW_WIDTHS("channel_last", "float16", channel_last, f16_t, kVector<f16_t>),
};
const CudaKernel<Task> kChannelLastNarrow[3][3] = {
    WW_WIDTHS("channel_last unaligned", "float32", channel_last, float, 1),
    WW_WIDTHS("channel_last unaligned", "bfloat16", channel_last, bf16_t, 1),
    WW_WIDTHS("channel_last unaligned", "float16", channel_last, f16_t, 1),
};
const CudaKernel<Task> kChannelFirst[3][3] = {
    WW_WIDTHS("channel_first", "float32", channel_first, float),
    WW_WIDTHS("channel_first", "bfloat16", channel_first, bf16_t),
    WW_WIDTHS("channel_first", "float16", channel_first, f16_t),
};
const CudaKernel<Task> kChannelFirstGeneral[3][3] = {
    WW_WIDTHS("channel_first general", "float32", channel_first_general, float),
    WW_WIDTHS("channel_first general", "bfloat16", channel_first_general, bf16_t),
    WW_WIDTHS("channel_first general", "float16", channel_first_general, f16_t),
};
const CudaKernel<Task> kFinalStates[3] = {
    {"causal_conv1d", "final_states", "float32", final_states<float>},
    {"causal_conv1d", "final_states", "bfloat16", final_states<bf16_t>},
    {"causal_conv1d", "final_states", "float16", final_states<f16_t>},
};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Every vector of x and out along their contiguous axis, C or T, starts on 16 bytes.
bool is_wide(const CausalConv1dParams& p, bool channel_last, int64_t vector) {
  for (const void* base : {p.x, static_cast<const void*>(p.out)})
    if (reinterpret_cast<uintptr_t>(base) % 16) return false;
  for (int64_t stride : {p.x_stride_b, channel_last ? p.x_stride_t : p.x_stride_c, p.out_stride_b,
                         channel_last ? p.out_stride_t : p.out_stride_c})
    if (stride % vector) return false;
  return (channel_last ? p.C : p.T) % vector == 0;
}

bool weights_are_packed(const CausalConv1dParams& p) {
  for (const void* base : {p.weight, p.bias})
    if (reinterpret_cast<uintptr_t>(base) % 16) return false;
  return p.weight_stride_c == p.W && p.weight_stride_w == 1;
}

cudaError_t launch_conv(const CausalConv1dParams& p, cudaStream_t stream) {
  const int dtype = int(p.dtype), width = int(p.W) - 2;
  if (dtype < 0 || dtype > 2 || width < 0 || width > 2) return cudaErrorInvalidValue;
  if (p.B == 0 || p.C == 0 || p.T == 0) return cudaSuccess;
  int sms;
  const cudaError_t status = multiprocessors(&sms);
  if (status != cudaSuccess) return status;

  const int64_t vector = p.dtype == DType::f32 ? kVector<float> : kVector<bf16_t>;
  const bool last = p.x_stride_c == 1 && p.out_stride_c == 1;
  const bool wide = is_wide(p, last, vector);
  const bool general = !last && (!wide || p.seq_idx || p.cu_seqlens);
  // Warps of a chunk, and tokens with a lead.
  const int64_t warps = last ? divide_up(p.C, kLanes * (wide ? vector : 1)) : p.C;
  const int64_t tokens = last || wide ? p.T : p.T + vector - 1;
  const int64_t shortest = last ? kMinRows : kMinSteps * kLanes * vector;
  int64_t chunk = last ? kMaxRows : kMaxSteps * kLanes * vector, chunks;
  for (;; chunk /= 2) {
    chunks = divide_up(tokens, chunk);
    if (chunk == shortest || p.B * chunks * warps >= int64_t(kBlocksPerSm) * sms * kWarps) break;
  }
  const int64_t tiles = general ? divide_up(p.C, kGeneralThreads / kLanes) : warps;
  const int64_t count = p.B * chunks * (last ? 1 : tiles);
  if (count > UINT32_MAX || tiles > UINT32_MAX || p.num_seqs > UINT32_MAX)
    return cudaErrorInvalidConfiguration;
  const Task task{p,
                  uint32_t(chunk),
                  uint32_t(chunks),
                  uint32_t(count),
                  uint32_t(tiles),
                  weights_are_packed(p)};
  const auto& kernels = general ? kChannelFirstGeneral
                        : !last ? kChannelFirst
                        : wide  ? kChannelLast
                                : kChannelLastNarrow;
  const int64_t blocks = general ? count : divide_up(count, kWarps) * (last ? tiles : 1);
  return kernels[dtype][width].launch(blocks, general ? kGeneralThreads : kThreads, stream, task);
}

cudaError_t launch_final_states(const CausalConv1dParams& p, cudaStream_t stream) {
  const int64_t elements = p.final_states ? p.num_seqs * p.C * (p.W - 1) : 0;
  return kFinalStates[int(p.dtype)].launch(divide_up(elements, kThreads), kThreads, stream,
                                           {p, 0, 0, 0, 0, false});
}

}  // namespace
}  // namespace ww

WW_EXPORT int ww_causal_conv1d(const ww::CausalConv1dParams* p, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  const cudaError_t status = ww::launch_conv(*p, s);
  return status == cudaSuccess ? ww::launch_final_states(*p, s) : status;
}
