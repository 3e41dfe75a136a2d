// SPDX-License-Identifier: Apache-2.0
// The dual form on mma.sync, for sm_80 and later: a block streams the tokens of one row, head and
// tile of P in chunks of 64, with the state in registers as the accumulator that it is.
//
//   Y  = exp(S)∘(C·stateᵀ) + (C·Bᵀ∘L∘dt)·X      S: cumulative sum of dt A in the chunk
//   state = exp(S_last) state + Xᵀ·(w∘B)        L[i,j] = exp(S_i - S_j), w = exp(S_last - S) dt
//
// Four warps: each has 16 rows of Y, and a quarter of N of the state. x, B, C and dt are read once
// and nothing else is written but y and the last state. Where rows and heads do not fill the card, a
// row is cut into segments: a block first runs its segment for the state alone, adds what it gets
// from the block before, hands the sum on and only then computes its outputs; x and B of a segment
// are read a second time, mostly from L2.
//
// Exponents are in units of log 2. Their sums are made in fp64 and only differences are rounded,
// against the first token of a block of 16, so strong decay loses nothing to cancellation.
#pragma once

#include "core/cuda/launch.h"
#include "core/cuda/repeat.cuh"
#include "ssd_scan/ssd_sequences.cuh"

namespace ww {

struct StreamTask {
  SsdScanParams p;
  uint32_t tiles, units;   // tiles of P; rows x heads x tiles
  uint32_t segments;       // of a row
  int64_t segment_tokens;  // a multiple of 64
  bool is_aligned;         // rows of x, B, C and z start on 16 bytes
  float* states;           // (segments - 1, units) accumulators, if there are several segments
  int32_t* ready;          // (segments - 1, units) flags, and a counter of the blocks that started
};

// Rows of kBytes in shared memory such that 16 bytes at one place of 8 neighbouring rows lie in
// different banks: by exchanging the pieces of a row, or by an odd distance between rows.
template <int kBytes>
struct Rows {
  static constexpr bool kSwizzled = kBytes % 128 == 0;
  static constexpr int kStride = kSwizzled ? kBytes : (kBytes / 16 | 1) * 16;
  __device__ static uint32_t place(uint32_t row, uint32_t piece) {
    return row * kStride + (kSwizzled ? piece ^ row % 8 : piece) * 16;
  }
  // The same as place(row + a multiple of 8, piece ^ kPiece) in two parts: what a lane computes from
  // place(row, piece), and what is added to that as a constant.
  template <int kPiece>
  __device__ static uint32_t moved(uint32_t place) {
    return kSwizzled ? place ^ kPiece * 16 : place;
  }
  template <int kRow, int kPiece>
  static constexpr int kMore = kRow * kStride + (kSwizzled ? 0 : kPiece * 16);
};

template <int kP, int kN, int kBuffers>
struct Stream {
  static constexpr int kQ = 64, kWarps = 4, kThreads = 128;
  static constexpr int kTilesP = kP / 16;       // of the state's rows
  static constexpr int kColumns = kN / kWarps;  // of the state, a warp's
  static constexpr int kTilesN = kColumns / 8;
  using RowsX = Rows<kP * 2>;
  using RowsN = Rows<kN * 2>;
  static constexpr int kBytesX = kQ * RowsX::kStride, kBytesB = kQ * RowsN::kStride;
  static constexpr int kBytesC = (kP > kQ ? kP : kQ) * RowsN::kStride;  // or of the state in bf16

  struct Decays {                   // of the tokens of a chunk; units of log 2
    float row[kQ];                  // sum since the start of the token's block of 16
    float column[kQ];               // the same less log dt, so that exp(row - column) is L dt
    float step[kQ];                 // dt
    float in[kQ];                   // exp(S)
    float out[kQ];                  // exp(S_last - S) dt
    float apart[kQ / 16][kQ / 16];  // the sum between the starts of two blocks
    double last;
  };
  struct Small {
    Decays decays[2];
    float D[kP];
    float partial[kWarps][kP];
    uint32_t ticket;
  };
  static constexpr int kSharedBytes = kBuffers * (kBytesX + kBytesB) + kBytesC + int(sizeof(Small));

  struct Chunk {
    int64_t t;
    int length;  // 0: there is no more
    bool fresh;  // a run starts here
  };

  const SsdScanParams& p;
  Small& small;
  uint32_t memory;              // X, B; then C
  uint32_t b, h, p0;
  const bf16_t *x, *B, *C, *z;  // token 0 of the row, and of out
  bf16_t* out;
  int lane, warp;
  bool is_aligned;
  bool has_state;  // it may be other than zero
  float A;         // times log2(e)
  float state[kTilesP][kTilesN][4];

  __device__ Stream(const StreamTask& task, Small& small, uint32_t memory, int64_t b, int64_t h,
                    int64_t p0)
      : p(task.p), small(small), memory(memory), b(b), h(h), p0(p0) {
    const int64_t g = uint32_t(h) / (uint32_t(p.H) / uint32_t(p.G));
    x = static_cast<const bf16_t*>(p.x) + b * p.x_stride_b + h * p.x_stride_h + p0;
    B = static_cast<const bf16_t*>(p.B_) + b * p.B_stride_b + g * p.B_stride_g;
    C = static_cast<const bf16_t*>(p.C) + b * p.C_stride_b + g * p.C_stride_g;
    z = static_cast<const bf16_t*>(p.z) + b * p.z_stride_b + h * p.z_stride_h + p0;
    out = static_cast<bf16_t*>(p.out) + (b * p.T * p.H + h) * p.P + p0;
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

  // --- Chunks and copies ---

  __device__ Chunk plan(int64_t t, int64_t end) const {
    if (t >= end) return {t, 0, false};
    int length = end - t < kQ ? int(end - t) : kQ;
    if (p.seq_idx) {
      const int32_t* idx = p.seq_idx + b * p.seq_idx_stride_b + t;
#pragma unroll
      for (int half = 1; half >= 0; --half) {  // the first change wins
        const int i = lane + half * 32;
        const uint32_t changes = __ballot_sync(~0u, i > 0 && i < length && idx[i] != idx[i - 1]);
        if (changes) length = half * 32 + __ffs(changes) - 1;
      }
    }
    return {t, length, starts_run(p, b, t)};
  }

  // Rows of a chunk from `source` on, kWidth elements each, of which `width` exist; the rest is zero.
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
    copy_rows<RowsX, kP>(x_at(buffer), x + c.t * p.x_stride_t, p.x_stride_t, p.P - p0, c.length);
    copy_rows<RowsN, kN>(b_at(buffer), B + c.t * p.B_stride_t, p.B_stride_t, p.N, c.length);
  }
  __device__ void copy_c(const Chunk& c) const {
    copy_rows<RowsN, kN>(c_at(), C + c.t * p.C_stride_t, p.C_stride_t, p.N, c.length);
  }

  // A warp's work: two tokens a lane.
  __device__ float2 load_steps(const Chunk& c) const {
    float2 v{0.f, 0.f};
    if (2 * lane < c.length) v.x = step_of(p, b, c.t + 2 * lane, h);
    if (2 * lane + 1 < c.length) v.y = step_of(p, b, c.t + 2 * lane + 1, h);
    return v;
  }
  __device__ void store_decays(float2 step, Decays& d) const {
    const double first = double(step.x) * A, both = first + double(step.y) * A;
    double sum = both;  // up to and with this lane
#pragma unroll
    for (int away = 1; away < 32; away *= 2) {
      const double other = __shfl_up_sync(~0u, sum, away);
      if (lane >= away) sum += other;
    }
    const double last = __shfl_sync(~0u, sum, 31);
    double before = __shfl_up_sync(~0u, sum, 1);
    if (lane == 0) before = 0.0;
    const double start = __shfl_sync(~0u, before, lane / 8 * 8);
    const double sums[2] = {before + first, sum};
    const float steps[2] = {step.x, step.y};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int j = 2 * lane + i;
      d.row[j] = float(sums[i] - start);
      // The log of a negative step is no number, and recur() takes the chunk.
      d.column[j] = d.row[j] - log2f(steps[i]);
      d.step[j] = steps[i];
      d.in[j] = ptx::ex2_approx(float(sums[i]));
      d.out[j] = ptx::ex2_approx(float(last - sums[i])) * steps[i];
    }
    const double row = __shfl_sync(~0u, start, lane / 4 * 8),
                 column = __shfl_sync(~0u, start, lane % 4 * 8);
    if (lane < 16) d.apart[lane / 4][lane % 4] = float(row - column);
    if (lane == 0) d.last = last;
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
    const int quad = lane % 4, row = lane / 4;
    const uint32_t first = down<RowsX>();
    const float of_row[2] = {d.row[warp * 16 + row], d.row[warp * 16 + row + 8]};
    repeat<4>([&](auto u) {
      if (u > warp) return;
      const float apart = d.apart[warp][u], low = of_row[0] + apart, high = of_row[1] + apart;
      uint32_t m[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 decay =
            *reinterpret_cast<const float2*>(&d.column[u * 16 + half * 8 + quad * 2]);
        const float (&v)[4] = s[2 * u + half];
        float w[4] = {v[0] * ptx::ex2_approx(low - decay.x), v[1] * ptx::ex2_approx(low - decay.y),
                      v[2] * ptx::ex2_approx(high - decay.x),
                      v[3] * ptx::ex2_approx(high - decay.y)};
        if (u == warp) {  // later tokens, whose decay may be infinite
          const int column = half * 8 + quad * 2;
          w[0] = column > row ? 0.f : w[0], w[1] = column + 1 > row ? 0.f : w[1];
          w[2] = column > row + 8 ? 0.f : w[2], w[3] = column + 1 > row + 8 ? 0.f : w[3];
        }
        m[2 * half] = narrow_word<bf16_t>(w[0], w[1]);
        m[2 * half + 1] = narrow_word<bf16_t>(w[2], w[3]);
      }
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

  __device__ static uint32_t scaled(uint32_t pair, float2 by) {
    float v[2];
    widen_word<bf16_t>(pair, v);
    return narrow_word<bf16_t>(v[0] * by.x, v[1] * by.y);
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

  // --- Outputs ---

  // Neighbouring lanes exchange halves of two tiles, so that each has 4 columns of one: 8 bytes.
  __device__ uint32_t exchange(uint32_t of_odd, uint32_t of_even) const {
    return __shfl_xor_sync(~0u, lane % 2 ? of_odd : of_even, 1);
  }

  // y += D x
  __device__ void add_skip(int buffer, float (&y)[kP / 8][4]) const {
    const uint32_t first = RowsX::place(warp * 16 + lane / 4, 0) + lane % 4 * 4;
    repeat<kP / 8>([&](auto n) {
      const float2 D = *reinterpret_cast<const float2*>(&small.D[n * 8 + lane % 4 * 2]);
      repeat<2>([&](auto half) {
        constexpr int kMore = RowsX::template kMore<8 * decltype(half)::value, decltype(n)::value>;
        float x[2];
        widen_word<bf16_t>(ptx::load_shared<kMore>(
                               x_at(buffer) + RowsX::template moved<decltype(n)::value>(first)),
                           x);
        y[n][2 * half] = fmaf(D.x, x[0], y[n][2 * half]);
        y[n][2 * half + 1] = fmaf(D.y, x[1], y[n][2 * half + 1]);
      });
    });
  }

  // f(tile n of two, row half, whether the lane's four columns exist), after the exchange.
  template <typename F>
  __device__ void for_fours(const Chunk& c, F&& f) const {
    const int token = warp * 16 + lane / 4, columns = p.P - p0 < kP ? int(p.P - p0) : kP;
    repeat<2>([&](auto half) {
      const int width = token + 8 * half < c.length ? columns - four() : 0;
      repeat<kP / 16>([&](auto n) { f(n, half, n * 16 < width); });
    });
  }
  // The first of the lane's columns in two tiles.
  __device__ int four() const { return lane % 2 * 8 + lane % 4 / 2 * 4; }

  // y *= silu(z)
  __device__ void apply_gate(const Chunk& c, float (&y)[kP / 8][4]) const {
    const bf16_t* gates = z + (c.t + warp * 16 + lane / 4) * p.z_stride_t + four();
    for_fours(c, [&](auto n, auto half, bool exists) {
      const bf16_t* from = gates + half * 8 * p.z_stride_t + n * 16;
      uint2 gate{};
      if (exists && is_aligned) gate = *reinterpret_cast<const uint2*>(from);
      if (exists && !is_aligned)
        gate = {from[0].bits | uint32_t(from[1].bits) << 16, from[2].bits | uint32_t(from[3].bits)
                                                                                << 16};
      const uint32_t other = exchange(gate.x, gate.y);
      const uint32_t pairs[2] = {lane % 2 ? other : gate.x, lane % 2 ? gate.y : other};
      repeat<2>([&](auto i) {
        float w[2];
        widen_word<bf16_t>(pairs[i], w);
        float (&v)[4] = y[2 * n + i];
        v[2 * half] *= silu<bf16_t>(w[0]), v[2 * half + 1] *= silu<bf16_t>(w[1]);
      });
    });
  }

  __device__ void store_outputs(const Chunk& c, const float (&y)[kP / 8][4]) const {
    const int64_t step = p.H * p.P;
    bf16_t* const low = out + (c.t + warp * 16 + lane / 4) * step + four();
    bf16_t* const high = low + 8 * step;
    for_fours(c, [&](auto n, auto half, bool exists) {
      const uint32_t even = narrow_word<bf16_t>(y[2 * n][2 * half], y[2 * n][2 * half + 1]);
      const uint32_t odd = narrow_word<bf16_t>(y[2 * n + 1][2 * half], y[2 * n + 1][2 * half + 1]);
      const uint32_t other = exchange(even, odd);
      const uint2 four = lane % 2 ? uint2{other, odd} : uint2{even, other};
      if (exists) *reinterpret_cast<uint2*>((half ? high : low) + n * 16) = four;
    });
  }

  // The recurrence, token by token: a chunk with an infinity or a NaN, which masked products would
  // carry to earlier tokens. C is read from global memory, its place is taken.
  template <bool kOutputs>
  __device__ void recur(const Chunk& c, const Decays& d, int buffer) {
    const int quad = lane % 4, row = lane / 4;
#pragma unroll 1
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
          in[half] = d.step[i] * (row % 2 ? pair[1] : pair[0]);
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
        if (column < kP && p0 + column < p.P) {
          float y = 0.f;
          for (int w = 0; w < kWarps; ++w) y += small.partial[w][column];
          const auto element = [&](const void* base, int64_t at) {
            return widen(static_cast<const bf16_t*>(base)[at + p0 + column]);
          };
          if (p.D)
            y = fmaf(small.D[column],
                     element(p.x, b * p.x_stride_b + t * p.x_stride_t + h * p.x_stride_h), y);
          if (p.z)
            y *= silu<float>(element(p.z, b * p.z_stride_b + t * p.z_stride_t + h * p.z_stride_h));
          static_cast<bf16_t*>(p.out)[((b * p.T + t) * p.H + h) * p.P + p0 + column] =
              narrow<bf16_t, 1>(&y);
        }
        __syncthreads();
      }
    }
  }

  // --- A segment ---

  // Runs the tokens [begin, end) through the state. Returns the decay of what it was before: the
  // product of all, 0 if a run starts inside.
  template <bool kOutputs>
  __device__ float run(int64_t begin, int64_t end) {
    double decay = 0.0;
    bool kept = true;
    Chunk now = plan(begin, end);
    if (now.length) {
      copy_xb(now, 0);
      if (kOutputs) copy_c(now);
      ptx::cp_async_commit();
      if (warp == 0) store_decays(load_steps(now), small.decays[0]);
    }
    for (int turn = 0; now.length; ++turn) {
      const Chunk next = plan(now.t + now.length, end);
      const Decays& d = small.decays[turn % 2];
      ptx::cp_async_wait<0>();
      __syncthreads();  // the chunk is there
      if (next.length && kBuffers > 1) {
        copy_xb(next, turn + 1);
        ptx::cp_async_commit();
      }
      const bool prepares = next.length && warp == (turn + 1) % kWarps;
      float2 steps{};
      if (prepares) steps = load_steps(next);
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
        float poison = 0.f;
#pragma unroll
        for (int n = 0; n < kP / 8; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) poison = fmaf(y[n][i], 0.f, poison);
        finite = !__syncthreads_or(poison != 0.f);  // and the place of C is free
        if (next.length) {
          copy_c(next);
          ptx::cp_async_commit();
        }
        if (finite) {
          if (p.D) add_skip(turn, y);
          if (p.z) apply_gate(now, y);
          store_outputs(now, y);
        }
      }
      if (finite)
        advance(d, turn);
      else
        recur<kOutputs>(now, d, turn);
      decay += d.last;
      has_state = true;
      if (prepares) store_decays(steps, small.decays[(turn + 1) % 2]);
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
          const int64_t row = p0 + m * 16 + half * 8 + lane / 4;
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
  // Blocks that others wait for must have started before them, whatever order the card starts them
  // in: so they take their work in the order in which they come.
  uint32_t work = blockIdx.x;
  if (task.segments > 1) {
    if (threadIdx.x == 0)
      small.ticket = atomicAdd(
          reinterpret_cast<uint32_t*>(task.ready + int64_t(task.segments - 1) * task.units), 1u);
    __syncthreads();
    work = small.ticket;
  }
  const uint32_t segment = work / task.units, unit = work % task.units;
  const uint32_t heads = uint32_t(p.H), row = unit / task.tiles / heads;
  const TokenRow tokens = token_row(p, row);
  S s(task, small, ptx::shared_address(memory), tokens.batch, unit / task.tiles % heads,
      int64_t(unit % task.tiles) * kP);
  for (int i = threadIdx.x; i < kP; i += S::kThreads)
    small.D[i] = p.D && s.p0 + i < p.P ? p.D[s.h * p.D_stride_h + (s.p0 + i) * p.D_stride_p] : 0.f;
  const int64_t begin = tokens.begin + segment * task.segment_tokens;
  const bool is_last = segment + 1 == task.segments;
  const int64_t end = is_last || begin + task.segment_tokens > tokens.end
                          ? tokens.end
                          : begin + task.segment_tokens;
  const int64_t states = (int64_t(row) * p.H + s.h) * p.P * p.N;

  const auto set_initial = [&] {
    s.zero_state();
    if (p.initial_states)
      s.for_pairs([&](float2& v, int64_t at) {
        v = {p.initial_states[states + at], p.initial_states[states + at + 1]};
      });
  };
  constexpr int kFours = S::kTilesP * S::kTilesN;  // of a thread, in a state that is handed on
  float4* handed = reinterpret_cast<float4*>(task.states);
  const auto place = [&](uint32_t of) {
    return (int64_t(of) * task.units + unit) * kFours * S::kThreads + threadIdx.x;
  };
  const auto wait_for_handed = [&] {
    if (threadIdx.x == 0)
      while (ptx::load_acquire(&task.ready[int64_t(segment - 1) * task.units + unit]) == 0) {
      }
    __syncthreads();
    return handed + place(segment - 1);
  };

  if (!is_last) {
    float decay = 0.f;
    if (segment == 0) {
      set_initial();
      s.has_state = p.initial_states;
      s.template run<false>(begin, end);
    } else {
      s.zero_state();
      s.has_state = false;
      decay = s.template run<false>(begin, end);
    }
    float4* to = handed + place(segment);
    const float4* from = segment > 0 ? wait_for_handed() : nullptr;
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      const float* local = s.state[i / S::kTilesN][i % S::kTilesN];
      float4 sum{local[0], local[1], local[2], local[3]};
      if (decay != 0.f) {
        const float4 v = from[i * S::kThreads];
        sum = {fmaf(decay, v.x, sum.x), fmaf(decay, v.y, sum.y), fmaf(decay, v.z, sum.z),
               fmaf(decay, v.w, sum.w)};
      }
      to[i * S::kThreads] = sum;
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) ptx::store_release(&task.ready[int64_t(segment) * task.units + unit], 1);
  }
  if (segment == 0) {
    set_initial();
  } else {
    const float4* from = wait_for_handed();
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      float* local = s.state[i / S::kTilesN][i % S::kTilesN];
      const float4 v = from[i * S::kThreads];
      local[0] = v.x, local[1] = v.y, local[2] = v.z, local[3] = v.w;
    }
  }
  s.has_state = p.initial_states || segment > 0;
  s.template run<true>(begin, end);
  if (is_last && p.final_states)
    s.for_pairs([&](float2& v, int64_t at) {
      *reinterpret_cast<float2*>(p.final_states + states + at) = v;
    });
}

}  // namespace ww
