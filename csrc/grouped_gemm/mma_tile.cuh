// SPDX-License-Identifier: Apache-2.0
// A tile of a group product on mma.sync, both operands as they lie in memory: copied by cp.async
// several stages ahead. A row of one instruction is 32 bytes in every format, 16 bf16, 32 E4M3 or
// 64 E2M1, and its fragments have the same bytes in the same lanes.
//
// A stage holds rows of 128 bytes, in 8 pieces of 16 bytes whose places are permuted so that what
// ldmatrix takes at once lies in 8 different ones; then, for NVFP4, the words of 4 block scales of
// each instruction, row by row.
#pragma once

#include "grouped_gemm/group_tiles.cuh"

namespace ww {

constexpr int kStageRow = 128, kPieces = kStageRow / 16, kSteps = kStageRow / 32;

// The operands of an instruction: their elements in memory, how many values each holds, words of
// block scales of a row, and whether its sums are fp32. Those of E4M3 are not on sm_89 and sm_90,
// which keep fewer bits: every stage, 128 of k, has sums of its own.
struct Bf16Operands {
  using Element = bf16_t;
  static constexpr int kPerElement = 1, kScaleWords = 0;
  static constexpr bool kSumsAreF32 = true;
  __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                  uint32_t, uint32_t) {
    ptx::mma_bf16(d, a, b0, b1);
  }
};
struct E4m3Operands {
  using Element = uint8_t;
  static constexpr int kPerElement = 1, kScaleWords = 0;
  static constexpr bool kSumsAreF32 = false;
  __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                  uint32_t, uint32_t) {
    ptx::mma_e4m3(d, a, b0, b1);
  }
};
struct Nvfp4Operands {
  using Element = uint8_t;
  static constexpr int kPerElement = 2, kScaleWords = kSteps;
  static constexpr bool kSumsAreF32 = true;
  __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                  uint32_t scales_a, uint32_t scales_b) {
    ptx::mma_nvfp4(d, a, b0, b1, scales_a, scales_b);
  }

  // The tensor core takes no sign of a scale, so those of negative ones go to their codes. Nothing
  // is quantised to one, and a step without costs a vote. Of a register's codes the block is
  // lane % 4 / 2 in the first half of an instruction's k, and that plus 2 in the second.
  template <int kTiles>
  __device__ static void take_signs(uint32_t (&a)[kTiles][4], uint32_t (&b)[2][4],
                                    const uint32_t (&scales_a)[kTiles],
                                    const uint32_t (&scales_b)[4]) {
    uint32_t any = scales_b[0] | scales_b[1] | scales_b[2] | scales_b[3];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) any |= scales_a[i];
    if (!__any_sync(~0u, any & 0x80808080)) return;
    const int first = threadIdx.x % 32 & ~3, shift = 24 - threadIdx.x % 4 / 2 * 8;
    const auto flipped = [&](uint32_t scales, int half) {
      return uint32_t(int32_t(scales << (shift - 16 * half)) >> 31) & 0x88888888;
    };
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        a[i][2 * half] ^= flipped(__shfl_sync(~0u, scales_a[i], first), half);
        a[i][2 * half + 1] ^= flipped(__shfl_sync(~0u, scales_a[i], first + 1), half);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) b[j / 2][j % 2 * 2 + half] ^= flipped(scales_b[j], half);
    }
  }
};

// Rows of a are read by ldmatrix in order; those of b such that each lane gets results of 8
// neighbouring columns: tile j of the warp's four has columns 8q + 2j and 8q + 2j + 1, q = 0..3.
__device__ inline uint32_t key_a(int row) { return row % 8; }
__device__ inline uint32_t key_b(int row) { return row % 2 + row / 8 % 4 * 2; }
__device__ inline uint32_t place(int row, uint32_t piece, uint32_t key) {
  return row * kStageRow + (piece ^ key) * 16;
}

template <typename Operands, int kRows, int kStages, bool kAligned>
struct MmaTile {
  using Element = typename Operands::Element;
  static constexpr int kPiece = 16 / sizeof(Element), kDepth = kPieces * kPiece;  // elements
  static constexpr int kTileRows = kRows, kColumns = 128, kWarpColumns = 32;
  static constexpr int kMostRows = Operands::kSumsAreF32 ? 64 : 32;  // of a warp: it has two sums
  static constexpr int kWarpRows = kRows < kMostRows ? kRows : kMostRows;
  static constexpr int kThreads = kRows / kWarpRows * (kColumns / kWarpColumns) * 32;
  static constexpr int kToScales = (kRows + kColumns) * kStageRow;
  static constexpr int kScaleStep = (kRows + kColumns) * 4;  // bytes
  static constexpr int kStageBytes = kToScales + Operands::kScaleWords * kScaleStep;
  static constexpr int kSharedBytes = kStages * kStageBytes;
  static constexpr int kRowStep = kThreads / kPieces;  // a thread copies piece tid % 8 of each row
  static constexpr int kCopiesA = kRows / kRowStep, kCopiesB = kColumns / kRowStep;

  const GroupProduct& g;
  uint32_t shared;
  Tile tile;
  // Of the part that is copied now: where this thread's pieces start, what is left of it in k, and
  // which of its rows exist (bit i: row i of a; bit 16 + i: of b).
  const Element* a[kCopiesA];
  const Element* b;
  int64_t b_step, left;
  uint32_t exists;
  int part;
  // Where it puts them in a stage, and where its lane reads fragments, as offsets and keys.
  uint32_t to_a, to_b, from_a, from_b, key_of_a, key_of_b;
  uint32_t scales_a, scales_b;  // lane 4g + q: of rows g and, for odd q, g + 8; of column g

  __device__ MmaTile(const GroupProduct& g, uint32_t shared) : g(g), shared(shared) {
    const int row = threadIdx.x / kPieces, piece = threadIdx.x % kPieces;
    static_assert(kRowStep % 8 == 0, "a thread's rows have one key");
    to_a = place(row, piece, key_a(row));
    to_b = kRows * kStageRow + row * kStageRow;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int m = warp / (kColumns / kWarpColumns) * kWarpRows + lane % 16;
    const int n = warp % (kColumns / kWarpColumns) * kWarpColumns + lane % 8 / 2 * 8 +
                  lane / 16 * 2 + lane % 2;
    from_a = m * kStageRow, key_of_a = (lane / 16 ^ key_a(m)) * 16;
    from_b = (kRows + n) * kStageRow, key_of_b = (lane / 8 % 2 ^ key_b(n)) * 16;
    scales_a = (m - lane % 16 + lane % 2 * 8 + lane / 4) * 4;
    scales_b =
        (kRows + warp % (kColumns / kWarpColumns) * kWarpColumns + lane / 8 * 8 + lane / 4 % 2) * 4;
  }

  __device__ void start_part() {
    const ProductPart& p = g.part[part];
    const int row = threadIdx.x / kPieces, first = threadIdx.x % kPieces * kPiece;
    exists = 0;
#pragma unroll
    for (int i = 0; i < kCopiesA; ++i) {
      const int64_t m = tile.m0 + row + i * kRowStep;
      const bool is_row = m < tile.m1;
      const int64_t source = !is_row ? 0 : (p.rows ? p.rows[m] : m);
      a[i] = static_cast<const Element*>(p.a) + source * p.a_stride + first;
      exists |= uint32_t(is_row) << i;
    }
    b = static_cast<const Element*>(p.b.data) + tile.group * p.b.stride_e +
        (tile.n0 + row) * p.b.stride_n + first;
    b_step = kRowStep * p.b.stride_n;
#pragma unroll
    for (int i = 0; i < kCopiesB; ++i)
      exists |= uint32_t(tile.n0 + row + i * kRowStep < g.N) << (16 + i);
    left = p.K / Operands::kPerElement - first;
  }

  // 16 bytes from `source`, of which only the first `count` elements are there.
  __device__ static void copy(uint32_t to, const Element* source, const void* any, int count) {
    if constexpr (kAligned) {
      ptx::cp_async(to, count ? source : any, count * int(sizeof(Element)));
    } else {
      union {
        uint4 words = {};
        Element element[kPiece];
      } piece;
#pragma unroll
      for (int i = 0; i < kPiece; ++i)
        if (i < count) piece.element[i] = source[i];
      ptx::store_shared(to, piece.words);
    }
  }

  // Starts the copy of the next kDepth elements of k into the stage, and moves on.
  __device__ void copy_stage(uint32_t stage) {
    if (part < 0 || left <= -int(threadIdx.x % kPieces * kPiece)) {
      do ++part;
      while (g.part[part].K == 0);
      start_part();
    }
    const ProductPart& p = g.part[part];
    const int row = threadIdx.x / kPieces, piece = threadIdx.x % kPieces;
    const int count = left >= kPiece ? kPiece : (left > 0 ? int(left) : 0);
#pragma unroll
    for (int i = 0; i < kCopiesA; ++i) {
      copy(stage + to_a + i * kRowStep * kStageRow, a[i], p.a, exists >> i & 1 ? count : 0);
      a[i] += kDepth;
    }
    const Element* source = b;
#pragma unroll
    for (int i = 0; i < kCopiesB; ++i, source += b_step)
      copy(stage + to_b + i * kRowStep * kStageRow + (piece ^ key_b(row + i * kRowStep)) * 16,
           source, p.b.data, exists >> (16 + i) & 1 ? count : 0);
    b += kDepth, left -= kDepth;
    if constexpr (Operands::kScaleWords > 0) copy_scales(stage);
  }

  // Words of rows of a, then of b. `left` counts from the next stage on: two codes a byte.
  __device__ void copy_scales(uint32_t stage) const {
    static_assert(kAligned && kPiece == 16, "words, of 4 bytes for 32 of codes");
    constexpr int kWords = Operands::kScaleWords;
    const ProductPart& p = g.part[part];
    const int64_t bytes = p.K / 16;
    const int64_t first = (p.K / 2 - left - threadIdx.x % kPieces * kPiece - kDepth) / 8;
#pragma unroll
    for (int i = 0; i < (kRows + kColumns) * kWords; i += kThreads) {
      const int row = (i + threadIdx.x) / kWords, word = (i + threadIdx.x) % kWords;
      const bool is_a = row < kRows;
      const int64_t m = tile.m0 + row, n = tile.n0 + row - kRows, at = first + word * 4;
      const e4m3_t* source =
          is_a ? p.a_block_scales + m * p.a_block_stride
               : p.b.block_scales + tile.group * p.b.block_stride_e + n * p.b.block_stride_n;
      const bool exists = is_a ? m < tile.m1 : n < g.N;
      const int64_t there = bytes - at;
      const int count = !exists || there <= 0 ? 0 : (there < 4 ? int(there) : 4);
      if (row < kRows + kColumns)
        ptx::cp_async_word(stage + kToScales + word * kScaleStep + row * 4,
                           count ? source + at : p.b.block_scales, count);
    }
  }

  __device__ void multiply_stage(uint32_t stage, float (&acc)[kWarpRows / 16][4][4]) const {
#pragma unroll
    for (uint32_t step = 0; step < kSteps; ++step) {
      uint32_t fa[kWarpRows / 16][4], fb[2][4];
      const uint32_t at_a = stage + from_a + (key_of_a ^ step * 32);
      const uint32_t at_b = stage + from_b + (key_of_b ^ step * 32);
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; ++i) ptx::ldmatrix(fa[i], at_a + i * 16 * kStageRow);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) ptx::ldmatrix(fb[pair], at_b + pair * 4 * kStageRow);
      uint32_t sa[kWarpRows / 16] = {}, sb[4] = {};
      if constexpr (Operands::kScaleWords > 0) {
        const uint32_t at = stage + kToScales + step * kScaleStep;
#pragma unroll
        for (int i = 0; i < kWarpRows / 16; ++i)
          sa[i] = ptx::load_shared(at + scales_a + i * 16 * 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) sb[j] = ptx::load_shared(at + scales_b + j * 2 * 4);
        Operands::take_signs(fa, fb, sa, sb);
      }
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          Operands::multiply(acc[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1],
                             sa[i], sb[j]);
    }
  }

  __device__ void store(const float (&acc)[kWarpRows / 16][4][4]) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t n =
        tile.n0 + warp % (kColumns / kWarpColumns) * kWarpColumns + lane % 4 * kVector<bf16_t>;
#pragma unroll
    for (int i = 0; i < kWarpRows / 16; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t m =
            tile.m0 + warp / (kColumns / kWarpColumns) * kWarpRows + i * 16 + half * 8 + lane / 4;
        float v[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) v[j] = acc[i][j / 2][half * 2 + j % 2];
        if (m < tile.m1) finish(g, tile.group, m, n, v);
      }
  }

  __device__ int64_t stages() const {
    int64_t n = 0;
    for (int i = 0; tile.group < g.E && i < g.parts; ++i)
      n += (g.part[i].K / Operands::kPerElement + kDepth - 1) / kDepth;
    return n;
  }

  __device__ void run() {
    float acc[kWarpRows / 16][4][4] = {};
    int64_t to_copy = stages(), to_multiply = to_copy;
    constexpr uint32_t kEnd = kStages * kStageBytes;
    uint32_t copied = 0, multiplied = 0;  // stages as offsets
    part = -1;
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
      if constexpr (Operands::kSumsAreF32) {
        multiply_stage(shared + multiplied, acc);
      } else {
        float sums[kWarpRows / 16][4][4] = {};
        multiply_stage(shared + multiplied, sums);
#pragma unroll
        for (int i = 0; i < kWarpRows / 16 * 16; ++i)
          acc[i / 16][i / 4 % 4][i % 4] += sums[i / 16][i / 4 % 4][i % 4];
      }
      copied = copied + kStageBytes == kEnd ? 0 : copied + kStageBytes;
      multiplied = multiplied + kStageBytes == kEnd ? 0 : multiplied + kStageBytes;
    }
    store(acc);
    __syncthreads();  // the next tile's copies overwrite the stages
  }
};

template <typename Work>
__global__ void __launch_bounds__(Work::kThreads)
    product_tiles(const __grid_constant__ GroupProduct g) {
  extern __shared__ __align__(128) uint8_t memory[];
  Work work(g, ptx::shared_address(memory));
  TileWalk<Work::kTileRows, Work::kColumns> walk(g);
  while (walk.next(work.tile)) work.run();
}

}  // namespace ww
