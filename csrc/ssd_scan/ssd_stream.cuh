// SPDX-License-Identifier: Apache-2.0
// The dual form on mma.sync, for sm_80 and later: a block streams the tokens of one row, head and
// tile of P in chunks of 64, with the state in registers as the accumulator that it is.
//
//   Y  = exp(S)∘(C·stateᵀ) + (C·Bᵀ∘L∘dt)·X      S: cumulative sum of dt A in the chunk
//   state = exp(S_last) state + Xᵀ·(w∘B)        L[i,j] = exp(S_i - S_j), w = exp(S_last - S) dt
//
// Four warps: each has 16 rows of Y, and a quarter of N of the state. x, B, C and dt are read once
// and nothing else is written but y and the last state, apart from what segments hand on.
#pragma once

#include "core/cuda/launch.h"
#include "ssd_scan/ssd_chunk.cuh"
#include "ssd_scan/ssd_segments.cuh"

namespace ww {

template <int kP, int kN, int kBuffers>
struct Stream {
  static constexpr int kQ = kChunk, kWarps = 4, kThreads = 128;
  static constexpr int kTilesP = kP / 16;       // of the state's rows
  static constexpr int kColumns = kN / kWarps;  // of the state, a warp's
  static constexpr int kTilesN = kColumns / 8;
  static constexpr int kFours = kTilesP * kTilesN;
  using RowsX = Rows<kP * 2>;
  using RowsN = Rows<kN * 2>;
  static constexpr int kBytesX = kQ * RowsX::kStride, kBytesB = kQ * RowsN::kStride;
  static constexpr int kBytesC = (kP > kQ ? kP : kQ) * RowsN::kStride;  // or of the state in bf16

  struct Small {
    Decays decays[2];
    float D[kP];
    float partial[kWarps][kP];
    StreamSegment segment;
  };
  static constexpr int kSharedBytes = kBuffers * (kBytesX + kBytesB) + kBytesC + int(sizeof(Small));

  const SsdScanParams& p;
  Small& small;
  const StreamSegment segment;
  uint32_t memory;          // X, B; then C
  const bf16_t *x, *B, *C;  // token 0 of the row
  int lane, warp;
  bool is_aligned;
  bool has_state;           // it may be other than zero
  float A;                  // times log2(e)
  float state[kTilesP][kTilesN][4];

  __device__ Stream(const StreamTask& task, Small& small, uint32_t memory)
      : p(task.p), small(small), segment(small.segment), memory(memory) {
    const int64_t b = segment.b, h = segment.h;
    const int64_t g = uint32_t(h) / (uint32_t(p.H) / uint32_t(p.G));
    x = static_cast<const bf16_t*>(p.x) + b * p.x_stride_b + h * p.x_stride_h + segment.p0;
    B = static_cast<const bf16_t*>(p.B_) + b * p.B_stride_b + g * p.B_stride_g;
    C = static_cast<const bf16_t*>(p.C) + b * p.C_stride_b + g * p.C_stride_g;
    lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    is_aligned = task.is_aligned;
    A = p.A[h] * 1.44269504f;
  }

  __device__ uint32_t x_at(int buffer) const {
    return memory + uint32_t(buffer % kBuffers) * (kBytesX + kBytesB);
  }
  __device__ uint32_t b_at(int buffer) const { return x_at(buffer) + kBytesX; }
  __device__ uint32_t c_at() const { return memory + kBuffers * (kBytesX + kBytesB); }

  // Where a lane's rows of ldmatrix start: matrices that follow each other down the rows and then
  // along them, or along the rows and then down.
  template <typename R>
  __device__ uint32_t down() const {
    return R::place(lane % 16, lane / 16);
  }
  template <typename R>
  __device__ uint32_t along() const {
    return R::place(lane / 16 * 8 + lane % 8, lane / 8 % 2);
  }

  __device__ Outputs<kP> outputs() const {
    return {p, segment.b, segment.h, segment.p0, is_aligned};
  }

  // --- Copies ---

  // Rows of a chunk from `source` on, kWidth elements each, of which `width` exist; the rest is
  // zero.
  template <typename R, int kWidth>
  __device__ void copy_rows(uint32_t to, const bf16_t* source, int64_t stride, int64_t width,
                            int length) const {
    constexpr int kPieces = kWidth / 8, kCopies = kQ * kPieces / kThreads;
    constexpr int kStep = kThreads / kPieces;  // rows
    if (kThreads % kPieces == 0 && kStep % 8 == 0 && is_aligned && length == kQ &&
        width >= kWidth) {
      const int row = threadIdx.x / kPieces, piece = threadIdx.x % kPieces;
      const uint32_t first = to + R::place(row, piece);
      const bf16_t* from = source + row * stride + piece * 8;
      repeat<kCopies>([&](auto i) {
        ptx::cp_async<decltype(i)::value * kStep * R::kStride>(first, from);
        from += kStep * stride;
      });
      return;
    }
#pragma unroll 1
    for (int i = 0; i < kCopies; ++i) {
      const int at = threadIdx.x + i * kThreads, row = at / kPieces, piece = at % kPieces;
      const bool exists = row < length && piece * 8 < width;
      const bf16_t* from = source + row * stride + piece * 8;
      if (is_aligned) {
        ptx::cp_async(to + R::place(row, piece), exists ? from : source, exists ? 16 : 0);
      } else {
        union {
          uint4 words = {};
          bf16_t element[8];
        } eight;
#pragma unroll
        for (int j = 0; j < 8; ++j)
          if (exists) eight.element[j] = from[j];
        ptx::store_shared(to + R::place(row, piece), eight.words);
      }
    }
  }
  __device__ void copy_xb(const Chunk& c, int buffer) const {
    copy_rows<RowsX, kP>(x_at(buffer), x + c.t * p.x_stride_t, p.x_stride_t, p.P - segment.p0,
                         c.length);
    copy_rows<RowsN, kN>(b_at(buffer), B + c.t * p.B_stride_t, p.B_stride_t, p.N, c.length);
  }
  __device__ void copy_c(const Chunk& c) const {
    copy_rows<RowsN, kN>(c_at(), C + c.t * p.C_stride_t, p.C_stride_t, p.N, c.length);
  }

  // --- Products of a chunk ---

  // The fragments of this warp's 16 rows of C.
  __device__ void load_c(uint32_t (&c)[kN / 16][4]) const {
    const uint32_t first = down<RowsN>();
    repeat<kN / 16>([&](auto k) {
      constexpr int kPiece = 2 * decltype(k)::value;
      ptx::ldmatrix<RowsN::template kMore<0, kPiece>>(
          c[k], c_at() + warp * 16 * RowsN::kStride + RowsN::template moved<kPiece>(first));
    });
  }

  // C·Bᵀ, the tiles on and below the diagonal.
  __device__ void scores(const uint32_t (&c)[kN / 16][4], int buffer, float (&s)[8][4]) const {
    const uint32_t first = along<RowsN>();
    repeat<4>([&](auto u) {
      if (u > warp) return;
      repeat<kN / 16>([&](auto k) {
        constexpr int kPiece = 2 * decltype(k)::value;
        uint32_t f[4];
        ptx::ldmatrix<RowsN::template kMore<16 * decltype(u)::value, kPiece>>(
            f, b_at(buffer) + RowsN::template moved<kPiece>(first));
        multiply<decltype(k)::value == 0>(s[2 * u], c[k], f[0], f[1]);
        multiply<decltype(k)::value == 0>(s[2 * u + 1], c[k], f[2], f[3]);
      });
    });
  }

  template <bool kFirst>
  __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (kFirst)
      ptx::mma_bf16_first(d, a, b0, b1);
    else
      ptx::mma_bf16(d, a, b0, b1);
  }

  // The state in bf16, rows of N, where C was.
  __device__ void store_state() const {
    const uint32_t first = c_at() + RowsN::place(lane / 4, warp * kTilesN) + lane % 4 * 4;
    repeat<kTilesN>([&](auto n) {
      constexpr int kPiece = decltype(n)::value;
      const uint32_t to = RowsN::template moved<kPiece>(first);
      repeat<2 * kTilesP>([&](auto i) {
        constexpr int kHalf = decltype(i)::value;
        const float (&v)[4] = state[kHalf / 2][kPiece];
        ptx::store_shared<RowsN::template kMore<8 * kHalf, kPiece>>(
            to, narrow_word<bf16_t>(v[kHalf % 2 * 2], v[kHalf % 2 * 2 + 1]));
      });
    });
  }

  // y = exp(S)∘(C·stateᵀ)
  __device__ void from_state(const uint32_t (&c)[kN / 16][4], const Decays& d,
                             float (&y)[kP / 8][4]) const {
    const uint32_t first = along<RowsN>();
    repeat<kN / 16>([&](auto k) {
      constexpr int kPiece = 2 * decltype(k)::value;
      repeat<kP / 16>([&](auto n) {
        uint32_t f[4];
        ptx::ldmatrix<RowsN::template kMore<16 * decltype(n)::value, kPiece>>(
            f, c_at() + RowsN::template moved<kPiece>(first));
        multiply<decltype(k)::value == 0>(y[2 * n], c[k], f[0], f[1]);
        multiply<decltype(k)::value == 0>(y[2 * n + 1], c[k], f[2], f[3]);
      });
    });
    const float low = d.in[warp * 16 + lane / 4], high = d.in[warp * 16 + lane / 4 + 8];
#pragma unroll
    for (int n = 0; n < kP / 8; ++n)
      y[n][0] *= low, y[n][1] *= low, y[n][2] *= high, y[n][3] *= high;
  }

  // y += (scores∘L∘dt)·X
  __device__ void from_chunk(const float (&s)[8][4], const Decays& d, int buffer,
                             float (&y)[kP / 8][4]) const {
    const uint32_t first = down<RowsX>();
    const float of_row[2] = {d.row[warp * 16 + lane / 4], d.row[warp * 16 + lane / 4 + 8]};
    repeat<4>([&](auto u) {
      if (u > warp) return;
      uint32_t m[4];
      mask_block(s[2 * u], s[2 * u + 1], d, u, of_row, m);
      repeat<kP / 16>([&](auto n) {
        constexpr int kPiece = 2 * decltype(n)::value;
        uint32_t f[4];
        ptx::ldmatrix_transposed<RowsX::template kMore<16 * decltype(u)::value, kPiece>>(
            f, x_at(buffer) + RowsX::template moved<kPiece>(first));
        ptx::mma_bf16(y[2 * n], m, f[0], f[1]);
        ptx::mma_bf16(y[2 * n + 1], m, f[2], f[3]);
      });
    });
  }

  // state = exp(S_last) state + Xᵀ·(w∘B)
  __device__ void advance(const Decays& d, int buffer) {
    const float decay = ptx::ex2_approx(float(d.last));
#pragma unroll
    for (int m = 0; m < kTilesP; ++m)
#pragma unroll
      for (int n = 0; n < kTilesN; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) state[m][n][i] *= decay;
    const uint32_t first_x = along<RowsX>();
    const uint32_t first_b = RowsN::place(lane % 16, warp * kTilesN + lane / 16);
    repeat<kQ / 16>([&](auto k) {
      constexpr int kToken = 16 * decltype(k)::value;
      const float2 low = *reinterpret_cast<const float2*>(&d.out[kToken + lane % 4 * 2]);
      const float2 high = *reinterpret_cast<const float2*>(&d.out[kToken + lane % 4 * 2 + 8]);
      uint32_t x[kTilesP][4];
      repeat<kTilesP>([&](auto m) {
        constexpr int kPiece = 2 * decltype(m)::value;
        ptx::ldmatrix_transposed<RowsX::template kMore<kToken, kPiece>>(
            x[m], x_at(buffer) + RowsX::template moved<kPiece>(first_x));
      });
      repeat<kTilesN / 2>([&](auto n) {
        constexpr int kPiece = 2 * decltype(n)::value;
        uint32_t f[4];
        ptx::ldmatrix_transposed<RowsN::template kMore<kToken, kPiece>>(
            f, b_at(buffer) + RowsN::template moved<kPiece>(first_b));
        f[0] = scaled(f[0], low), f[1] = scaled(f[1], high);
        f[2] = scaled(f[2], low), f[3] = scaled(f[3], high);
#pragma unroll
        for (int m = 0; m < kTilesP; ++m) {
          ptx::mma_bf16(state[m][2 * n], x[m], f[0], f[1]);
          ptx::mma_bf16(state[m][2 * n + 1], x[m], f[2], f[3]);
        }
      });
    });
  }

  // The recurrence, token by token: a chunk with an infinity or a NaN, which masked products would
  // carry to earlier tokens. C is read from global memory, its place is taken.
  template <bool kOutputs>
  __device__ void recur(const Chunk& c, const Decays& d, int buffer) {
    const int quad = lane % 4, row = lane / 4;
    for (int i = 0; i < c.length; ++i) {
      const float decay = exp2f(d.step[i] * A);
      const int64_t t = c.t + i;
      const bf16_t* of_c = C + t * p.C_stride_t;
#pragma unroll
      for (int m = 0; m < kTilesP; ++m) {
        float in[2], sum[2] = {};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int column = m * 16 + half * 8 + row;
          float pair[2];
          widen_word<bf16_t>(
              ptx::load_shared(x_at(buffer) + RowsX::place(i, column / 8) + column % 8 / 2 * 4),
              pair);
          in[half] = d.step[i] * (column % 2 ? pair[1] : pair[0]);
        }
#pragma unroll
        for (int n = 0; n < kTilesN; ++n) {
          const int column = (warp * kTilesN + n) * 8 + quad * 2;
          float from_b[2], from_c[2] = {};
          widen_word<bf16_t>(
              ptx::load_shared(b_at(buffer) + RowsN::place(i, warp * kTilesN + n) + quad * 4),
              from_b);
          if (kOutputs && column < p.N)
            from_c[0] = widen(of_c[column]), from_c[1] = widen(of_c[column + 1]);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            float& s = state[m][n][k];
            s = fmaf(in[k / 2], from_b[k % 2], s * decay);
            if (column < p.N) sum[k / 2] = fmaf(s, from_c[k % 2], sum[k / 2]);
          }
        }
        if constexpr (kOutputs) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const float all = lane_sum<4>(sum[half]);
            if (quad == 0) small.partial[warp][m * 16 + half * 8 + row] = all;
          }
        }
      }
      if constexpr (kOutputs) {
        __syncthreads();
        const int column = threadIdx.x;
        if (column < kP && segment.p0 + column < p.P) {
          float y = 0.f;
          for (int w = 0; w < kWarps; ++w) y += small.partial[w][column];
          outputs().store_one(t, column, y, small.D[column]);
        }
        __syncthreads();
      }
    }
  }

  // --- A segment ---

  // Runs the segment's tokens through the state. Returns the decay of what it was before: the
  // product of all, 0 if a run starts inside.
  template <bool kOutputs>
  __device__ float run() {
    double decay = 0.0;
    bool kept = true;
    Chunk now = plan_chunk(p, segment.b, segment.begin, segment.end);
    if (now.length) {
      copy_xb(now, 0);
      if (kOutputs) copy_c(now);
      ptx::cp_async_commit();
      if (warp == 0) store_decays(load_steps(p, segment.b, segment.h, now), A, small.decays[0]);
    }
    for (int turn = 0; now.length; ++turn) {
      const Chunk next = plan_chunk(p, segment.b, now.t + now.length, segment.end);
      const Decays& d = small.decays[turn % 2];
      ptx::cp_async_wait<0>();
      __syncthreads();  // the chunk is there
      if (next.length && kBuffers > 1) {
        copy_xb(next, turn + 1);
        ptx::cp_async_commit();
      }
      const bool prepares = next.length && warp == (turn + 1) % kWarps;
      float2 steps{};
      if (prepares) steps = load_steps(p, segment.b, segment.h, next);
      if (now.fresh) {
        zero_state();
        kept = has_state = false;
      }
      bool finite = isfinite(float(d.last));
      if constexpr (kOutputs) {
        float y[kP / 8][4];
        {
          float s[8][4];
          uint32_t c[kN / 16][4];
          load_c(c);
          scores(c, turn, s);
          if (has_state) {
            __syncthreads();  // C is read
            store_state();
            __syncthreads();  // the state is written
            from_state(c, d, y);
          } else {
#pragma unroll
            for (int n = 0; n < kP / 8; ++n) y[n][0] = y[n][1] = y[n][2] = y[n][3] = 0.f;
          }
          from_chunk(s, d, turn, y);
        }
        finite = !__syncthreads_or(Outputs<kP>::is_poisoned(y));  // and the place of C is free
        if (next.length) {
          copy_c(next);
          ptx::cp_async_commit();
        }
        if (finite) {
          if (p.D) outputs().template add_skip<RowsX>(small.D, x_at(turn), y);
          if (p.z) outputs().apply_gate(now, y);
          outputs().store(now, y);
        }
      }
      if (finite)
        advance(d, turn);
      else
        recur<kOutputs>(now, d, turn);
      decay += d.last;
      has_state = true;
      if (prepares) store_decays(steps, A, small.decays[(turn + 1) % 2]);
      if (next.length && kBuffers == 1) {
        __syncthreads();  // X and B are read
        copy_xb(next, 0);
        ptx::cp_async_commit();
      }
      now = next;
    }
    __syncthreads();  // all is read: another run may start
    return kept ? ptx::ex2_approx(float(decay)) : 0.f;
  }

  __device__ void sync() const { __syncthreads(); }
  __device__ float* four_of_state(int i) { return state[i / kTilesN][i % kTilesN]; }
  __device__ void zero_state() {
#pragma unroll
    for (int m = 0; m < kTilesP; ++m)
#pragma unroll
      for (int n = 0; n < kTilesN; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) state[m][n][i] = 0.f;
  }

  // f(two neighbouring elements of the state, their place in (P,N))
  template <typename F>
  __device__ void for_pairs(F&& f) {
#pragma unroll
    for (int m = 0; m < kTilesP; ++m)
#pragma unroll
      for (int n = 0; n < kTilesN; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t row = segment.p0 + m * 16 + half * 8 + lane / 4;
          const int64_t column = (warp * kTilesN + n) * 8 + lane % 4 * 2;
          if (row < p.P && column < p.N)
            f(reinterpret_cast<float2&>(state[m][n][2 * half]), row * p.N + column);
        }
  }
};

template <int kP, int kN, int kBuffers>
__global__ void __launch_bounds__(128) ssd_stream(const __grid_constant__ StreamTask task) {
  using S = Stream<kP, kN, kBuffers>;
  extern __shared__ __align__(128) uint8_t memory[];
  const SsdScanParams& p = task.p;
  typename S::Small& small =
      *reinterpret_cast<typename S::Small*>(memory + S::kSharedBytes - sizeof(typename S::Small));
  if (threadIdx.x == 0) small.segment = StreamSegment::make<kP>(task, take_work(task));
  __syncthreads();
  const StreamSegment& segment = small.segment;
  S s(task, small, ptx::shared_address(memory));
  for (int i = threadIdx.x; i < kP; i += S::kThreads)
    small.D[i] = skip_of(p, segment.h, segment.p0 + i);
  run_segment(task, segment, s);
}

}  // namespace ww
