// SPDX-License-Identifier: Apache-2.0
// A chunk of 64 tokens in the dual form: which tokens, their decays, and their way to global memory
// from the fragments that four warps hold, 16 tokens each.
//
// Exponents are in units of log 2. Their sums are made in fp64 and only differences are rounded,
// against the first token of a block of 16, so strong decay loses nothing to cancellation.
#pragma once

#include "core/cuda/repeat.cuh"
#include "ssd_scan/ssd_sequences.cuh"

namespace ww {

constexpr int kChunk = 64;

struct Chunk {
  int64_t t;
  int length;  // 0: there is no more
  bool fresh;  // a run starts here
};

// The chunk from t on: it ends at `end`, and where seq_idx changes.
__device__ inline Chunk plan_chunk(const SsdScanParams& p, int64_t b, int64_t t, int64_t end) {
  if (t >= end) return {t, 0, false};
  int length = end - t < kChunk ? int(end - t) : kChunk;
  if (p.seq_idx) {
    const int32_t* idx = p.seq_idx + b * p.seq_idx_stride_b + t;
#pragma unroll
    for (int half = 1; half >= 0; --half) {  // the first change wins
      const int i = int(threadIdx.x % 32) + half * 32;
      const uint32_t changes = __ballot_sync(~0u, i > 0 && i < length && idx[i] != idx[i - 1]);
      if (changes) length = half * 32 + __ffs(changes) - 1;
    }
  }
  return {t, length, starts_run(p, b, t)};
}

// Rows of kBytes in shared memory such that 16 bytes at one place of 8 neighbouring rows lie in
// different banks: by exchanging the pieces of a row, or by an odd distance between rows. Rows of
// 128 bytes are as TMA swizzles them.
template <int kBytes>
struct Rows {
  static constexpr bool kSwizzled = kBytes % 128 == 0;
  static constexpr int kStride = kSwizzled ? kBytes : (kBytes / 16 | 1) * 16;
  __device__ static uint32_t place(uint32_t row, uint32_t piece) {
    return row * kStride + (kSwizzled ? piece ^ row % 8 : piece) * 16;
  }
  // The same as place(row + a multiple of 8, piece ^ kPiece) in two parts: what a lane computes
  // from place(row, piece), and what is added to that as a constant.
  template <int kPiece>
  __device__ static uint32_t moved(uint32_t place) {
    return kSwizzled ? place ^ kPiece * 16 : place;
  }
  template <int kRow, int kPiece>
  static constexpr int kMore = kRow * kStride + (kSwizzled ? 0 : kPiece * 16);
};

struct Decays {                           // of the tokens of a chunk; units of log 2
  float row[kChunk];                      // sum since the start of the token's block of 16
  float column[kChunk];                   // the same less log dt, so that exp(row - column) is L dt
  float step[kChunk];                     // dt
  float in[kChunk];                       // exp(S)
  float out[kChunk];                      // exp(S_last - S) dt
  float apart[kChunk / 16][kChunk / 16];  // the sum between the starts of two blocks
  double last;
};

// A warp's work: two tokens a lane.
__device__ inline float2 load_steps(const SsdScanParams& p, int64_t b, int64_t h, const Chunk& c) {
  const int i = int(threadIdx.x % 32) * 2;
  float2 v{0.f, 0.f};
  if (i < c.length) v.x = step_of(p, b, c.t + i, h);
  if (i + 1 < c.length) v.y = step_of(p, b, c.t + i + 1, h);
  return v;
}
// A is times log2(e).
__device__ inline void store_decays(float2 step, float A, Decays& d) {
  const int lane = threadIdx.x % 32;
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
    // The log of a negative step is no number, and the chunk is computed by the recurrence.
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

// The operand of this warp's 16 tokens and the 16 tokens of block u <= warp, from C·Bᵀ there:
// times L dt, and zero for later tokens.
__device__ inline void mask_block(const float (&left)[4], const float (&right)[4], const Decays& d,
                                  int u, const float (&of_row)[2], uint32_t (&m)[4]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, quad = lane % 4, row = lane / 4;
  const float apart = d.apart[warp][u], low = of_row[0] + apart, high = of_row[1] + apart;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2 decay = *reinterpret_cast<const float2*>(&d.column[u * 16 + half * 8 + quad * 2]);
    const float (&v)[4] = half ? right : left;
    float w[4] = {v[0] * ptx::ex2_approx(low - decay.x), v[1] * ptx::ex2_approx(low - decay.y),
                  v[2] * ptx::ex2_approx(high - decay.x), v[3] * ptx::ex2_approx(high - decay.y)};
    if (u == warp) {  // later tokens, whose decay may be infinite
      const int column = half * 8 + quad * 2;
      w[0] = column > row ? 0.f : w[0], w[1] = column + 1 > row ? 0.f : w[1];
      w[2] = column > row + 8 ? 0.f : w[2], w[3] = column + 1 > row + 8 ? 0.f : w[3];
    }
    m[2 * half] = narrow_word<bf16_t>(w[0], w[1]);
    m[2 * half + 1] = narrow_word<bf16_t>(w[2], w[3]);
  }
}

// Two neighbouring elements times a factor each.
__device__ inline uint32_t scaled(uint32_t pair, float2 by) {
  float v[2];
  widen_word<bf16_t>(pair, v);
  return narrow_word<bf16_t>(v[0] * by.x, v[1] * by.y);
}

// This warp's outputs of a chunk: kP columns of 16 tokens, as mma leaves them.
template <int kP>
struct Outputs {
  const SsdScanParams& p;
  int64_t b, h, p0;
  bool is_aligned;
  int lane = threadIdx.x % 32, token = threadIdx.x / 32 * 16 + lane / 4;

  // Whether one is no finite number.
  __device__ static bool is_poisoned(const float (&y)[kP / 8][4]) {
    float poison = 0.f;
#pragma unroll
    for (int n = 0; n < kP / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) poison = fmaf(y[n][i], 0.f, poison);
    return poison != 0.f;
  }

  // y += D x, x in shared memory
  template <typename RowsX>
  __device__ void add_skip(const float* D_of, uint32_t x, float (&y)[kP / 8][4]) const {
    const uint32_t first = x + RowsX::place(token, 0) + lane % 4 * 4;
    repeat<kP / 8>([&](auto n) {
      const float2 D = *reinterpret_cast<const float2*>(&D_of[n * 8 + lane % 4 * 2]);
      repeat<2>([&](auto half) {
        constexpr int kMore = RowsX::template kMore<8 * decltype(half)::value, decltype(n)::value>;
        float v[2];
        widen_word<bf16_t>(
            ptx::load_shared<kMore>(RowsX::template moved<decltype(n)::value>(first)), v);
        y[n][2 * half] = fmaf(D.x, v[0], y[n][2 * half]);
        y[n][2 * half + 1] = fmaf(D.y, v[1], y[n][2 * half + 1]);
      });
    });
  }

  // y *= silu(z)
  __device__ void apply_gate(const Chunk& c, float (&y)[kP / 8][4]) const {
    const bf16_t* gates = static_cast<const bf16_t*>(p.z) + b * p.z_stride_b + h * p.z_stride_h +
                          (c.t + token) * p.z_stride_t + p0 + four();
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

  __device__ void store(const Chunk& c, const float (&y)[kP / 8][4]) const {
    const int64_t step = p.H * p.P;
    bf16_t* const low =
        static_cast<bf16_t*>(p.out) + (b * p.T + c.t + token) * step + h * p.P + p0 + four();
    bf16_t* const high = low + 8 * step;
    for_fours(c, [&](auto n, auto half, bool exists) {
      const uint32_t even = narrow_word<bf16_t>(y[2 * n][2 * half], y[2 * n][2 * half + 1]);
      const uint32_t odd = narrow_word<bf16_t>(y[2 * n + 1][2 * half], y[2 * n + 1][2 * half + 1]);
      const uint32_t other = exchange(even, odd);
      const uint2 four = lane % 2 ? uint2{other, odd} : uint2{even, other};
      if (exists) *reinterpret_cast<uint2*>((half ? high : low) + n * 16) = four;
    });
  }

  // One output by the recurrence, D and z still to come.
  __device__ void store_one(int64_t t, int column, float y, float D) const {
    const auto element = [&](const void* base, int64_t at) {
      return widen(static_cast<const bf16_t*>(base)[at + p0 + column]);
    };
    if (p.D) y = fmaf(D, element(p.x, b * p.x_stride_b + t * p.x_stride_t + h * p.x_stride_h), y);
    if (p.z) y *= silu<float>(element(p.z, b * p.z_stride_b + t * p.z_stride_t + h * p.z_stride_h));
    static_cast<bf16_t*>(p.out)[((b * p.T + t) * p.H + h) * p.P + p0 + column] =
        narrow<bf16_t, 1>(&y);
  }

 private:
  // Neighbouring lanes exchange halves of two tiles, so that each has 4 columns of one: 8 bytes.
  __device__ uint32_t exchange(uint32_t of_odd, uint32_t of_even) const {
    return __shfl_xor_sync(~0u, lane % 2 ? of_odd : of_even, 1);
  }
  // The first of the lane's columns in two tiles.
  __device__ int four() const { return lane % 2 * 8 + lane % 4 / 2 * 4; }
  // f(tile n of two, row half, whether the lane's four columns exist), after the exchange.
  template <typename F>
  __device__ void for_fours(const Chunk& c, F&& f) const {
    const int columns = p.P - p0 < kP ? int(p.P - p0) : kP;
    repeat<2>([&](auto half) {
      const int width = token + 8 * half < c.length ? columns - four() : 0;
      repeat<kP / 16>([&](auto n) { f(n, half, n * 16 < width); });
    });
  }
};

}  // namespace ww
