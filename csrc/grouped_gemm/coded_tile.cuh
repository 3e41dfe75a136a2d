// SPDX-License-Identifier: Apache-2.0
// A tile of a group product of bf16 rows and quantised weights on mma.m16n8k16: copied by cp.async
// several stages ahead, as it lies in memory, and decoded between shared memory and the tensor
// core.
//
// The product is transposed, weights times rows: the operand a is what registers are filled with
// one by one, and decoding does that anyway, while 16 bytes of a row are two fragments b.
//
// A stage holds rows of kSlices times 64 elements of k, each slice multiplied by warps of its own,
// whose sums meet at the end. Pieces of 16 bytes lie in permuted places so that those which a warp
// takes at once are in different banks.
#pragma once

#include "grouped_gemm/coded_weights.cuh"
#include "grouped_gemm/group_tiles.cuh"

namespace ww {

constexpr int kSliceDepth = 64;

// Where row n of the weights lies among those of its 32: a lane has 4 neighbouring columns of the
// result, 8 rows apart in a stage.
__device__ constexpr int place_of_column(int n) { return n / 32 * 32 + n % 4 * 8 + n / 4 % 8; }
__device__ constexpr int column_of_place(int i) { return i / 32 * 32 + i % 8 * 4 + i / 8 % 4; }

template <typename Format, int kRows, int kColumns_, int kSlices, int kStages, bool kAligned>
struct CodedTile {
  static constexpr int kTileRows = kRows, kColumns = kColumns_;
  static constexpr int kLaneColumns = kRowsOfLane, kWarpColumns = 8 * kLaneColumns;
  static constexpr int kWarpRows = kRows < 64 ? kRows : 64;
  static constexpr int kWarps = kRows / kWarpRows * (kColumns / kWarpColumns) * kSlices;
  static constexpr int kThreads = kWarps * 32;
  // Bytes of a row of a and of b in a stage, and of b's block scales.
  static constexpr int kRowA = kSlices * kSliceDepth * 2, kRowB = kSlices * Format::kRowBytes;
  static constexpr int kRowScales = kSlices * Format::kScaleBytes;
  static constexpr int kToB = kRows * kRowA, kToScales = kToB + kColumns * kRowB;
  static constexpr int kStageBytes = kToScales + kColumns * kRowScales;
  static constexpr int kSharedBytes = kStages * kStageBytes;
  // A thread copies one piece of every kStep-th row.
  static constexpr int kPiecesA = kRowA / 16, kPiecesB = kRowB / 16;
  static constexpr int kStepA = kThreads / kPiecesA, kStepB = kThreads / kPiecesB;
  static constexpr int kCopiesA = kRows / kStepA, kCopiesB = kColumns / kStepB;
  static constexpr int kPieceA = 8, kPieceB = 16;  // elements, bytes
  static_assert(kColumns * kRowScales / 4 <= kThreads, "a thread copies one word of scales");
  static_assert(kStageBytes % 128 == 0, "places in a stage are permuted by address");

  const GroupProduct& g;
  uint32_t shared;
  Tile tile;
  // Where this thread's pieces of the stage to be copied start, what is left of k from there on,
  // and which of its rows exist (bit i: row i of a; bit 16 + i: of b; 31: scales).
  const bf16_t* a[kCopiesA];
  const uint8_t* b;
  const uint8_t* scales;
  int64_t b_step, left;
  uint32_t exists;
  // Where it puts them in a stage, and where its lane reads fragments, as offsets.
  uint32_t to_a, to_b, from_a, from_b, from_scales;

  __device__ CodedTile(const GroupProduct& g, uint32_t shared) : g(g), shared(shared) {
    const int place_b = place_of_column(column());
    to_a = row_a() * kRowA + (piece_a() ^ key_a(row_a())) * 16;
    to_b = kToB + place_b * kRowB + (piece_b() ^ Format::template key<kSlices>(place_b)) * 16;
    const int lane = threadIdx.x % 32, slice = warp() % kSlices;
    const int m = warp_row() + lane / 4, n = warp_column() + lane / 4;  // place of the column
    from_a = m * kRowA + slice * kSliceDepth * 2 + ((lane % 4 * 2) ^ key_a(m)) * 16;
    from_b = kToB + n * kRowB + Format::lane_offset(slice, Format::template key<kSlices>(n), lane);
    from_scales = kToScales + n * kRowScales + slice * Format::kScaleBytes + lane % 4;
  }
  __device__ static int warp() { return threadIdx.x / 32; }
  __device__ static int warp_row() {
    return warp() / (kSlices * (kColumns / kWarpColumns)) * kWarpRows;
  }
  __device__ static int warp_column() {
    return warp() / kSlices % (kColumns / kWarpColumns) * kWarpColumns;
  }
  __device__ static uint32_t key_a(int row) { return row % 8; }
  // Of this thread's copies.
  __device__ static int row_a() { return threadIdx.x / kPiecesA; }
  __device__ static int piece_a() { return threadIdx.x % kPiecesA; }
  __device__ static int piece_b() { return threadIdx.x % kPiecesB; }
  __device__ static int column() {
    const int row = threadIdx.x / kPiecesB;  // in the order of places if that is one of all copies
    return kStepB % 32 == 0 ? column_of_place(row) : row;
  }

  __device__ void start() {
    const ProductPart& p = g.part[0];
    exists = 0;
#pragma unroll
    for (int i = 0; i < kCopiesA; ++i) {
      const int64_t m = tile.m0 + row_a() + i * kStepA;
      const bool is_row = m < tile.m1;
      const int64_t source = !is_row ? 0 : (p.rows ? p.rows[m] : m);
      a[i] = static_cast<const bf16_t*>(p.a) + source * p.a_stride + piece_a() * kPieceA;
      exists |= uint32_t(is_row) << i;
    }
    b = static_cast<const uint8_t*>(p.b.data) + tile.group * p.b.stride_e +
        (tile.n0 + column()) * p.b.stride_n + piece_b() * kPieceB;
    b_step = kStepB * p.b.stride_n;
#pragma unroll
    for (int i = 0; i < kCopiesB; ++i)
      exists |= uint32_t(tile.n0 + column() + i * kStepB < g.N) << (16 + i);
    if constexpr (kRowScales > 0) {
      const int64_t n = tile.n0 + column_of_place(threadIdx.x / kSlices);
      scales = reinterpret_cast<const uint8_t*>(p.b.block_scales) +
               tile.group * p.b.block_stride_e + n * p.b.block_stride_n + threadIdx.x % kSlices * 4;
      exists |= uint32_t(threadIdx.x < kColumns * kSlices && n < g.N) << 31;
    }
    left = p.K;
  }

  // 16 bytes from `source`, of which only the first `count` elements are there.
  template <typename E>
  __device__ static void copy(uint32_t to, const E* source, const void* any, int count) {
    if constexpr (kAligned) {
      ptx::cp_async(to, count ? source : any, count * int(sizeof(E)));
    } else {
      union {
        uint4 words = {};
        E element[16 / sizeof(E)];
      } piece;
#pragma unroll
      for (int i = 0; i < int(16 / sizeof(E)); ++i)
        if (i < count) piece.element[i] = source[i];
      ptx::store_shared(to, piece.words);
    }
  }
  __device__ static void copy_scales(uint32_t to, const uint8_t* source, const void* any,
                                     int count) {
    if constexpr (kAligned) {
      ptx::cp_async_word(to, count ? source : any, count);
    } else {
      uint32_t word = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (i < count) word |= uint32_t(source[i]) << (8 * i);
      ptx::store_shared(to, word);
    }
  }
  // What is left of `left` from `first` on, at most `most`.
  __device__ static int clamp(int left, int first, int most) {
    return max(min(left - first, most), 0);
  }

  // Starts the copy of the next kSlices kSliceDepth elements of k into the stage, and moves on.
  // Rows of one thread differ in bits of their own, so a key of their sum is their keys' exclusive
  // or.
  __device__ void copy_stage(uint32_t stage) {
    constexpr int kStageDepth = kSlices * kSliceDepth;
    const ProductPart& p = g.part[0];
    const int here = left < kStageDepth ? int(left) : kStageDepth;
    const int count_a = clamp(here, piece_a() * kPieceA, kPieceA);
#pragma unroll
    for (int i = 0; i < kCopiesA; ++i) {
      copy(stage + (to_a ^ key_a(i * kStepA) * 16) + i * kStepA * kRowA, a[i], p.a,
           exists >> i & 1 ? count_a : 0);
      a[i] += kStageDepth;
    }
    const int count_b = clamp(here / Format::kPerByte, piece_b() * kPieceB, kPieceB);
    const uint8_t* source = b;
#pragma unroll
    for (int i = 0; i < kCopiesB; ++i, source += b_step) {
      const int place = place_of_column(i * kStepB);
      copy(stage + (to_b ^ Format::template key<kSlices>(place) * 16) + place * kRowB, source,
           p.b.data, exists >> (16 + i) & 1 ? count_b : 0);
    }
    b += kRowB;
    if constexpr (kRowScales > 0) {
      if (threadIdx.x < kColumns * kSlices)
        copy_scales(stage + kToScales + threadIdx.x * 4, scales, p.b.block_scales,
                    exists >> 31 ? clamp(here / 16, threadIdx.x % kSlices * 4, 4) : 0);
      scales += kRowScales;
    }
    left -= kStageDepth;
  }

  using Sums = float[2][kWarpRows / 8][4];  // of 16 weights' rows each

  __device__ void multiply_stage(uint32_t stage, Sums& acc) const {
    const typename Format::template Lane<kSlices> weights(stage + from_b, stage + from_scales);
    repeat<2>([&](auto h) {
      uint32_t w[kRowsOfLane][4];
      repeat<kRowsOfLane>([&](auto r) { weights.get(h, r, w[r]); });
      const uint32_t at_a = (stage + from_a) ^ (h * 16);
      repeat<kWarpRows / 8>([&](auto t) {
        uint32_t rows[4];
        ptx::load_shared_x4<decltype(t)::value * 8 * kRowA>(rows, at_a);
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int k = 0; k < 4; k += 2) {
            const uint32_t pair[4] = {w[2 * i][k], w[2 * i + 1][k], w[2 * i][k + 1],
                                      w[2 * i + 1][k + 1]};
            ptx::mma_bf16(acc[i][t], pair, rows[k], rows[k + 1]);
          }
      });
    });
  }

  // The sums of the other slices are added to those of the first, in order.
  __device__ void add_slices(Sums& acc) const {
    static_assert(kWarpRows == 16 && kColumns == kWarpColumns, "one warp a slice");
    static_assert((kSlices - 1) * 4 * 512 <= kSharedBytes, "they fit in the stages");
    __syncthreads();
    const uint32_t at = shared + threadIdx.x % 32 * 16;
    const int slice = warp();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float (&v)[4] = acc[j / 2][j % 2];
      if (slice > 0)
        ptx::store_shared(at + ((slice - 1) * 4 + j) * 512,
                          uint4{__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                                __float_as_uint(v[3])});
    }
    __syncthreads();
    if (slice > 0) return;
    repeat<(kSlices - 1) * 4>([&](auto i) {
      uint32_t v[4];
      ptx::load_shared_x4<decltype(i)::value * 512>(v, at);
#pragma unroll
      for (int k = 0; k < 4; ++k) acc[i % 4 / 2][i % 2][k] += __uint_as_float(v[k]);
    });
  }

  __device__ void store(const Sums& acc) const {
    const int lane = threadIdx.x % 32;
    const int64_t n = tile.n0 + warp_column() + lane / 4 * kLaneColumns;
#pragma unroll
    for (int t = 0; t < kWarpRows / 8; ++t)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t m = tile.m0 + warp_row() + t * 8 + lane % 4 * 2 + half;
        float v[kLaneColumns];
#pragma unroll
        for (int r = 0; r < kLaneColumns; ++r) v[r] = acc[r / 2][t][r % 2 * 2 + half];
        if (m < tile.m1) finish(g, tile.group, m, n, v);
      }
  }

  __device__ void run() {
    Sums acc = {};
    int64_t to_copy = 0;  // stages
    if (tile.group < g.E)
      to_copy = (g.part[0].K + kSlices * kSliceDepth - 1) / (kSlices * kSliceDepth), start();
    int64_t to_multiply = to_copy;
    constexpr uint32_t kEnd = kStages * kStageBytes;
    uint32_t copied = 0, multiplied = 0;  // stages as offsets
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s, copied += kStageBytes) {
      if (to_copy > 0) copy_stage(shared + copied), --to_copy;
      ptx::cp_async_commit();
    }
#pragma unroll 1
    for (; to_multiply > 0; --to_multiply) {
      ptx::cp_async_wait<kStages - 2>();
      __syncthreads();  // the stage is there for all, and all have left the one before
      if (to_copy > 0) copy_stage(shared + copied), --to_copy;
      ptx::cp_async_commit();
      multiply_stage(shared + multiplied, acc);
      copied = copied + kStageBytes == kEnd ? 0 : copied + kStageBytes;
      multiplied = multiplied + kStageBytes == kEnd ? 0 : multiplied + kStageBytes;
    }
    if constexpr (kSlices > 1) add_slices(acc);
    if (warp() % kSlices == 0) store(acc);
    __syncthreads();  // the next tile's copies overwrite the stages
  }
};

}  // namespace ww
