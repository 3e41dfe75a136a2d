// SPDX-License-Identifier: Apache-2.0
// The dual form of ssd_stream.cuh on sm_90a, for tiles of 64 columns of a head: one warp loads
// chunks by TMA into two stages and computes their decays, while a warpgroup multiplies. Its warps
// have 16 tokens of Y and 16 rows of the state each.
//
//   G = C·Bᵀ, Y = C·stateᵀ    from shared memory, the state as bf16
//   Y = exp(S)∘Y + M·X        M, from G, in registers
//   state += (w∘X)ᵀ·B         w∘X in registers: half the elements that w∘B has
//
// The products of the state go on while the chunk's outputs are rounded and stored.
#pragma once

#include <cuda.h>

#include "core/cuda/hopper.cuh"
#include "core/cuda/launch.h"
#include "ssd_scan/ssd_chunk.cuh"
#include "ssd_scan/ssd_segments.cuh"

namespace ww {

struct HopperTask : StreamTask {
  CUtensorMap x, B, C, out;  // (P or N, T, H or G, batch), boxes of 64 x 64
  bool is_mapped;            // they are there
};

// A warpgroup that computes, and one of which a warp loads: only whole ones can pass registers on,
// and with an equal share for all, two blocks of a multiprocessor would spill.
constexpr int kHopperThreads = 256;

template <int kN>
struct Hopper {
  static constexpr int kP = 64, kThreads = 128;  // that compute
  static constexpr int kStages = 2, kBlocks = kN / 64, kFours = kN / 8;
  static constexpr uint32_t kBytes = 64 * 128;   // of 64 x 64 elements, rows of 128 bytes
  static constexpr uint32_t kStageBytes = (1 + 2 * kBlocks) * kBytes;
  using Row = Rows<128>;

  struct Small {
    Decays decays[kStages];
    float D[kP];
    Chunk chunks[kStages];
    uint64_t full[kStages], empty[kStages];
    StreamSegment segment;
  };
  static constexpr int kSharedBytes =
      kStages * kStageBytes + (kBlocks + 1) * kBytes + int(sizeof(Small));

  const HopperTask& task;
  const SsdScanParams& p;
  Small& small;
  const StreamSegment& segment;  // in shared memory, for registers are short
  uint32_t memory;               // stages of X, B, C; the state; Y
  int lane, warp;
  int turn = 0;                  // chunks since the start
  bool has_state;
  float A;                       // times log2(e)
  float state[kFours][4];

  __device__ Hopper(const HopperTask& task, Small& small, uint32_t memory)
      : task(task), p(task.p), small(small), segment(small.segment), memory(memory) {
    lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    A = p.A[segment.h] * 1.44269504f;
  }

  __device__ int stage() const { return turn % kStages; }
  __device__ uint32_t x_at() const { return memory + stage() * kStageBytes; }
  __device__ uint32_t b_at(int block) const { return x_at() + (1 + block) * kBytes; }
  __device__ uint32_t c_at(int block) const { return b_at(kBlocks + block); }
  __device__ uint32_t state_at(int block) const {
    return memory + kStages * kStageBytes + block * kBytes;
  }
  __device__ uint32_t y_at() const { return state_at(kBlocks); }
  __device__ uint32_t full() const { return ptx::shared_address(&small.full[stage()]); }
  __device__ uint32_t empty() const { return ptx::shared_address(&small.empty[stage()]); }

  // --- The warp that loads ---

  // The chunks of the segment, and one of length 0.
  __device__ void load(bool outputs) {
    Chunk c = plan_chunk(p, segment.b, segment.begin, segment.end);
    for (bool more = true; more; ++turn) {
      ptx::mbarrier_wait(empty(), turn / kStages % 2 ^ 1);
      if (lane == 0) small.chunks[stage()] = c;
      more = c.length;
      if (more) {
        if (!task.is_mapped)
          copy(c, outputs);
        else if (lane == 0)
          start_tma(c, outputs);
        store_decays(load_steps(p, segment.b, segment.h, c), A, small.decays[stage()]);
        c = plan_chunk(p, segment.b, c.t + c.length, segment.end);
      }
      __syncwarp();
      if (lane == 0) ptx::mbarrier_arrive(full());
    }
  }

  __device__ int group() const { return uint32_t(segment.h) / (uint32_t(p.H) / uint32_t(p.G)); }
  __device__ void start_tma(const Chunk& c, bool outputs) const {
    const int t = int(c.t), h = int(segment.h), g = group(), b = int(segment.b);
    ptx::mbarrier_expect(full(), outputs ? kStageBytes : kStageBytes - kBlocks * kBytes);
    ptx::tma_load(x_at(), &task.x, int(segment.p0), t, h, b, full());
    for (int i = 0; i < kBlocks; ++i) {
      ptx::tma_load(b_at(i), &task.B, 64 * i, t, g, b, full());
      if (outputs) ptx::tma_load(c_at(i), &task.C, 64 * i, t, g, b, full());
    }
  }

  // What TMA does, for tensors that it cannot take.
  __device__ void copy(const Chunk& c, bool outputs) const {
    const auto of = [](const void* base, int64_t at) {
      return static_cast<const bf16_t*>(base) + at;
    };
    const int64_t b = segment.b, h = segment.h, p0 = segment.p0, g = group();
    copy_tile(x_at(), of(p.x, b * p.x_stride_b + c.t * p.x_stride_t + h * p.x_stride_h + p0),
              p.x_stride_t, p.P - p0, c.length);
    for (int i = 0; i < kBlocks; ++i) {
      copy_tile(b_at(i),
                of(p.B_, b * p.B_stride_b + c.t * p.B_stride_t + g * p.B_stride_g + 64 * i),
                p.B_stride_t, p.N - 64 * i, c.length);
      if (outputs)
        copy_tile(c_at(i),
                  of(p.C, b * p.C_stride_b + c.t * p.C_stride_t + g * p.C_stride_g + 64 * i),
                  p.C_stride_t, p.N - 64 * i, c.length);
    }
    ptx::fence_async();
  }
  __device__ void copy_tile(uint32_t to, const bf16_t* source, int64_t stride, int64_t width,
                            int length) const {
    for (int i = lane; i < 64 * 8; i += 32) {
      const int row = i / 8, piece = i % 8;
      union {
        uint4 words = {};
        bf16_t element[8];
      } eight;
      if (row < length && piece * 8 < width)
        for (int j = 0; j < 8; ++j) eight.element[j] = source[row * stride + piece * 8 + j];
      ptx::store_shared(to + Row::place(row, piece), eight.words);
    }
  }

  // --- The warps that compute ---

  __device__ void sync() const { ptx::barrier_sync<1, kThreads>(); }
  __device__ Outputs<kP> outputs() const {
    return {p, segment.b, segment.h, segment.p0, task.is_aligned};
  }

  // Rows of the chunk that are not its own, but of tokens that follow.
  template <bool kOutputs>
  __device__ void clear_tail(int length) const {
    constexpr int kTiles = 1 + (kOutputs ? 2 : 1) * kBlocks;
    for (int i = length * 8 + int(threadIdx.x); i < 64 * 8; i += kThreads)
      for (int tile = 0; tile < kTiles; ++tile)
        ptx::store_shared(x_at() + tile * kBytes + i * 16, uint4{});
  }

  // Tiles of fragments as bf16 in rows of shared memory.
  template <int kTiles>
  __device__ void store_tiles(uint32_t to, const float (&v)[kTiles][4]) const {
    const uint32_t first = to + Row::place(warp * 16 + lane % 16, lane / 16);
    repeat<kTiles / 2>([&](auto n) {
      const float (&left)[4] = v[2 * n];
      const float (&right)[4] = v[2 * n + 1];
      ptx::stmatrix(Row::template moved<2 * decltype(n)::value % 8>(first) + n / 4 * kBytes,
                    narrow_word<bf16_t>(left[0], left[1]), narrow_word<bf16_t>(left[2], left[3]),
                    narrow_word<bf16_t>(right[0], right[1]),
                    narrow_word<bf16_t>(right[2], right[3]));
    });
  }

  // G = C·Bᵀ and y = C·stateᵀ, a group each.
  __device__ void multiply_c(float (&g)[8][4], float (&y)[8][4]) const {
    const uint64_t c = ptx::swizzled_operand(c_at(0)), b = ptx::swizzled_operand(b_at(0)),
                   from = ptx::swizzled_operand(state_at(0));
    const auto along = [](int k) { return (k / 4 * kBytes + k % 4 * 32) >> 4; };
    ptx::wgmma_fence();
    repeat<kN / 16>(
        [&](auto k) { ptx::wgmma<(decltype(k)::value > 0)>(g, c + along(k), b + along(k)); });
    ptx::wgmma_commit();
    repeat<kN / 16>(
        [&](auto k) { ptx::wgmma<(decltype(k)::value > 0)>(y, c + along(k), from + along(k)); });
    ptx::wgmma_commit();
  }

  // y = exp(S)∘y + (g∘L∘dt)·X
  __device__ void finish_outputs(const Decays& d, float (&g)[8][4], float (&y)[8][4]) const {
    const int row = warp * 16 + lane / 4;
    const float of_row[2] = {d.row[row], d.row[row + 8]};
    uint32_t m[4][4];
    ptx::wgmma_wait<1>();
    ptx::pin(g);
    repeat<4>([&](auto u) {
      if (u <= warp)
        mask_block(g[2 * u], g[2 * u + 1], d, u, of_row, m[u]);
      else
        m[u][0] = m[u][1] = m[u][2] = m[u][3] = 0;
    });
    ptx::wgmma_wait<0>();
    ptx::pin(y);
    const float in[2] = {d.in[row], d.in[row + 8]};
#pragma unroll
    for (int n = 0; n < 8; ++n)
      y[n][0] *= in[0], y[n][1] *= in[0], y[n][2] *= in[1], y[n][3] *= in[1];
    multiply(y, m, x_at());
  }

  // sum += a·(64 tokens of X or B), a group.
  template <int kTiles>
  __device__ void multiply(float (&sum)[kTiles][4], uint32_t (&a)[4][4], uint32_t tokens) const {
    const uint64_t b = ptx::swizzled_operand(tokens, kBytes);
    ptx::pin(a);
    ptx::pin(sum);
    ptx::wgmma_fence();
    repeat<4>([&](auto u) { ptx::wgmma_add(sum, a[u], b + (u * 16 * 128 >> 4)); });
    ptx::wgmma_commit();
  }

  // (w∘X)ᵀ, this warp's 16 columns of X.
  __device__ void load_scaled_x(const Decays& d, uint32_t (&x)[4][4]) const {
    const uint32_t first = x_at() + Row::place(lane / 16 * 8 + lane % 8, warp * 2 + lane / 8 % 2);
    repeat<4>([&](auto u) {
      constexpr int kToken = 16 * decltype(u)::value;
      const float2 low = *reinterpret_cast<const float2*>(&d.out[kToken + lane % 4 * 2]);
      const float2 high = *reinterpret_cast<const float2*>(&d.out[kToken + lane % 4 * 2 + 8]);
      ptx::ldmatrix_transposed<Row::kMore<kToken, 0>>(x[u], first);
      x[u][0] = scaled(x[u][0], low), x[u][1] = scaled(x[u][1], low);
      x[u][2] = scaled(x[u][2], high), x[u][3] = scaled(x[u][3], high);
    });
  }

  // The recurrence, token by token: a chunk with an infinity or a NaN, which masked products would
  // carry to earlier tokens.
  template <bool kOutputs>
  __device__ void recur(const Chunk& c, const Decays& d) {
    const int quad = lane % 4, row = warp * 16 + lane / 4;
    const auto pair_of = [&](uint32_t tile, int token, int column, float (&pair)[2]) {
      widen_word<bf16_t>(
          ptx::load_shared(tile + Row::place(token, column / 8) + column % 8 / 2 * 4), pair);
    };
    for (int i = 0; i < c.length; ++i) {
      const float decay = exp2f(d.step[i] * A);
      float in[2], sum[2] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float pair[2];
        pair_of(x_at(), i, row + 8 * half, pair);
        in[half] = d.step[i] * (row % 2 ? pair[1] : pair[0]);
      }
#pragma unroll
      for (int n = 0; n < kFours; ++n) {
        const int column = n * 8 + quad * 2;
        float from_b[2], from_c[2] = {};
        pair_of(b_at(n / 8), i, column % 64, from_b);
        if (kOutputs) pair_of(c_at(n / 8), i, column % 64, from_c);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float& s = state[n][k];
          s = fmaf(in[k / 2], from_b[k % 2], s * decay);
          if (column < p.N) sum[k / 2] = fmaf(s, from_c[k % 2], sum[k / 2]);
        }
      }
      if constexpr (kOutputs) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float y = lane_sum<4>(sum[half]);
          const int column = row + 8 * half;
          if (quad == 0 && segment.p0 + column < p.P)
            outputs().store_one(c.t + i, column, y, small.D[column]);
        }
      }
    }
  }

  // Runs the segment's tokens through the state. Returns the decay of what it was before: the
  // product of all, 0 if a run starts inside.
  template <bool kOutputs>
  __device__ float run() {
    double decay = 0.0;
    bool kept = true;
    if (kOutputs) publish_state();
    for (;; ++turn) {
      ptx::mbarrier_wait(full(), turn / kStages % 2);
      const Chunk now = small.chunks[stage()];
      if (!now.length) break;
      const Decays& d = small.decays[stage()];
      if (now.length < kChunk) clear_tail<kOutputs>(now.length);
      if (now.fresh) {
        zero_state();
        kept = false;
      }
      if (now.length < kChunk || now.fresh) publish_state();
      bool finite = isfinite(float(d.last));
      float y[8][4];
      uint32_t x[4][4];
      if constexpr (kOutputs) {
        float g[8][4];
        multiply_c(g, y);
        finish_outputs(d, g, y);
        load_scaled_x(d, x);
        ptx::wgmma_wait<0>();
        ptx::pin(y);
        if (threadIdx.x == 0) ptx::tma_store_wait_read();  // the place of Y is free
        finite = !ptx::barrier_or<1, kThreads>(Outputs<kP>::is_poisoned(y));
      } else {
        load_scaled_x(d, x);
      }
      const bool by_tma = finite && task.is_mapped && now.length == kChunk;
      if (finite) {
        const float by = ptx::ex2_approx(float(d.last));
#pragma unroll
        for (int i = 0; i < 4 * kFours; ++i) state[i / 4][i % 4] *= by;
        multiply(state, x, b_at(0));
        if constexpr (kOutputs) {
          if (p.D) outputs().template add_skip<Row>(small.D, x_at(), y);
          if (p.z) outputs().apply_gate(now, y);
          if (by_tma)
            store_tiles(y_at(), y);
          else
            outputs().store(now, y);
        }
        ptx::wgmma_wait<0>();
        ptx::pin(state);
      } else {
        recur<kOutputs>(now, d);
      }
      decay += d.last;
      if (kOutputs)
        publish_state();
      else
        sync();
      if (threadIdx.x == 0) {
        ptx::mbarrier_arrive(empty());
        if (kOutputs && by_tma) {
          ptx::tma_store(&task.out, int(segment.p0), int(now.t), int(segment.h), int(segment.b),
                         y_at());
          ptx::tma_store_commit();
        }
      }
    }
    sync();  // all know that there is no more
    if (threadIdx.x == 0) {
      ptx::mbarrier_arrive(empty());
      ptx::tma_store_wait_read();
    }
    ++turn;
    return kept ? ptx::ex2_approx(float(decay)) : 0.f;
  }

  // What was written to shared memory is there for products and TMA, and with it the state.
  __device__ void publish_state() const {
    store_tiles(state_at(0), state);
    ptx::fence_async();
    sync();
  }

  __device__ float* four_of_state(int i) { return state[i]; }
  __device__ void zero_state() {
#pragma unroll
    for (int i = 0; i < 4 * kFours; ++i) state[i / 4][i % 4] = 0.f;
  }
  // f(two neighbouring elements of the state, their place in (P,N))
  template <typename F>
  __device__ void for_pairs(F&& f) {
#pragma unroll
    for (int n = 0; n < kFours; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t row = segment.p0 + warp * 16 + half * 8 + lane / 4;
        const int64_t column = n * 8 + lane % 4 * 2;
        if (row < p.P && column < p.N)
          f(reinterpret_cast<float2&>(state[n][2 * half]), row * p.N + column);
      }
  }
};

// Other architectures get a kernel that no block size fits, and the launcher does not take it.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
template <int kN>
__global__ void __launch_bounds__(kHopperThreads, 2)
    ssd_hopper(const __grid_constant__ HopperTask task) {
  using S = Hopper<kN>;
  extern __shared__ __align__(1024) uint8_t stages[];
  typename S::Small& small =
      *reinterpret_cast<typename S::Small*>(stages + S::kSharedBytes - sizeof(typename S::Small));
  if (threadIdx.x == 0) {
    small.segment = StreamSegment::make<S::kP>(task, take_work(task));
    for (int i = 0; i < S::kStages; ++i) {
      ptx::mbarrier_init(ptx::shared_address(&small.full[i]), 1);
      ptx::mbarrier_init(ptx::shared_address(&small.empty[i]), 1);
    }
    ptx::fence_async();
  }
  __syncthreads();
  const StreamSegment& segment = small.segment;
  S s(task, small, ptx::shared_address(stages));
  if (threadIdx.x >= S::kThreads) {
    ptx::release_registers<56>();
    if (threadIdx.x >= S::kThreads + 32) return;
    if (!segment.is_last) s.load(false);
    s.load(true);
    return;
  }
  ptx::acquire_registers<200>();
  for (int i = threadIdx.x; i < S::kP; i += S::kThreads)
    small.D[i] = skip_of(task.p, segment.h, segment.p0 + i);
  run_segment(task, segment, s);
}
#else
template <int kN>
__global__ void __launch_bounds__(1) ssd_hopper(const __grid_constant__ HopperTask) {}
#endif

}  // namespace ww
