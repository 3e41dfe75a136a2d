// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels. A thread moves 16 bytes of x at a time and keeps taps, window and sums in
// registers; there is no shared memory, and x is read once but for the W-1 inputs before a chunk.
//
//   channel_last   a thread owns a vector of channels and walks down a chunk of tokens, the warps of
//                  a block down neighbouring chunks, so that L1 has the inputs before them; vectors
//                  of one channel where C or a stride is no multiple of 16 bytes
//   channel_first  a warp owns one channel and walks along a chunk, 32 vectors of tokens a step; a
//                  lane gets the W-1 inputs before its own from the lane below
//   final_states   a thread per element, after either
#include "causal_conv1d/causal_conv1d.h"
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"
#include "core/cuda/vector.cuh"

#include <type_traits>

namespace ww {
namespace {

constexpr int kThreads = 128;
constexpr int kLanes = 32;
constexpr int kWarps = kThreads / kLanes;
constexpr int kMinRows = 8;
constexpr int kMaxRows = 64;  // tokens of a channel-last chunk: W-1 rows read again cost 5%
constexpr int kMinSteps = 2, kMaxSteps = 8;  // of a channel-first chunk
constexpr int kBlocksPerSm = 4;              // chunks are halved until there are as many blocks

struct Task {
  CausalConv1dParams p;
  uint32_t chunk;       // tokens
  uint32_t chunks;      // of one batch row
  uint32_t count;       // warps, but for tiles: a 64-bit division would be a function call
  uint32_t tiles;       // of C, a warp's each (channel_last)
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

__device__ inline Run run_at(const CausalConv1dParams& p, int64_t b, int64_t t, int64_t limit) {
  if (p.cu_seqlens) {
    int64_t low = 0, high = p.num_seqs;  // the last sequence that starts at or before t
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (cu_seqlen(p, middle) <= t ? low : high) = middle;
    }
    const int64_t begin = cu_seqlen(p, low), end = cu_seqlen(p, low + 1);
    return {begin < t ? begin : t, end > t ? end : t + 1, low, false};
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

// --- Channels in the vector ---

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

// --- Time in the vector ---

template <typename T>
union Vector {
  Packed<T, kVector<T>> words;
  uint32_t word[4];
  T element[kVector<T>];
};

// A channel's window: the inputs of a lane after those that the lane below has.
template <typename T, int W>
struct Window {
  static constexpr int V = kVector<T>, kElements = 4 / sizeof(T);     // of a vector and of a word
  static constexpr int kWords = (W - 1 + kElements - 1) / kElements;  // with the inputs before
  static constexpr int kBefore = kWords * kElements;
  // What lane 0 needs from before the step, held by lane 31, which is below it when lanes rotate.
  uint32_t before[kWords] = {};
  float v[kBefore + V];

  __device__ void set_before(const Vector<T>& vector) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) before[w] = vector.word[4 - kWords + w];
  }
  __device__ void advance(const Vector<T>& vector, int lane) {
    widen<T>(vector.words, v + kBefore);
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const uint32_t last = lane == kLanes - 1 ? before[w] : vector.word[4 - kWords + w];
      widen_word<T>(__shfl_sync(~0u, last, (lane + kLanes - 1) % kLanes), v + w * kElements);
    }
    set_before(vector);
  }
  __device__ void sums(const float (&tap)[W][1], float bias, float* acc) const {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      acc[i] = bias;
#pragma unroll
      for (int w = 0; w < W; ++w) acc[i] = fmaf(tap[w][0], v[kBefore - (W - 1) + i + w], acc[i]);
    }
  }
};

// Rows of one sequence and whole vectors.
template <typename T, int W>
__global__ void __launch_bounds__(kThreads, 6) channel_first(const __grid_constant__ Task task) {
  constexpr int V = kVector<T>, kStep = kLanes * V;
  const CausalConv1dParams& p = task.p;
  const uint32_t id = blockIdx.x * kWarps + threadIdx.x / kLanes;
  const int lane = threadIdx.x % kLanes;
  if (id >= task.count) return;  // whole warps
  const uint32_t row = id / task.chunks;
  const int64_t b = row / uint32_t(p.C), c = row % uint32_t(p.C);
  const int64_t t0 = int64_t(id % task.chunks) * task.chunk, rest = p.T - t0;
  const T* x = static_cast<const T*>(p.x) + b * p.x_stride_b + c * p.x_stride_c + t0;
  T* out = static_cast<T*>(p.out) + b * p.out_stride_b + c * p.out_stride_c + t0 + lane * V;

  float tap[W][1], bias[1];
  load_weights<T, 1, W>(task, c, tap, bias);
  Window<T, W> window;
  if (t0 > 0) {
    window.set_before({load_packed<T, V>(x - V)});
  } else if (p.initial_states) {
    Vector<T> before{};
#pragma unroll
    for (int w = 0; w < W - 1; ++w)
      before.element[V - (W - 1) + w] = input<T>(p, {0, p.T, b, false}, b, c, w - (W - 1));
    window.set_before(before);
  }

  x += lane * V;
  int left = int(rest < task.chunk ? rest : task.chunk);
#pragma unroll 1
  for (; left >= 2 * kStep; left -= 2 * kStep, x += 2 * kStep, out += 2 * kStep) {
    const Vector<T> pair[2] = {{load_packed<T, V>(x)}, {load_packed<T, V>(x + kStep)}};
    float acc[2 * V];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      window.advance(pair[i], lane);
      window.sums(tap, bias[0], acc + i * V);
    }
    activate<T>(acc, p.silu);
    store_packed<T, V>(out, narrow<T, V>(acc));
    store_packed<T, V>(out + kStep, narrow<T, V>(acc + V));
  }
#pragma unroll 1
  for (; left > 0; left -= kStep, x += kStep, out += kStep) {
    const bool is_mine = lane * V < left;
    window.advance({is_mine ? load_packed<T, V>(x) : Packed<T, V>{}}, lane);
    float acc[V];
    window.sums(tap, bias[0], acc);
    activate<T>(acc, p.silu);
    if (is_mine) store_packed<T, V>(out, narrow<T, V>(acc));
  }
}

// Whether tokens [begin, end) and the W-1 before them are one sequence, so that no tap needs a
// look. The lane answers for the `n` tokens from t.
__device__ inline bool one_sequence(const CausalConv1dParams& p, int64_t b, int64_t begin,
                                    int64_t end, int64_t t, int n, Run& run) {
  if (p.cu_seqlens) {
    if (begin >= run.end) run = run_at(p, b, begin, end);
    return run.end >= end && (run.begin <= begin - (p.W - 1) || begin == 0);
  }
  if (!p.seq_idx) return true;
  const int32_t* idx = p.seq_idx + b * p.seq_idx_stride_b;
  bool same = idx[begin] >= 0;
  for (int64_t s = t - (p.W - 1); s < t + n; ++s)
    if (s >= 0 && s < end) same = same && idx[s] == idx[begin];
  return __all_sync(~0u, same);
}

// Any rows, any sequences.
template <typename T, int W>
__global__ void __launch_bounds__(kThreads, 6)
    channel_first_general(const __grid_constant__ Task task) {
  constexpr int V = kVector<T>, kStep = kLanes * V;
  const CausalConv1dParams& p = task.p;
  const uint32_t id = blockIdx.x * kWarps + threadIdx.x / kLanes;
  const int lane = threadIdx.x % kLanes;
  if (id >= task.count) return;  // whole warps
  const uint32_t row = id / task.chunks;
  const int64_t b = row / uint32_t(p.C), c = row % uint32_t(p.C);
  const T* x = static_cast<const T*>(p.x) + b * p.x_stride_b + c * p.x_stride_c;
  T* out = static_cast<T*>(p.out) + b * p.out_stride_b + c * p.out_stride_c;

  // Vectors start where x is aligned, `lead` tokens before the first: rows of odd length stay wide.
  const int lead = int(reinterpret_cast<uintptr_t>(x) % 16 / sizeof(T));
  const bool wide = lead == int(reinterpret_cast<uintptr_t>(out) % 16 / sizeof(T));
  const int64_t start = int64_t(id % task.chunks) * task.chunk - lead;
  const int64_t t0 = start > 0 ? start : 0;
  const int64_t t1 = start + task.chunk < p.T ? start + task.chunk : p.T;
  if (t0 >= t1) return;

  float tap[W][1], bias[1];
  load_weights<T, 1, W>(task, c, tap, bias);

  const Run first_run = run_at(p, b, t0, t0);
  const auto input_or_zero = [&](int64_t t) {
    return t < t1 && t >= first_run.begin - (W - 1) ? input<T>(p, first_run, b, c, t) : T{};
  };
  Vector<T> data{};
  if (start > 0 || p.initial_states)
#pragma unroll
    for (int i = V - (W - 1); i < V; ++i) data.element[i] = input_or_zero(start - V + i);
  Window<T, W> window;
  window.set_before(data);

  Run run = first_run;
  const bool sequences = p.cu_seqlens || p.seq_idx;
  // The lane's next token after t0, and how many of them may start a vector that is whole.
  int next = lane * V - int(t0 - start);
  const int tokens = int(t1 - t0), starts = wide && tokens >= V ? tokens - V + 1 : 0;
  const T* from = x + start + lane * V;
  T* to = out + start + lane * V;
#pragma unroll 1
  for (int left = int(t1 - start); left > 0;
       left -= kStep, next += kStep, from += kStep, to += kStep) {
    const bool whole = unsigned(next) < unsigned(starts);
    if (whole) {
      data.words = load_packed<T, V>(from);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) data.element[i] = input_or_zero(t0 + next + i);
    }
    window.advance(data, lane);
    if (sequences) {
      const int64_t t = t0 + next, step = t - lane * V, end = step + kStep < t1 ? step + kStep : t1;
      if (!one_sequence(p, b, step > 0 ? step : 0, end, t, V, run)) {
#pragma unroll 1
        for (int64_t s = t > t0 ? t : t0; s < t + V && s < t1; ++s) {
          const Run own = run_at(p, b, s, s);
          float sum[1] = {bias[0]};
#pragma unroll
          for (int w = 0; w < W; ++w)
            sum[0] = fmaf(tap[w][0], widen(input<T>(p, own, b, c, s - (W - 1) + w)), sum[0]);
          activate<T>(sum, p.silu);
          out[s] = own.padding ? T{} : narrow<T, 1>(sum);
        }
        continue;
      }
    }
    float acc[V];
    window.sums(tap, bias[0], acc);
    activate<T>(acc, p.silu);
    data.words = narrow<T, V>(acc);
    if (whole) {
      store_packed<T, V>(to, data.words);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i)
        if (unsigned(next + i) < unsigned(tokens)) to[i] = data.element[i];
    }
  }
}

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
  // Warps of a chunk, and tokens with a lead.
  const int64_t tiles = last ? divide_up(p.C, kLanes * (wide ? vector : 1)) : p.C;
  const int64_t tokens = last || wide ? p.T : p.T + vector - 1;
  const int64_t shortest = last ? kMinRows : kMinSteps * kLanes * vector;
  int64_t chunk = last ? kMaxRows : kMaxSteps * kLanes * vector, chunks;
  for (;; chunk /= 2) {
    chunks = divide_up(tokens, chunk);
    if (chunk == shortest || p.B * chunks * tiles >= int64_t(kBlocksPerSm) * sms * kWarps) break;
  }
  const int64_t count = p.B * chunks * (last ? 1 : tiles);
  if (count > UINT32_MAX || tiles > UINT32_MAX) return cudaErrorInvalidConfiguration;
  const Task task{p,
                  uint32_t(chunk),
                  uint32_t(chunks),
                  uint32_t(count),
                  uint32_t(tiles),
                  weights_are_packed(p)};
  const auto& kernels = last ? (wide ? kChannelLast : kChannelLastNarrow)
                        : wide && !p.seq_idx && !p.cu_seqlens ? kChannelFirst
                                                              : kChannelFirstGeneral;
  return kernels[dtype][width].launch(divide_up(count, kWarps) * (last ? tiles : 1), kThreads,
                                      stream, task);
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
