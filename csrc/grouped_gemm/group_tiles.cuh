// SPDX-License-Identifier: Apache-2.0
// What kernels of group products share: the walk over tiles, and where a tile's result goes.
#pragma once

#include "core/cuda/math.cuh"
#include "grouped_gemm/group_product_cuda.h"

namespace ww {

// Ends that are not as they must be give wrong numbers, but no access outside of the tensors.
__device__ inline int64_t group_end(const GroupProduct& g, int64_t group) {
  if (group < 0) return 0;
  if (!g.ends) return g.M;
  const int64_t end = g.ends_is_int64 ? static_cast<const int64_t*>(g.ends)[group]
                                      : static_cast<const int32_t*>(g.ends)[group];
  return end < 0 ? 0 : (end > g.M ? g.M : end);
}
// Group E has the rows of no group.
__device__ inline void group_rows(const GroupProduct& g, int64_t group, int64_t& begin,
                                  int64_t& end) {
  begin = group_end(g, group - 1);
  end = group < g.E ? group_end(g, group) : g.M;
  if (end < begin) end = begin;
}

struct Tile {
  int64_t group;  // E: rows of no group
  int64_t m0, m1, n0;
};

// The tiles of all groups in order, rows fastest so that neighbours share weights; a block takes
// every gridDim-th. Every warp walks on its own, 32 groups a step.
template <int kRows, int kColumns>
class TileWalk {
 public:
  __device__ explicit TileWalk(const GroupProduct& g)
      : g_(g), columns_(uint32_t((g.N + kColumns - 1) / kColumns)), next_(blockIdx.x) {}

  __device__ bool next(Tile& tile) {
    const int64_t groups = g_.zero_rest ? g_.E + 1 : g_.E;
    const int lane = threadIdx.x % 32;
    for (; group_ < groups; group_ += 32) {
      int64_t begin = 0, end = 0;
      if (group_ + lane < groups) group_rows(g_, group_ + lane, begin, end);
      const uint32_t rows = uint32_t((end - begin + kRows - 1) / kRows), mine = rows * columns_;
      uint32_t sum = mine;  // tiles of this group and those before it in the step
#pragma unroll
      for (int away = 1; away < 32; away *= 2) {
        const uint32_t other = __shfl_up_sync(~0u, sum, away);
        if (lane >= away) sum += other;
      }
      const uint32_t all = __shfl_sync(~0u, sum, 31);
      if (next_ - done_ >= all) {
        done_ += all;
        continue;
      }
      const int owner = __ffs(__ballot_sync(~0u, next_ - done_ < sum)) - 1;
      const uint32_t index = next_ - done_ - __shfl_sync(~0u, sum - mine, owner);
      const uint32_t high = __shfl_sync(~0u, rows, owner);
      tile.group = group_ + owner;
      tile.m0 = __shfl_sync(~0u, begin, owner) + int64_t(index % high) * kRows;
      tile.m1 = __shfl_sync(~0u, end, owner);
      tile.n0 = int64_t(index / high) * kColumns;
      next_ += gridDim.x;
      return true;
    }
    return false;
  }

 private:
  const GroupProduct& g_;
  uint32_t columns_;
  uint32_t next_;      // tile of this block
  uint32_t done_ = 0;  // tiles of the groups before group_
  int64_t group_ = 0;
};

// Scales, sum, activation and store of `kCount` neighbouring results from column n on.
template <int kCount>
__device__ inline void finish(const GroupProduct& g, int64_t group, int64_t m, int64_t n,
                              float (&v)[kCount]) {
  if (n >= g.N) return;
  const int64_t count = g.N - n < kCount ? g.N - n : kCount, at = m * g.out_stride + n;
  if (const Weights& b = g.part[0].b; b.scale && group < g.E) {
    const float* scale = b.scale + group * b.scale_stride_e + n * b.scale_stride_n;
    const float of_row = g.row_scale ? g.row_scale[m * g.row_scale_stride] : 1.f;
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      if (i < count) v[i] = v[i] * scale[i * b.scale_stride_n] * of_row;
  }
  if (g.addend) {
    const int64_t first = m * g.N + n;
    const bool is_f32 = g.addend_dtype == DType::f32;
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      if (i < count)
        v[i] += is_f32 ? static_cast<const float*>(g.addend)[first + i]
                       : widen(static_cast<const bf16_t*>(g.addend)[first + i]);
  }
  if (g.relu2)
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] = v[i] < 0.f ? 0.f : v[i] * v[i];  // keeps a NaN
  const bool whole = count == kCount && at % kCount == 0;
  if (g.out_dtype == DType::f32) {
    float* out = static_cast<float*>(g.out) + at;
    if (whole && reinterpret_cast<uintptr_t>(g.out) % 16 == 0) {
#pragma unroll
      for (int i = 0; i < kCount; i += 4) store_packed<float, 4>(out + i, narrow<float, 4>(v + i));
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i)
        if (i < count) out[i] = v[i];
    }
    return;
  }
  bf16_t* out = static_cast<bf16_t*>(g.out) + at;
  if (whole && reinterpret_cast<uintptr_t>(g.out) % (kCount * sizeof(bf16_t)) == 0) {
    store_packed<bf16_t, kCount>(out, narrow<bf16_t, kCount>(v));
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      if (i < count) out[i] = narrow<bf16_t, 1>(v + i);
  }
}

}  // namespace ww
