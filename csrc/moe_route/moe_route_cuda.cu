// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels.
//
//   logits  fused multiply-adds, since tensor cores have no fp32 products. Each of 16 warps takes a
//           sixteenth of d for the whole tile, in order, and the parts are added in order: a logit
//           has the same bits in a tile of 4 rows as in one of 32
//   choose  a warp a token: the best expert top_k times over, each lane keeping the best of its own
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"
#include "moe_route/moe_route.h"

namespace ww {
namespace {

constexpr int kSlices = 16;
constexpr int kChooseWarps = 4;

// Rows and experts of a lane, and k of a step. Lanes lie as 4 groups of rows by 8 of experts.
template <int kLaneRows, int kLaneExperts, int kDepth>
struct Shape {
  static constexpr int kRows = 4 * kLaneRows, kExperts = 8 * kLaneExperts;
  static constexpr int kStride = kRows + kExperts;
  // Eights of k start in other banks, for the lanes that store them at the same time.
  static constexpr int kFloats = (kStride + (kDepth > 8)) * kDepth;  // staged by a warp
  __device__ static int staged(int k, int r) { return k * kStride + (kDepth > 8) * (k & ~7) + r; }

  // Experts of a lane, in pieces that are one access: those of 8 lanes are neighbours.
  static constexpr int kPiece = kLaneExperts < 4 ? kLaneExperts : 4;
  struct alignas(kPiece * 4) Piece { float v[kPiece]; };
  __device__ static int expert(int lane, int j) {
    return j / kPiece * 8 * kPiece + lane % 8 * kPiece + j % kPiece;
  }
};

// Eight elements from k on, zero past `end`.
template <typename T>
__device__ inline void load_eight(const T* row, int64_t k, int64_t end, bool wide, float* v) {
  if (wide && k + 8 <= end) {
#pragma unroll
    for (int i = 0; i < 8; i += kVector<T>)
      widen<T>(load_packed<T, kVector<T>>(row + k + i), v + i);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = k + i < end ? widen(row[k + i]) : 0.f;
  }
}

template <typename X, typename W, int kLaneRows, int kLaneExperts, int kDepth>
__global__ void __launch_bounds__(kSlices * 32)
    route_logits(const __grid_constant__ MoeRouteParams p) {
  using S = Shape<kLaneRows, kLaneExperts, kDepth>;
  __shared__ __align__(16) float memory[kSlices * S::kFloats];
  const int lane = threadIdx.x % 32, slice = threadIdx.x / 32;
  const int64_t e0 = int64_t(blockIdx.x) * S::kExperts, m0 = int64_t(blockIdx.y) * S::kRows;
  const int64_t length = (p.d + kSlices * 8 - 1) / (kSlices * 8) * 8;
  const int64_t end = (slice + 1) * length < p.d ? (slice + 1) * length : p.d;
  float* const staged = memory + slice * S::kFloats;
  const int row = lane / 8 * kLaneRows;
  const bool wide_x = (reinterpret_cast<uintptr_t>(p.x) | p.x_stride * sizeof(X)) % 16 == 0;
  const bool wide_w =
      (reinterpret_cast<uintptr_t>(p.weight) | p.weight_stride * sizeof(W)) % 16 == 0;

  float acc[kLaneRows][kLaneExperts] = {};
  for (int64_t k0 = slice * length; k0 < end; k0 += kDepth) {
    // A lane moves eight elements of a row at a time; rows of x come first.
    constexpr int kEights = kDepth / 8;
#pragma unroll
    for (int i = lane; i < (S::kRows + S::kExperts) * kEights; i += 32) {
      const int r = i / kEights, k = i % kEights * 8;
      float v[8] = {};
      if (r < S::kRows) {
        if (m0 + r < p.rows)
          load_eight(static_cast<const X*>(p.x) + (m0 + r) * p.x_stride, k0 + k, end, wide_x, v);
      } else if (e0 + r - S::kRows < p.E) {
        load_eight(static_cast<const W*>(p.weight) + (e0 + r - S::kRows) * p.weight_stride, k0 + k,
                   end, wide_w, v);
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) staged[S::staged(k + j, r)] = v[j];
    }
    __syncwarp();
#pragma unroll 8
    for (int k = 0; k < kDepth; ++k) {
      float x[kLaneRows];
      alignas(16) float w[kLaneExperts];
#pragma unroll
      for (int i = 0; i < kLaneRows; ++i) x[i] = staged[S::staged(k, row + i)];
#pragma unroll
      for (int j = 0; j < kLaneExperts; j += S::kPiece)
        *reinterpret_cast<typename S::Piece*>(w + j) = *reinterpret_cast<const typename S::Piece*>(
            &staged[S::staged(k, S::kRows + S::expert(lane, j))]);
#pragma unroll
      for (int i = 0; i < kLaneRows; ++i)
#pragma unroll
        for (int j = 0; j < kLaneExperts; ++j) acc[i][j] = fmaf(x[i], w[j], acc[i][j]);
    }
    __syncwarp();
  }

  float (*sum)[S::kExperts] = reinterpret_cast<float (*)[S::kExperts]>(memory);
  for (int turn = 0; turn < kSlices; ++turn) {
    __syncthreads();
    if (slice != turn) continue;
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i)
#pragma unroll
      for (int j = 0; j < kLaneExperts; j += S::kPiece) {
        auto& s = *reinterpret_cast<typename S::Piece*>(&sum[row + i][S::expert(lane, j)]);
        typename S::Piece v = s;
#pragma unroll
        for (int n = 0; n < S::kPiece; ++n)
          v.v[n] = turn == 0 ? acc[i][j + n] : v.v[n] + acc[i][j + n];
        s = v;
      }
  }
  __syncthreads();
  float* logits = static_cast<float*>(p.workspace);
  for (int i = threadIdx.x; i < S::kRows * S::kExperts; i += kSlices * 32) {
    const int64_t m = m0 + i / S::kExperts, e = e0 + i % S::kExperts;
    if (m < p.rows && e < p.E) logits[m * p.E + e] = sum[i / S::kExperts][i % S::kExperts];
  }
}

// Integers in the order of floats, NaN above all. An expert already taken is below all.
constexpr int kNan = INT32_MAX, kTaken = INT32_MIN;
__device__ inline int rank_of(float v) {
  if (v != v) return kNan;
  const int bits = __float_as_int(v + 0.f);  // -0 ranks as 0
  return bits < 0 ? bits ^ INT32_MAX : bits;
}
__device__ inline float value_of(int rank) {
  return __int_as_float(rank < 0 ? rank ^ INT32_MAX : rank);
}

// Experts of groups that are not among the best get -inf. `best` has room for all groups.
__device__ inline void keep_best_groups(const MoeRouteParams& p, int* ranks, int* best, int lane) {
  const int groups = int(p.n_group), size = int(p.E) / groups;
  for (int g = lane; g < groups; g += 32) {
    int first = kTaken, second = kTaken;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      const int r = ranks[e];
      if (r > first)
        second = first, first = r;
      else if (r > second)
        second = r;
    }
    best[g] = rank_of(size > 1 ? value_of(first) + value_of(second) : value_of(first));
  }
  __syncwarp();
  for (int g = lane; g < groups; g += 32) {
    int better = 0;
    for (int other = 0; other < groups; ++other)
      better += best[other] > best[g] || (best[other] == best[g] && other < g);
    if (better >= p.topk_group)
      for (int e = g * size; e < (g + 1) * size; ++e) ranks[e] = rank_of(-INFINITY);
  }
  __syncwarp();
}

__global__ void __launch_bounds__(kChooseWarps * 32)
    route_choose(const __grid_constant__ MoeRouteParams p) {
  extern __shared__ int room[];  // of each warp: ranks, scores, and the groups' ranks
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, experts = int(p.E);
  const int64_t m = int64_t(blockIdx.x) * kChooseWarps + warp;
  if (m >= p.rows) return;
  int* ranks = room + warp * 3 * experts;
  float* scores = reinterpret_cast<float*>(ranks + experts);
  const float* logits = static_cast<const float*>(p.workspace) + m * p.E;
  for (int e = lane; e < experts; e += 32) {
    const float s = 1.f / (1.f + expf(-logits[e]));
    scores[e] = s;
    ranks[e] = rank_of(p.bias ? s + p.bias[e] : s);
  }
  __syncwarp();
  if (p.n_group > 1) keep_best_groups(p, ranks, ranks + 2 * experts, lane);

  const auto best_of_lane = [&](int& rank, int& expert) {
    rank = kTaken, expert = INT32_MAX;
    for (int e = lane; e < experts; e += 32)
      if (ranks[e] > rank) rank = ranks[e], expert = e;
  };
  int rank, expert;
  best_of_lane(rank, expert);
  float sum = 0.f;
  for (int64_t k = 0; k < p.top_k; ++k) {
    const int best = __reduce_max_sync(~0u, rank);
    const int chosen = __reduce_min_sync(~0u, rank == best ? expert : INT32_MAX);
    const float s = scores[chosen];
    sum += s;
    if (lane == 0) {
      p.indices[m * p.top_k + k] = chosen;
      p.weights[m * p.top_k + k] = s;
    }
    if (chosen % 32 == lane) {
      ranks[chosen] = kTaken;
      best_of_lane(rank, expert);
    }
  }
  __syncwarp();
  const float divisor = p.normalize ? sum + 1e-20f : 1.f;
  for (int64_t k = lane; k < p.top_k; k += 32) {
    float& weight = p.weights[m * p.top_k + k];
    weight = weight / divisor * p.scale;
  }
}

using Few = Shape<1, 2, 32>;
using Many = Shape<8, 8, 8>;
#define WW_LOGITS(dtypes, X, W)                                              \
  {                                                                          \
    {"moe_route", "logits, 4 rows", dtypes, route_logits<X, W, 1, 2, 32>}, { \
      "moe_route", "logits, 32 rows", dtypes, route_logits<X, W, 8, 8, 8>    \
    }                                                                        \
  }
const CudaKernel<MoeRouteParams> kLogits[3][2] = {WW_LOGITS("float32", float, float),
                                                  WW_LOGITS("bfloat16 float32", bf16_t, float),
                                                  WW_LOGITS("bfloat16", bf16_t, bf16_t)};
const CudaKernel<MoeRouteParams> kChoose{"moe_route", "choose", "float32", route_choose};

template <typename S>
dim3 tiles(const MoeRouteParams& p) {
  return dim3(unsigned((p.E + S::kExperts - 1) / S::kExperts),
              unsigned((p.rows + S::kRows - 1) / S::kRows));
}

}  // namespace
}  // namespace ww

WW_EXPORT int64_t ww_moe_route_workspace(const ww::MoeRouteParams* p) {
  return p->rows * p->E * int64_t(sizeof(float));
}

WW_EXPORT int ww_moe_route(const ww::MoeRouteParams* params, void* stream) {
  using namespace ww;
  const MoeRouteParams& p = *params;
  const auto s = static_cast<cudaStream_t>(stream);
  if (p.rows == 0) return cudaSuccess;
  const bool few = p.rows <= 4 * Few::kRows;
  const int types = p.dtype == DType::f32 ? 0 : (p.weight_dtype == DType::f32 ? 1 : 2);
  const dim3 grid = few ? tiles<Few>(p) : tiles<Many>(p);
  if (grid.y > 65535) return unsupported("more than 2 million tokens in one call");
  const cudaError_t status = kLogits[types][!few].launch(grid, kSlices * 32, s, p);
  if (status != cudaSuccess) return status;
  return kChoose.launch((p.rows + kChooseWarps - 1) / kChooseWarps, kChooseWarps * 32, s, p,
                        kChooseWarps * 3 * int(p.E) * int(sizeof(int)));
}
