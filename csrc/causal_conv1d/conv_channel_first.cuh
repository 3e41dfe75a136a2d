// SPDX-License-Identifier: Apache-2.0
// Time in the vector: a warp owns one channel and walks along a chunk, 32 vectors of tokens a step;
// a lane gets the W-1 inputs before its own from the lane below.
//
//   channel_first          rows of one sequence and whole vectors
//   channel_first_general  any rows, any sequences. A block first finds the starts of sequences in
//                          its chunk, a bit a token in shared memory, for 8 channels. A step that
//                          sees no start takes the sums of channel_first; in another, a start
//                          replaces what is before it in the window: 32 to 39 warp instructions for
//                          32 outputs of sequences of 100 tokens, where one sequence takes 15 to 20
#pragma once

#include "causal_conv1d/conv_core.cuh"

namespace ww {
namespace {

constexpr int kMinSteps = 2, kMaxSteps = 8;  // of a chunk
constexpr int kGeneralThreads = 256;         // they share what they know of sequences

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
  // Before the sum of token i, restart(i) may change what is before it.
  template <typename Restart>
  __device__ void sums(const float (&tap)[W][1], float bias, float* acc, const Restart& restart) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      restart(i);
      acc[i] = bias;
#pragma unroll
      for (int w = 0; w < W; ++w) acc[i] = fmaf(tap[w][0], v[kBefore - (W - 1) + i + w], acc[i]);
    }
  }
  __device__ void sums(const float (&tap)[W][1], float bias, float* acc) {
    sums(tap, bias, acc, [](int) {});
  }
  // The lane's token i, or one before them if i < 0, is the first of a sequence: before it is its
  // state, W-1 elements that are `stride` apart, or zero.
  __device__ void start_sequence(int i, const T* state, int64_t stride) {
#pragma unroll
    for (int back = 1; back < W; ++back)
      if (i - back >= -(W - 1))
        v[kBefore + i - back] = state ? widen(state[(W - 1 - back) * stride]) : 0.f;
  }
};

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

// Where sequences start in the tokens of a block, from kLead before its chunk on; not at token 0.
template <int kTokens>
struct Starts {
  static constexpr int kLead = 32, kWords = (kLead + kTokens) / 32 + 1;  // one that bits() may read
  uint32_t start[kWords], padding[kWords];                               // a bit a token
  uint32_t sequence[kLead + kTokens];  // that starts there, of cu_seqlens

  static __device__ uint32_t bits(const uint32_t* words, uint32_t from) {
    return __funnelshift_r(words[from / 32], words[from / 32 + 1], from % 32);
  }

  // By all threads of a block. Returns the row of token 0's state, if the chunk has token 0.
  __device__ uint32_t find(const CausalConv1dParams& p, int64_t b, int64_t chunk_begin, int chunk) {
    const int64_t begin = chunk_begin - kLead, end = chunk_begin + chunk;
    const int thread = threadIdx.x, lane = thread % kLanes, words = (kLead + chunk) / 32;
    if (thread == 0) sequence[kLead] = uint32_t(b);
    if (p.seq_idx) {
      const int32_t* idx = p.seq_idx + b * p.seq_idx_stride_b;
#pragma unroll 4
      for (int word = thread / kLanes; word < words; word += kGeneralThreads / kLanes) {
        const int64_t t = begin + word * 32 + lane;
        const bool inside = t >= 0 && t < p.T;
        const int32_t own = inside ? idx[t] : 0, before = inside && t > 0 ? idx[t - 1] : own;
        const uint32_t starts = __ballot_sync(~0u, own != before);
        const uint32_t negative = __ballot_sync(~0u, own < 0);
        if (lane == 0) start[word] = starts, padding[word] = negative;
      }
    } else {
      for (int word = thread; word < words; word += kGeneralThreads)
        start[word] = padding[word] = 0;
      __syncthreads();
      // A search is for more sequences than the threads can look at.
      const bool many = p.num_seqs > kGeneralThreads && begin > 0;
#pragma unroll 1
      for (int64_t i = (many ? sequence_at(p, begin) : 0) + thread; i < p.num_seqs;
           i += kGeneralThreads) {
        const int64_t t = cu_seqlen(p, i);
        if (t >= end) break;
        if (t < begin || cu_seqlen(p, i + 1) <= t) continue;  // it is before, or has no token
        sequence[t - begin] = uint32_t(i);
        if (t > 0) atomicOr(&start[(t - begin) / 32], 1u << (t - begin) % 32);
      }
    }
    if (thread == 0) start[words] = padding[words] = 0;
    __syncthreads();
    return sequence[kLead];
  }
};

// The warps of a block have neighbouring channels of one chunk.
template <typename T, int W>
__global__ void __launch_bounds__(kGeneralThreads, 3)
    channel_first_general(const __grid_constant__ Task task) {
  constexpr int V = kVector<T>, kStep = kLanes * V;
  __shared__ Starts<kMaxSteps * kStep> starts;
  const CausalConv1dParams& p = task.p;
  const int lane = threadIdx.x % kLanes;
  const uint32_t tile = blockIdx.x / task.chunks;
  const int64_t b = tile / task.tiles;
  const int64_t c = int64_t(tile % task.tiles) * (kGeneralThreads / kLanes) + threadIdx.x / kLanes;
  const int64_t chunk_begin = int64_t(blockIdx.x % task.chunks) * task.chunk;
  const bool sequences = p.cu_seqlens || p.seq_idx;
  uint32_t first_row = uint32_t(b);
  if (sequences) first_row = starts.find(p, b, chunk_begin, int(task.chunk));
  if (c >= p.C) return;  // whole warps
  const T* x = static_cast<const T*>(p.x) + b * p.x_stride_b + c * p.x_stride_c;
  T* out = static_cast<T*>(p.out) + b * p.out_stride_b + c * p.out_stride_c;

  // Vectors start where x is aligned, `lead` tokens before the first: rows of odd length stay wide.
  const int lead = int(reinterpret_cast<uintptr_t>(x) % 16 / sizeof(T));
  const bool wide = lead == int(reinterpret_cast<uintptr_t>(out) % 16 / sizeof(T));
  const int64_t start = chunk_begin - lead;
  const int64_t t0 = start > 0 ? start : 0;
  const int64_t t1 = start + task.chunk < p.T ? start + task.chunk : p.T;
  if (t0 >= t1) return;

  float tap[W][1], bias[1];
  load_weights<T, 1, W>(task, c, tap, bias);

  const T* states = static_cast<const T*>(p.initial_states) + c * p.initial_stride_c;
  const auto input_or_zero = [&](int64_t t) {
    if (t >= 0) return t < t1 ? x[t] : T{};
    if (!p.initial_states || t < -(W - 1)) return T{};
    return states[first_row * p.initial_stride_b + (t + W - 1) * p.initial_stride_w];
  };
  Vector<T> data{};
  if (start > 0)
    data.words = load_packed<T, V>(x + start - V);
  else if (p.initial_states)
#pragma unroll
    for (int i = V - (W - 1); i < V; ++i) data.element[i] = input_or_zero(start - V + i);
  Window<T, W> window;
  window.set_before(data);

  // The lane's next token after t0, and how many of them may start a vector that is whole.
  int next = lane * V - int(t0 - start);
  const int tokens = int(t1 - t0), starts_of_vectors = wide && tokens >= V ? tokens - V + 1 : 0;
  int bit = starts.kLead - lead + lane * V;  // of the lane's next token
  const T* from = x + start + lane * V;
  T* to = out + start + lane * V;
#pragma unroll 1
  for (int left = int(t1 - start); left > 0;
       left -= kStep, next += kStep, bit += kStep, from += kStep, to += kStep) {
    const bool whole = unsigned(next) < unsigned(starts_of_vectors);
    if (whole) {
      data.words = load_packed<T, V>(from);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) data.element[i] = input_or_zero(t0 + next + i);
    }
    window.advance(data, lane);
    // Of starts those that the lane's taps can see, which are W-2 before its tokens at the most.
    uint32_t starting = 0, padded = 0;
    if (sequences) {
      constexpr int kSeen = V + W - 2;
      starting = starts.bits(starts.start, bit - (W - 2)) & ((1u << kSeen) - 1);
      padded = starts.bits(starts.padding, bit) & ((1u << V) - 1);
    }
    float acc[V];
    if (!__any_sync(~0u, starting | padded)) {
      window.sums(tap, bias[0], acc);
    } else {
      const auto restart = [&](int i) {
        if (starting >> (i + W - 2) & 1) {
          const bool has_state = p.cu_seqlens && p.initial_states;
          const T* state =
              has_state ? states + starts.sequence[bit + i] * p.initial_stride_b : nullptr;
          window.start_sequence(i, state, p.initial_stride_w);
        }
      };
#pragma unroll
      for (int i = -(W - 2); i < 0; ++i) restart(i);
      window.sums(tap, bias[0], acc, restart);
    }
    activate<T>(acc, p.silu);
    if (padded)
#pragma unroll
      for (int i = 0; i < V; ++i)
        if (padded >> i & 1) acc[i] = 0.f;
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

}  // namespace
}  // namespace ww
