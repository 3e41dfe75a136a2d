// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels. A thread has a block of 16 elements to itself, so the encoder is that of a
// CPU's lane; its 8 bytes of codes and its scale lie beside those of the next thread.
//
//   amax, scale  the global scale, if none is given: a slice of its rows for each thread block,
//                then the largest of those slices. No atomics, so nothing has to be cleared
//   quantize     rows: any thread, any block. tiles: a warp has 32 neighbouring blocks of a row,
//                and the 16 warps the rows of 32 tiles, which share amax through shared memory
#include "core/cuda/launch.h"
#include "core/cuda/philox.cuh"
#include "core/cuda/vector.cuh"
#include "core/nvfp4.h"
#include "nvfp4_quantize/nvfp4_quantize.h"

namespace ww {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 16;                 // rows
constexpr int kTileThreads = kTile * 32;
constexpr int64_t kSlice = kThreads * 8;  // blocks of an amax slice, at the least
constexpr int64_t kSlices = 1024;         // of a scale, at the most

struct Lane : PhiloxLane {
  using F = float;
  using I = int32_t;
  static constexpr bool kDivides = false;
  static __device__ float min(float a, float b) { return fminf(a, b); }
  static __device__ float max(float a, float b) { return fmaxf(a, b); }
  static __device__ float min_magnitude(float v, float b) { return fminf(fabsf(v), b); }
  static __device__ float mul_add(float a, float b, float c) { return fmaf(a, b, c); }
  static __device__ float add_square(float sum, float v) {
    return __fadd_rn(sum, __fmul_rn(v, v));  // which the compiler does not fuse
  }
  static __device__ float quotient(float v, float divisor, float reciprocal) {
    return fused_quotient(v, divisor, reciprocal,
                          [](float a, float b, float c) { return fmaf(a, b, c); });
  }
  static __device__ bool any(bool mask) { return mask; }
  static __device__ bool any_above(float v, float bound) { return !(v <= bound); }
  static __device__ uint32_t or_sign(uint32_t a, float v) {
    return a | (__float_as_uint(v) & 0x80000000u);
  }
  static __device__ uint32_t round_up(float v) { return __float2uint_ru(v); }
};

__host__ __device__ inline int64_t slices(const Nvfp4QuantizeParams& p) {
  const int64_t blocks = p.scale_rows * (p.K / kNvfp4Block);
  const int64_t wanted = (blocks + kSlice - 1) / kSlice;
  return wanted < 1 ? 1 : wanted < kSlices ? wanted : kSlices;
}

template <typename T>
__device__ inline void load_block(const Nvfp4QuantizeParams& p, int64_t row, int64_t block,
                                  float (&v)[kNvfp4Block]) {
  const T* x = static_cast<const T*>(p.x) + row * p.x_stride + block * kNvfp4Block;
  if ((reinterpret_cast<uintptr_t>(p.x) | p.x_stride * sizeof(T)) % 16 == 0)
    load_widened<T, kVector<T>, kNvfp4Block>(x, v);
  else
    load_widened<T, 1, kNvfp4Block>(x, v);
  if (p.hadamard) nvfp4_hadamard<Lane>(v);
}

// The largest of the thread block's, in thread 0.
__device__ inline uint32_t block_max(uint32_t v) {
  __shared__ uint32_t warps[kThreads / 32];
  v = __reduce_max_sync(~0u, v);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
  __syncthreads();
  return __reduce_max_sync(~0u, warps[threadIdx.x % (kThreads / 32)]);
}

__device__ inline float global_scale(const Nvfp4QuantizeParams& p, uint32_t amax) {
  const float g = __uint_as_float(amax) / nvfp4_bound(p);
  return g > 0.f ? g : 1.f;
}

// Largest finite magnitudes; the only slice of a scale is the scale.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    amax_of_slices(const __grid_constant__ Nvfp4QuantizeParams p) {
  const int64_t columns = p.K / kNvfp4Block, blocks = p.scale_rows * columns;
  const int64_t parts = slices(p), scale = blockIdx.x / parts;
  uint32_t largest = 0;
  for (int64_t i = blockIdx.x % parts * kThreads + threadIdx.x; i < blocks; i += parts * kThreads) {
    float v[kNvfp4Block];
    load_block<T>(p, scale * p.scale_rows + i / columns, i % columns, v);
#pragma unroll
    for (int k = 0; k < kNvfp4Block; ++k) {
      const uint32_t bits = __float_as_uint(v[k]) & 0x7fffffff;
      if (bits < kInfinityBits) largest = max(largest, bits);
    }
  }
  largest = block_max(largest);
  if (threadIdx.x != 0) return;
  if (parts == 1)
    p.global_scale[scale] = global_scale(p, largest);
  else
    static_cast<uint32_t*>(p.workspace)[blockIdx.x] = largest;
}

// A thread block a scale.
__global__ void __launch_bounds__(kThreads)
    scale_of_slices(const __grid_constant__ Nvfp4QuantizeParams p) {
  const int64_t parts = slices(p);
  const uint32_t* slice = static_cast<const uint32_t*>(p.workspace) + blockIdx.x * parts;
  uint32_t largest = 0;
  for (int64_t i = threadIdx.x; i < parts; i += kThreads) largest = max(largest, slice[i]);
  largest = block_max(largest);
  if (threadIdx.x == 0) p.global_scale[blockIdx.x] = global_scale(p, largest);
}

// Of the sixteen warps that share tiles, each with a row: `combine` of every lane's values, in
// order.
template <typename V, typename Combine>
__device__ inline V over_rows(V v, const Combine& combine) {
  __shared__ V rows[kTile][32];
  rows[threadIdx.x / 32][threadIdx.x % 32] = v;
  __syncthreads();
  V result = rows[0][threadIdx.x % 32];
#pragma unroll
  for (int r = 1; r < kTile; ++r) result = combine(result, rows[r][threadIdx.x % 32]);
  __syncthreads();  // before the next use
  return result;
}

template <typename T, bool kTiles>
__global__ void __launch_bounds__(kTiles ? kTileThreads : kThreads)
    nvfp4_quantize(const __grid_constant__ Nvfp4QuantizeParams p) {
  const int64_t columns = p.K / kNvfp4Block;
  int64_t row, block;
  if constexpr (kTiles) {
    const int64_t across = (columns + 31) / 32;
    row = blockIdx.x / across * kTile + threadIdx.x / 32;
    block = blockIdx.x % across * 32 + threadIdx.x % 32;
  } else {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    row = i / columns, block = i % columns;
    if (row >= p.rows) return;
  }
  const bool live = !kTiles || block < columns;
  const float global_scale = (p.given ? p.given : p.global_scale)[row / p.scale_rows];
  float v[kNvfp4Block] = {};
  if (live) load_block<T>(p, row, block, v);
  float amax = nvfp4_amax<Lane>(v);
  if constexpr (kTiles)
    amax = __uint_as_float(
        over_rows(__float_as_uint(amax), [](uint32_t a, uint32_t b) { return max(a, b); }));
  Nvfp4Scale<float, int32_t> scale, four;
  bool usual = nvfp4_usual(global_scale);
  nvfp4_with_quotients<Lane>(usual, [&](auto lane) {
    using L = decltype(lane);
    scale = nvfp4_scale<L>(amax, 6.f, global_scale);
    if (p.four_over_six) four = nvfp4_scale<L>(amax, 4.f, global_scale);
  });
  usual = usual && nvfp4_bounded<Lane>(amax, scale, kUsualQuotient);
  if (p.four_over_six || p.stochastic) usual = usual && nvfp4_exact<Lane>(v, scale);
  if (p.four_over_six) {
    usual = usual && nvfp4_exact<Lane>(v, four) && nvfp4_bounded<Lane>(amax, scale, 6.9f) &&
            nvfp4_bounded<Lane>(amax, four, 6.9f);
    float sums[2] = {};
    nvfp4_with_quotients<Lane>(
        usual, [&](auto lane) { nvfp4_squares<decltype(lane)>(v, scale, four, sums); });
    float2 squares{sums[0], sums[1]};
    if constexpr (kTiles)
      squares = over_rows(squares, [](float2 a, float2 b) { return float2{a.x + b.x, a.y + b.y}; });
    scale = nvfp4_better<Lane>(scale, squares.x, four, squares.y);
  }
  if (!live) return;
  const int64_t out = row * columns + block;
  uint32_t words[2];
  nvfp4_with_quotients<Lane>(usual, [&](auto lane) {
    using L = decltype(lane);
    const uint64_t counter = uint64_t(out) * (kNvfp4Block / 4);
    if (p.stochastic)
      nvfp4_codes<L>(v, scale, uint32_t(counter), uint32_t(counter >> 32), philox_keys(p.seed),
                     words);
    else
      nvfp4_codes<L>(v, scale, words);
  });
  reinterpret_cast<uint2*>(p.codes)[out] = {words[0], words[1]};
  p.block_scales[out] = {uint8_t(scale.code)};
}

using Kernel = CudaKernel<Nvfp4QuantizeParams>;

// By dtype.
const Kernel kAmax[3] = {
    {"nvfp4_quantize", "amax", "float32", amax_of_slices<float>},
    {"nvfp4_quantize", "amax", "bfloat16", amax_of_slices<bf16_t>},
    {"nvfp4_quantize", "amax", "float16", amax_of_slices<f16_t>},
};
const Kernel kScale = {"nvfp4_quantize", "scale", "float32 bfloat16 float16", scale_of_slices};

// By dtype, whether 16 rows share their scales.
const Kernel kQuantize[3][2] = {
    {{"nvfp4_quantize", "rows", "float32", nvfp4_quantize<float, false>},
     {"nvfp4_quantize", "tiles", "float32", nvfp4_quantize<float, true>}},
    {{"nvfp4_quantize", "rows", "bfloat16", nvfp4_quantize<bf16_t, false>},
     {"nvfp4_quantize", "tiles", "bfloat16", nvfp4_quantize<bf16_t, true>}},
    {{"nvfp4_quantize", "rows", "float16", nvfp4_quantize<f16_t, false>},
     {"nvfp4_quantize", "tiles", "float16", nvfp4_quantize<f16_t, true>}},
};

}  // namespace
}  // namespace ww

WW_EXPORT int64_t ww_nvfp4_quantize_workspace(const ww::Nvfp4QuantizeParams* params) {
  using namespace ww;
  return params->given ? 0 : nvfp4_scales(*params) * slices(*params) * int64_t(sizeof(uint32_t));
}

WW_EXPORT int ww_nvfp4_quantize(const ww::Nvfp4QuantizeParams* params, void* stream) {
  using namespace ww;
  const Nvfp4QuantizeParams& p = *params;
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  if (!p.given) {
    const int64_t scales = nvfp4_scales(p), parts = slices(p);
    cudaError_t status = kAmax[int(p.dtype)].launch(scales * parts, kThreads, on, p);
    if (status == cudaSuccess && parts > 1) status = kScale.launch(scales, kThreads, on, p);
    if (status != cudaSuccess) return status;
  }
  const int64_t columns = p.K / kNvfp4Block;
  if (p.tiles)
    return kQuantize[int(p.dtype)][1].launch(p.rows / kTile * ((columns + 31) / 32), kTileThreads,
                                             on, p);
  return kQuantize[int(p.dtype)][0].launch((p.rows * columns + kThreads - 1) / kThreads, kThreads,
                                           on, p);
}
