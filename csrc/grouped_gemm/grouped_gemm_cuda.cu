// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels for sm_80 and later, and the rule by which sm_90a's own (group_product_sm90a.cu)
// come before them.
//
//   bf16  mma.m16n8k16 on tiles of 16, 64 or 128 rows and 128 columns (mma_tile.cuh)
//   bf16 times quantised weights  the same on tiles of 64 rows and 128 columns (coded_tile.cuh):
//         twice the rows would decode no less. Up to 16 rows are bound by reading the weights: 32
//         columns, so that one matrix has tiles enough, and 256 of k a stage, so that rows fill
//         sectors
//   f32   fused multiply-adds on tiles of 64 x 64: tensor cores have no fp32 products
//
// Rows that are quantised, too, are decoded to bf16 before.
#include <initializer_list>

#include "core/cuda/workspace.h"
#include "core/numerics.h"
#include "grouped_gemm/block_scaled.h"
#include "grouped_gemm/coded_tile.cuh"
#include "grouped_gemm/group_launch.h"
#include "grouped_gemm/group_product_coded.h"
#include "grouped_gemm/group_product_sm90a.h"
#include "grouped_gemm/mma_tile.cuh"

namespace ww {
namespace {

// Element (n,k) of matrix e without its scale.
template <WeightFormat kFormat>
__device__ inline float weight_at(const Weights& w, int64_t e, int64_t n, int64_t k) {
  const int64_t row = e * w.stride_e + n * w.stride_n;
  if constexpr (kFormat == WeightFormat::dense) {
    return static_cast<const float*>(w.data)[row + k];
  } else if constexpr (kFormat == WeightFormat::e4m3) {
    return to_float(static_cast<const e4m3_t*>(w.data)[row + k]);
  } else {
    const uint8_t codes = static_cast<const uint8_t*>(w.data)[row + k / 2];
    const e4m3_t scale = w.block_scales[e * w.block_stride_e + n * w.block_stride_n + k / 16];
    return to_float(e2m1_t{uint8_t(k % 2 ? codes >> 4 : codes & 15)}) * to_float(scale);
  }
}

// --- fp32 ---

constexpr int kTile = 64, kSlab = 16, kThreads32 = 256;

template <WeightFormat kFormat>
__global__ void __launch_bounds__(kThreads32) product_f32(const __grid_constant__ GroupProduct g) {
  __shared__ __align__(16) float slab_a[kSlab][kTile + 4], slab_b[kSlab][kTile + 4];
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  TileWalk<kTile, kTile> walk(g);
  for (Tile tile; walk.next(tile);) {
    // Sums of sums, of 8 products and of 64: the error grows with a chain, and one over k is long.
    float acc[4][4] = {}, part[4][4] = {};
    int slabs = 0;
    const auto close_part = [&] {
#pragma unroll
      for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n) acc[m][n] += part[m][n], part[m][n] = 0.f;
    };
    for (int i = 0; tile.group < g.E && i < g.parts; ++i) {
      const ProductPart& p = g.part[i];
      for (int64_t k0 = 0; k0 < p.K; k0 += kSlab) {
        __syncthreads();
#pragma unroll
        for (int j = 0; j < kTile * kSlab / kThreads32; ++j) {
          const int row = ty + j * 16;  // 16 neighbouring threads read neighbouring k
          const int64_t m = tile.m0 + row, n = tile.n0 + row, k = k0 + tx;
          float a = 0.f, b = 0.f;
          if (m < tile.m1 && k < p.K)
            a = static_cast<const float*>(p.a)[(p.rows ? p.rows[m] : m) * p.a_stride + k];
          if (n < g.N && k < p.K) b = weight_at<kFormat>(p.b, tile.group, n, k);
          slab_a[tx][row] = a, slab_b[tx][row] = b;
        }
        __syncthreads();
#pragma unroll
        for (int half = 0; half < kSlab; half += kSlab / 2) {
          float sum[4][4] = {};
#pragma unroll
          for (int k = half; k < half + kSlab / 2; ++k) {
            float a[4], b[4];
            widen<float>(load_packed<float, 4>(&slab_a[k][ty * 4]), a);
            widen<float>(load_packed<float, 4>(&slab_b[k][tx * 4]), b);
#pragma unroll
            for (int m = 0; m < 4; ++m)
#pragma unroll
              for (int n = 0; n < 4; ++n) sum[m][n] = fmaf(a[m], b[n], sum[m][n]);
          }
#pragma unroll
          for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int n = 0; n < 4; ++n) part[m][n] += sum[m][n];
        }
        if (++slabs % 4 == 0) close_part();
      }
    }
    close_part();
#pragma unroll
    for (int m = 0; m < 4; ++m)
      if (tile.m0 + ty * 4 + m < tile.m1)
        finish(g, tile.group, tile.m0 + ty * 4 + m, tile.n0 + tx * 4, acc[m]);
  }
}

// --- Launch ---

template <typename Work_, typename Unaligned>
struct Variant {
  using Work = Work_;
  CudaKernel<GroupProduct> kernel[2];  // pieces are aligned, or not

  Variant(const char* name, const char* unaligned)
      : kernel{{"grouped_gemm", name, "bfloat16", product_tiles<Work>},
               {"grouped_gemm", unaligned, "bfloat16", product_tiles<Unaligned>}} {}
};
template <int kRows, int kStages>
using Dense = Variant<MmaTile<Bf16Operands, kRows, kStages, true>,
                      MmaTile<Bf16Operands, kRows, kStages, false>>;
template <typename Format, int kRows, int kColumns, int kSlices, int kStages>
using Coded = Variant<CodedTile<Format, kRows, kColumns, kSlices, kStages, true>,
                      CodedTile<Format, kRows, kColumns, kSlices, kStages, false>>;
const Dense<16, 4> kFew{"16 rows", "16 rows, unaligned"};
const Dense<64, 3> kSome{"64 rows", "64 rows, unaligned"};
const Dense<128, 3> kMany{"128 rows", "128 rows, unaligned"};
const Coded<E4m3Format, 16, 32, 4, 4> kFewE4m3{"e4m3, 16 rows", "e4m3, 16 rows, unaligned"};
const Coded<E4m3Format, 64, 128, 1, 4> kManyE4m3{"e4m3, 64 rows", "e4m3, 64 rows, unaligned"};
const Coded<Nvfp4Format, 16, 32, 4, 4> kFewNvfp4{"nvfp4, 16 rows", "nvfp4, 16 rows, unaligned"};
const Coded<Nvfp4Format, 64, 128, 1, 4> kManyNvfp4{"nvfp4, 64 rows", "nvfp4, 64 rows, unaligned"};
const CudaKernel<GroupProduct> kProductF32[3] = {
    // by format
    {"grouped_gemm", "64 x 64", "float32", product_f32<WeightFormat::dense>},
    {"grouped_gemm", "e4m3, 64 x 64", "float32", product_f32<WeightFormat::e4m3>},
    {"grouped_gemm", "nvfp4, 64 x 64", "float32", product_f32<WeightFormat::nvfp4>}};

int64_t rows_of_a_group(const GroupProduct& g) {  // if they are spread evenly
  return g.E > 0 ? g.M / g.E : g.M;
}

bool is_multiple(const void* base, std::initializer_list<int64_t> strides, int64_t of,
                 int64_t size) {
  if (reinterpret_cast<uintptr_t>(base) % of) return false;
  for (int64_t n : strides)
    if (n * size % of) return false;
  return true;
}
bool is_aligned(const GroupProduct& g) {
  for (int i = 0; i < g.parts; ++i) {
    const ProductPart& p = g.part[i];
    const int64_t size = p.b.format == WeightFormat::dense ? 2 : 1;
    if (!is_multiple(p.a, {p.a_stride}, 16, 2) ||
        !is_multiple(p.b.data, {p.b.stride_e, p.b.stride_n}, 16, size) ||
        !is_multiple(p.b.block_scales, {p.b.block_stride_e, p.b.block_stride_n}, 4, 1))
      return false;
  }
  return true;
}

template <typename V>
cudaError_t launch_variant(const V& variant, const GroupProduct& g, cudaStream_t stream) {
  return launch_tiles<typename V::Work>(variant.kernel[!is_aligned(g)], g, stream);
}
cudaError_t launch_bf16(const GroupProduct& g, WeightFormat format, cudaStream_t stream) {
  const int64_t rows = rows_of_a_group(g);
  switch (format) {
    case WeightFormat::e4m3:
      return rows <= 16 ? launch_variant(kFewE4m3, g, stream)
                        : launch_variant(kManyE4m3, g, stream);
    case WeightFormat::nvfp4:
      return rows <= 16 ? launch_variant(kFewNvfp4, g, stream)
                        : launch_variant(kManyNvfp4, g, stream);
    case WeightFormat::dense: break;
  }
  if (rows <= 16) return launch_variant(kFew, g, stream);
  return rows <= 64 ? launch_variant(kSome, g, stream) : launch_variant(kMany, g, stream);
}

// --- The choice between the above and the kernels of sm_90a ---

#if defined(WW_GROUP_PRODUCT_SM90A)
constexpr bool kHasSm90a = true;
#else
constexpr bool kHasSm90a = false;
#endif
constexpr int kManyRows = 64;  // of a group: below, most of a tile of 128 rows would be waste

// TMA's strides: multiples of 16 bytes below 2^40, and rows that do not overlap.
bool is_tma_stride(int64_t stride, int64_t row, int64_t size) {
  return stride >= row && stride * size % 16 == 0 && stride * size < int64_t(1) << 40;
}

// Why the kernels above take what a Hopper device was given; null if its own do. For people
// it is kWhen of group_product_sm90a.cu.
const char* why_not_sm90a(const GroupProduct& g, DType dtype) {
  const int64_t out_size = g.out_dtype == DType::f32 ? 4 : 2;
  const bool is_sum = g.parts == 2 || g.addend;
  if (!kHasSm90a) return "this build has none for sm_90a";
  if (dtype != DType::bf16) return "operands are not bfloat16";
  if (g.parts == 0) return "it is no product";
  if (g.part[0].b.format != WeightFormat::dense) return "weights are quantised";
  if (g.parts == 2 && g.addend) return "it is a sum of three";
  if (g.parts == 2 && !g.partial) return "it is a sum of products and there is no place for one";
  if (is_sum && out_size == 4) return "it is a sum in float32";
  if (rows_of_a_group(g) < kManyRows) return "there are less than 64 rows a group";
  if (g.M > INT32_MAX || g.N > INT32_MAX) return "an extent is above 2^31";
  bool on_16_bytes = is_aligned(g) && is_tma_stride(g.out_stride, g.N, out_size) &&
                     reinterpret_cast<uintptr_t>(g.out) % 16 == 0;
  if (is_sum)
    on_16_bytes &= g.N % kVector<bf16_t> == 0 && reinterpret_cast<uintptr_t>(g.addend) % 16 == 0;
  for (int i = 0; i < g.parts; ++i) {
    const ProductPart& p = g.part[i];
    if (g.N < 128 || p.K < 64) return "a group has less than 128 columns or 64 of k";
    if (p.K > INT32_MAX) return "an extent is above 2^31";
    if (p.rows && (g.parts == 2 || !g.gathered))
      return "rows are named by an index and there is no place for them";
    on_16_bytes &= is_tma_stride(p.rows ? p.K : p.a_stride, p.K, 2);
    on_16_bytes &= is_tma_stride(p.b.stride_n, p.K, 2);
  }
  if (!on_16_bytes) return "rows are not on 16 bytes, or overlap";
  return nullptr;
}

}  // namespace

int64_t group_product_workspace(int64_t groups) {
  int capability;
  return kHasSm90a && compute_capability(&capability) == cudaSuccess && capability == 90
             ? sm90a_group_product_workspace(groups)
             : 0;
}

cudaError_t launch_group_product(const GroupProduct& g, DType dtype, cudaStream_t stream) {
  if (g.M == 0 || g.N == 0) return cudaSuccess;
  int capability;
  const cudaError_t status = compute_capability(&capability);
  if (status != cudaSuccess) return status;
  const char* why = capability == 90 ? why_not_sm90a(g, dtype) : "";
  const Because because(why ? why : "");
  if (!why) return launch_sm90a_group_product(g, stream);
  const WeightFormat format = g.parts ? g.part[0].b.format : WeightFormat::dense;
  if (dtype == DType::f32)
    return launch_persistent(kProductF32[int(format)], g, kTile, kTile, kThreads32, 0, stream);
  return launch_bf16(g, format, stream);
}

// --- Ops that are one product ---

namespace {

// Rows (M,K) of codes as bf16 without their scales, exact; rows of `out` are padded to 16 bytes.
struct Decoding {
  Weights rows;
  int64_t M;
  const int64_t* count;  // of them to decode, on the device; null: all
  int64_t K, stride;
  bf16_t* out;
};

constexpr int kDecodeThreads = 256;

int64_t decoded_stride(int64_t K) { return (K + 7) / 8 * 8; }

// A warp a row, a lane two neighbours.
template <WeightFormat kFormat>
__global__ void __launch_bounds__(kDecodeThreads) decode(const __grid_constant__ Decoding d) {
  const int64_t warps = int64_t(gridDim.x) * (kDecodeThreads / 32);
  const int64_t warp = (int64_t(blockIdx.x) * kDecodeThreads + threadIdx.x) / 32;
  const int64_t count = d.count ? *d.count : d.M;
  for (int64_t m = warp; m < count; m += warps) {
    const uint8_t* row = static_cast<const uint8_t*>(d.rows.data) + m * d.rows.stride_n;
    uint32_t* out = reinterpret_cast<uint32_t*>(d.out + m * d.stride);
    for (int64_t i = threadIdx.x % 32; i < d.stride / 2; i += 32) {
      if constexpr (kFormat == WeightFormat::e4m3) {
        const uint32_t low = 2 * i < d.K ? row[2 * i] : 0,
                       high = 2 * i + 1 < d.K ? row[2 * i + 1] : 0;
        out[i] = e4m3_pair(low << 8 | high << 24);
      } else {
        const uint32_t scale = d.rows.block_scales[m * d.rows.block_stride_n + i / 8].bits;
        uint32_t values[4];
        e2m1_pairs(row[i], values);
        out[i] = mul_bf16x2(values[0], e4m3_pair(scale << 8 | scale << 24));
      }
    }
  }
}

const CudaKernel<Decoding> kDecode[2] = {
    {"grouped_gemm", "e4m3, decode rows", "bfloat16", decode<WeightFormat::e4m3>},
    {"grouped_gemm", "nvfp4, decode rows", "bfloat16", decode<WeightFormat::nvfp4>}};

#if defined(WW_SM120A_GROUP_PRODUCT)
constexpr bool kHasSm120a = true;
#else
constexpr bool kHasSm120a = false;
#endif
#if defined(WW_SM89_GROUP_PRODUCT)
constexpr bool kHasSm89 = true;
#else
constexpr bool kHasSm89 = false;
#endif

int64_t decoded_bytes(const GroupedGemmParams& p) {
  return on_256_bytes(p.a.format == WeightFormat::dense ? 0 : p.M * decoded_stride(p.K) * 2);
}

GroupProduct product_of(const GroupedGemmParams& p) {
  GroupProduct g{};
  g.M = p.M, g.N = p.N, g.E = p.E;
  g.ends = p.offsets, g.ends_is_int64 = p.offsets_is_int64, g.zero_rest = true;
  g.relu2 = p.relu2;
  g.parts = 1;
  g.part[0] = {p.a.data, p.a.stride_n, nullptr, p.b, p.K, p.a.block_scales, p.a.block_stride_n};
  g.row_scale = p.a.scale, g.row_scale_stride = p.a.scale_stride_n;
  g.out = p.out, g.out_stride = p.out_stride_m, g.out_dtype = p.out_dtype;
  g.workspace = static_cast<char*>(p.workspace) + decoded_bytes(p);
  return g;
}

const BlockScaledProduct* block_scaled_of_device() {
  int capability;
  if (compute_capability(&capability) != cudaSuccess) return nullptr;
#if defined(WW_BLOCK_SCALED_SM100A)
  if (capability == 100) return &kBlockScaledSm100a;
#endif
#if defined(WW_BLOCK_SCALED_SM120A)
  if (capability == 120) return &kBlockScaledSm120a;
#endif
  return nullptr;
}

// Why CUTLASS's block-scaled products do not take rows and weights that are NVFP4; null if they do.
// For people it is kWhen of block_scaled_sm100a.cu and block_scaled_sm120a.cu.
const char* why_not_block_scaled(const GroupProduct& g) {
  const ProductPart& p = g.part[0];
  if (!p.a_block_scales) return "";
  const BlockScaledProduct* product = block_scaled_of_device();
  if (!product) return "this build has none of CUTLASS for the device";
  if (g.E == 0) return "there is no group";
  if (rows_of_a_group(g) < product->least_rows) return "a group has few rows";
  if (g.N < 128 || p.K < 128) return "a group has less than 128 columns or 128 of k";
  if (p.K % 64) return "k is no multiple of 64";
  if (g.M > INT32_MAX || g.N > INT32_MAX || p.K > INT32_MAX) return "an extent is above 2^31";
  if (!is_multiple(p.a, {p.a_stride}, 16, 1) ||
      !is_multiple(p.b.data, {p.b.stride_e, p.b.stride_n}, 16, 1) ||
      !is_tma_stride(p.a_stride, p.K / 2, 1) || !is_tma_stride(p.b.stride_n, p.K / 2, 1))
    return "rows of codes are not on 16 bytes, or overlap";
  if (!is_multiple(p.a_block_scales, {p.a_block_stride}, 4, 1) ||
      !is_multiple(p.b.block_scales, {p.b.block_stride_e, p.b.block_stride_n}, 4, 1))
    return "rows of block scales are not on 4 bytes";
  if (!is_multiple(g.out, {g.out_stride}, 16, g.out_dtype == DType::f32 ? 4 : 2))
    return "results are not on 16 bytes";
  if (product->workspace(g) == 0) return "the device has no image of it";
  return nullptr;
}

// Why rows that are quantised, too, are decoded to bf16; null if tensor cores take them as they
// are. For people it is kWhen of group_product_sm89.cu and group_product_sm120a.cu.
const char* why_not_coded(const GroupedGemmParams& p) {
  int capability;
  if (compute_capability(&capability) != cudaSuccess) return "there is no device";
  if (p.a.format != p.b.format) return "rows and weights are in two formats";
  if (p.a.format == WeightFormat::nvfp4) {
    if (capability != 120) return "the device is not of compute capability 12.0";
    if (!kHasSm120a) return "this build has none for sm_120a";
  } else {
    if (capability < 89) return "the device has no mma.sync of E4M3";
    if (!kHasSm89) return "this build has none for sm_89";
  }
  if (!is_multiple(p.a.data, {p.a.stride_n}, 16, 1) ||
      !is_multiple(p.b.data, {p.b.stride_e, p.b.stride_n}, 16, 1))
    return "rows of codes are not on 16 bytes";
  if (!is_multiple(p.a.block_scales, {p.a.block_stride_n}, 4, 1) ||
      !is_multiple(p.b.block_scales, {p.b.block_stride_e, p.b.block_stride_n}, 4, 1))
    return "rows of block scales are not on 4 bytes";
  return nullptr;
}

cudaError_t launch_coded(const GroupProduct& g, WeightFormat format, cudaStream_t stream) {
  if constexpr (kHasSm120a)
    if (format == WeightFormat::nvfp4) return launch_sm120a_group_product(g, stream);
  if constexpr (kHasSm89)
    if (format == WeightFormat::e4m3) return launch_sm89_group_product(g, stream);
  return cudaErrorInvalidValue;
}

}  // namespace

int64_t grouped_product_workspace(const GroupedGemmParams& p) {
  const GroupProduct g = product_of(p);
  return decoded_bytes(p) + (why_not_block_scaled(g) ? group_product_workspace(p.E)
                                                     : block_scaled_of_device()->workspace(g));
}

int launch_grouped_product(const GroupedGemmParams& p, void* stream_) {
  const auto stream = static_cast<cudaStream_t>(stream_);
  GroupProduct g = product_of(p);
  if (p.a.format == WeightFormat::dense) return launch_group_product(g, p.dtype, stream);
  if (p.M == 0 || p.N == 0) return cudaSuccess;
  int capability;
  cudaError_t status = compute_capability(&capability);
  if (status != cudaSuccess) return status;
  const char* why_not_cutlass = why_not_block_scaled(g);
  const int64_t* left = nullptr;
  if (!why_not_cutlass) {
    status = block_scaled_of_device()->launch(g, left, stream);
    if (status != cudaSuccess) return status;
    g.ends = left, g.ends_is_int64 = true, g.zero_rest = false;
    why_not_cutlass = "block scales may be negative";
  }
  const char* why = why_not_coded(p);
  const Because because(!why || capability == 100 ? why_not_cutlass : why);
  if (!why) return launch_coded(g, p.a.format, stream);

  bf16_t* decoded = static_cast<bf16_t*>(p.workspace);
  const Decoding d{p.a, p.M, left ? left + p.E - 1 : nullptr, p.K, decoded_stride(p.K), decoded};
  const CudaKernel<Decoding>& kernel = kDecode[int(p.a.format) - 1];
  int resident;
  status = kernel.resident_blocks(kDecodeThreads, 0, &resident);
  if (status != cudaSuccess) return status;
  const int64_t blocks = (d.M * 32 + kDecodeThreads - 1) / kDecodeThreads;
  status = kernel.launch(blocks < resident ? blocks : int64_t(resident), kDecodeThreads, stream, d);
  if (status != cudaSuccess) return status;
  g.part[0].a = decoded, g.part[0].a_stride = d.stride;
  return launch_group_product(g, DType::bf16, stream);
}

}  // namespace ww

WW_EXPORT int64_t ww_grouped_gemm_workspace(const ww::GroupedGemmParams* p) {
  return ww::grouped_product_workspace(*p);
}
WW_EXPORT int ww_grouped_gemm(const ww::GroupedGemmParams* p, void* stream) {
  return ww::launch_grouped_product(*p, stream);
}
