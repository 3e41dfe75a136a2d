// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels. A team owns one group of one row: a warp where the group fits its registers, a
// block otherwise. It reads 16 bytes a lane and access, keeps up to kKept vectors a lane in fp32
// between the two passes, and reads what is beyond them a second time. Bound by memory: each
// element moves once in and once out.
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"
#include "rms_norm/rms_norm.h"

namespace ww {
namespace {

constexpr int kKept = 4;         // vectors of a lane
constexpr int kWarpBlock = 128;  // threads of a block whose warps work alone
constexpr int kMaxThreads = 1024;

template <typename T, int V>
struct Group {
  const RmsNormParams& p;
  int64_t row, first;  // the group's first element in its row

  template <typename U>
  __device__ const T* in(const U* base, int64_t stride, int64_t i) const {
    return static_cast<const T*>(base) + row * stride + first + i * V;
  }
  // Vector i of the values that are normalised; `stores`: of the sum, too.
  __device__ void values(int64_t i, float* v, bool stores) const {
    widen<T>(load_packed<T, V>(in(p.x, p.x_stride, i)), v);
    if (p.residual) {
      float other[V];
      widen<T>(load_packed<T, V>(in(p.residual, p.residual_stride, i)), other);
#pragma unroll
      for (int j = 0; j < V; ++j) v[j] += other[j];
      const Packed<T, V> rounded = narrow<T, V>(v);
      widen<T>(rounded, v);
      if (stores) store_packed<T, V>(static_cast<T*>(p.sum) + row * p.D + first + i * V, rounded);
    } else if (p.gate) {
      float gate[V];
      widen<T>(load_packed<T, V>(in(p.gate, p.gate_stride, i)), gate);
#pragma unroll
      for (int j = 0; j < V; ++j) v[j] *= silu<T>(gate[j]);
    }
  }
  __device__ void store(int64_t i, float* v, float scale) const {
    float weight[V];
    if (p.weight_dtype == dtype_of<T>) {
      widen<T>(load_packed<T, V>(static_cast<const T*>(p.weight) + first + i * V), weight);
    } else {
      const float* w = static_cast<const float*>(p.weight) + first + i * V;
#pragma unroll
      for (int j = 0; j < V; j += V < 4 ? 1 : 4)
        widen<float>(load_packed<float, (V < 4 ? 1 : 4)>(w + j), weight + j);
    }
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] *= scale * weight[j];
    store_packed<T, V>(static_cast<T*>(p.out) + row * p.D + first + i * V, narrow<T, V>(v));
  }
};

template <int V>
__device__ inline float squares(const float* v, float sum) {
#pragma unroll
  for (int j = 0; j < V; ++j) sum = fmaf(v[j], v[j], sum);
  return sum;
}

// One addend a warp of the block, summed in the order of the warps.
__device__ inline float block_sum(float v) {
  __shared__ float warps[kMaxThreads / 32];
  v = lane_sum(v);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
  __syncthreads();
  const int lane = threadIdx.x % 32;
  return lane_sum(lane < int(blockDim.x / 32) ? warps[lane] : 0.f);
}

template <typename T, int V, bool kWarps>
__global__ void __launch_bounds__(kWarps ? kWarpBlock : kMaxThreads)
    rms_norm(const __grid_constant__ RmsNormParams p) {
  const int64_t groups = p.D / p.group_size, vectors = p.group_size / V;
  const int64_t id =
      kWarps ? int64_t(blockIdx.x) * (kWarpBlock / 32) + threadIdx.x / 32 : int64_t(blockIdx.x);
  if (kWarps && id >= p.rows * groups) return;
  const Group<T, V> group{p, id / groups, id % groups * p.group_size};
  const int lane = kWarps ? threadIdx.x % 32 : threadIdx.x, lanes = kWarps ? 32 : blockDim.x;

  float kept[kKept][V], sum = 0.f;
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    const int64_t i = lane + int64_t(k) * lanes;
    if (i >= vectors) break;
    group.values(i, kept[k], true);
    sum = squares<V>(kept[k], sum);
  }
  for (int64_t i = lane + int64_t(kKept) * lanes; i < vectors; i += lanes) {
    float v[V];
    group.values(i, v, true);
    sum = squares<V>(v, sum);
  }
  sum = kWarps ? lane_sum(sum) : block_sum(sum);
  const float scale = rsqrtf(sum / float(p.group_size) + p.eps);
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    const int64_t i = lane + int64_t(k) * lanes;
    if (i >= vectors) break;
    group.store(i, kept[k], scale);
  }
  for (int64_t i = lane + int64_t(kKept) * lanes; i < vectors; i += lanes) {
    float v[V];
    group.values(i, v, false);
    group.store(i, v, scale);
  }
}

#define WW_ROW(name, dtype, T)                                               \
  {                                                                          \
    {{"rms_norm", name " warps", dtype, rms_norm<T, kVector<T>, true>},      \
     {"rms_norm", name " blocks", dtype, rms_norm<T, kVector<T>, false>}},   \
    {                                                                        \
      {"rms_norm", name " warps, unaligned", dtype, rms_norm<T, 1, true>}, { \
        "rms_norm", name " blocks, unaligned", dtype, rms_norm<T, 1, false>  \
      }                                                                      \
    }                                                                        \
  }

// By dtype, whether vectors do not start on 16 bytes, and whether a warp is too small.
const CudaKernel<RmsNormParams> kKernels[3][2][2] = {
    WW_ROW("group", "float32", float),
    WW_ROW("group", "bfloat16", bf16_t),
    WW_ROW("group", "float16", f16_t),
};

bool is_wide(const RmsNormParams& p, int64_t vector) {
  for (const void* base : {p.x, p.residual, p.gate, p.weight, static_cast<const void*>(p.sum),
                           static_cast<const void*>(p.out)})
    if (reinterpret_cast<uintptr_t>(base) % 16) return false;
  for (int64_t n : {p.group_size, p.D, p.x_stride, p.residual_stride, p.gate_stride})
    if (n % vector) return false;
  return true;
}

}  // namespace
}  // namespace ww

WW_EXPORT int ww_rms_norm(const ww::RmsNormParams* params, void* stream) {
  using namespace ww;
  const RmsNormParams& p = *params;
  if (p.rows == 0 || p.D == 0) return cudaSuccess;
  int64_t vector = p.dtype == DType::f32 ? kVector<float> : kVector<bf16_t>;
  const bool wide = is_wide(p, vector);
  if (!wide) vector = 1;
  const int64_t groups = p.rows * (p.D / p.group_size), vectors = p.group_size / vector;
  const bool warps = vectors <= 32 * kKept;
  const int64_t per_block = warps ? kWarpBlock / 32 : 1;
  int threads = kWarpBlock;
  while (!warps && threads < kMaxThreads && int64_t(threads) * kKept < vectors) threads *= 2;
  return kKernels[int(p.dtype)][!wide][!warps].launch((groups + per_block - 1) / per_block, threads,
                                                      static_cast<cudaStream_t>(stream), p);
}
