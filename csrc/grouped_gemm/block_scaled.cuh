// SPDX-License-Identifier: Apache-2.0
// NVFP4 times NVFP4 by CUTLASS's block-scaled grouped product, for each architecture that has one:
//
//   order    brings block scales into the order that TMA copies and tensor cores take: tiles of 128
//            rows and 4 scales, row r of a tile at r % 32 * 16 + r / 32 * 4. A group's rows start a
//            tile. Reads and writes the scales of all rows, and of the weights of groups with rows,
//            once: an eighth of the codes' bytes each way. Sets rows of no group to 0
//   describe extents, addresses and strides of each group, where the product reads them
//   product  tiles copied by TMA, one persistent grid whose blocks each rewrite their tensor maps
//            when they come to another group; a matrix for all rows is one group
#pragma once

#include <algorithm>

#include "core/cuda/launch.h"
#include "core/cuda/workspace.h"
#include "cute/tensor.hpp"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/group_array_problem_shape.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "grouped_gemm/block_scaled.h"
#include "grouped_gemm/cutlass_activation.cuh"
#include "grouped_gemm/group_tiles.cuh"

namespace ww {
namespace {

using Problem = cute::Shape<int, int, int>;
using Cluster = cute::Shape<cute::_1, cute::_1, cute::_1>;  // a group may have one tile of rows
using Operand = cutlass::nv_float4_t<cutlass::float_e2m1_t>;
using Code = cutlass::float_e2m1_t;
using Scale = cutlass::float_ue4m3_t;
using ScaleConfig = cutlass::detail::Sm1xxBlockScaledConfig<16>;
using ScaleLayout = ScaleConfig::LayoutSF;
using Row = cutlass::layout::RowMajor;
using Column = cutlass::layout::ColumnMajor;

// CUTLASS's layouts of scales have constants of type uint32_t, cast to int. To nvcc their types
// are those of an int, to g++ not, whose host code would then launch a kernel of a name that was
// never compiled. All are made int here, which changes nothing where they are.
template <typename T>
struct Signed {
  using type = T;
};
template <auto kValue>
struct Signed<cute::C<kValue>> {
  using type = cute::C<int(kValue)>;
};
template <typename... T>
struct Signed<cute::tuple<T...>> {
  using type = cute::tuple<typename Signed<T>::type...>;
};
template <typename Shape, typename Stride>
struct Signed<cute::Layout<Shape, Stride>> {
  using type = cute::Layout<typename Signed<Shape>::type, typename Signed<Stride>::type>;
};
template <typename Policy, typename Tile, typename A, typename StrideA, typename B,
          typename StrideB, typename Mma, typename LoadA, typename LayoutsA, typename CopyA,
          typename ChangeA, typename LoadB, typename LayoutsB, typename CopyB, typename ChangeB>
struct Signed<cutlass::gemm::collective::CollectiveMma<Policy, Tile, A, StrideA, B, StrideB, Mma,
                                                       LoadA, LayoutsA, CopyA, ChangeA, LoadB,
                                                       LayoutsB, CopyB, ChangeB>> {
  using type = cutlass::gemm::collective::CollectiveMma<
      Policy, Tile, A, StrideA, B, StrideB, Mma, LoadA, typename Signed<LayoutsA>::type, CopyA,
      ChangeA, LoadB, typename Signed<LayoutsB>::type, CopyB, ChangeB>;
};

// act((sum * scale of the weights' row) * scale of the row). A pointer to a layout or a scale is
// how CUTLASS is told that there is one a group, `bool` that one may be for all.
template <typename Arch, typename Out>
struct Product {
  using Tile = typename Arch::Tile;
  template <template <class> class Function, typename To, typename... Operands>
  using Node = cutlass::epilogue::fusion::Sm90EVT<
      cutlass::epilogue::fusion::Sm90Compute<Function, To, float,
                                             cutlass::FloatRoundStyle::round_to_nearest>,
      Operands...>;
  using ColumnScale =
      cutlass::epilogue::fusion::Sm90RowBroadcast<0, Tile, float*, float,
                                                  cute::Stride<cute::_0, bool, cute::_0>, 1, false>;
  using RowScale =
      cutlass::epilogue::fusion::Sm90ColBroadcast<0, Tile, float*, float,
                                                  cute::Stride<bool, cute::_0, cute::_0>, 1, false>;
  using Result = Node<
      Activation, Out,
      Node<cutlass::multiplies, float, RowScale,
           Node<cutlass::multiplies, float, ColumnScale, cutlass::epilogue::fusion::Sm90AccFetch>>>;
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      typename Arch::Tag, cutlass::arch::OpClassBlockScaledTensorOp, Tile, Cluster,
      typename Arch::template EpilogueTile<Out>, float, float, void, Row*, int(16 / sizeof(Out)),
      Out, Row*, int(16 / sizeof(Out)), typename Arch::EpilogueSchedule, Result>::CollectiveOp;
  using Mainloop = typename Signed<typename cutlass::gemm::collective::CollectiveBuilder<
      typename Arch::Tag, cutlass::arch::OpClassBlockScaledTensorOp, Operand, Row*, 32, Operand,
      Column*, 32, float, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<int(
          sizeof(typename Epilogue::SharedStorage))>,
      typename Arch::Schedule>::CollectiveOp>::type;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<cutlass::gemm::GroupProblemShape<Problem>,
                                                      Mainloop, Epilogue>;
  static const CudaKernel<typename Kernel::Params> row;
};

constexpr int kTileRows = 128, kTileScales = 32, kThreads = 256;  // of `order`
constexpr int64_t kScaleTile = 128 * 4;
using RowStride = cute::Stride<int64_t, cute::_1, cute::_0>;      // of codes and results

// Tiles of the scales before those of group e, whose first row is `begin`, or after.
__host__ __device__ inline int64_t tiles_before(int64_t begin, int64_t e) {
  return begin / kTileRows + e;
}
__host__ __device__ inline int64_t tiles_of(int64_t rows, int64_t tile = kTileRows) {
  return (rows + tile - 1) / tile;
}

struct Groups : WorkspaceParts {
  Problem* extents;
  const uint8_t **a, **b, **a_scales, **b_scales;
  const float **row_scale, **column_scale;
  void** out;
  RowStride *a_stride, *b_stride, *out_stride;
  ScaleLayout *a_layout, *b_layout;
  int64_t* left;
  uint8_t *a_tiles, *b_tiles;  // of scales
  uint32_t* negative;          // of each block of `order`: it met one
  void* tensor_maps;

  Groups(const GroupProduct& g, int sms, int blocks, void* base) : WorkspaceParts{base} {
    const int64_t k_tiles = g.part[0].K / 64;
    extents = take<Problem>(g.E);
    a = take<const uint8_t*>(g.E), b = take<const uint8_t*>(g.E);
    a_scales = take<const uint8_t*>(g.E), b_scales = take<const uint8_t*>(g.E);
    row_scale = take<const float*>(g.E), column_scale = take<const float*>(g.E);
    out = take<void*>(g.E);
    a_stride = take<RowStride>(g.E), b_stride = take<RowStride>(g.E);
    out_stride = take<RowStride>(g.E);
    a_layout = take<ScaleLayout>(g.E), b_layout = take<ScaleLayout>(g.E);
    left = take<int64_t>(g.E);
    a_tiles = take<uint8_t>(tiles_before(g.M, g.E) * k_tiles * kScaleTile);
    b_tiles = take<uint8_t>(g.E * tiles_of(g.N) * k_tiles * kScaleTile);
    negative = take<uint32_t>(blocks);
    constexpr int kMaps = 6;  // of a, b and their scales, and of out for each warpgroup
    tensor_maps = take<char>(int64_t(sms) * kMaps * sizeof(cute::TmaDescriptor));
  }
};

struct Preparation {
  GroupProduct g;
  Groups to;
  int blocks;  // of `order`
};

// 128 rows and 32 scales from `first` on, a word of 4 scales at a time so that each sector is read
// and written once; those that are not there are 0. Returns the bits of all.
__device__ inline uint32_t order_scales(const e4m3_t* scales, int64_t stride, int64_t rows,
                                        int64_t count, int64_t first, uint8_t* tile) {
  const int r = threadIdx.x / 8;
  const int64_t word = first / 4 + threadIdx.x % 8;
  if (word >= count / 4) return 0;
  uint32_t v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    v[i] = r + 32 * i >= rows
               ? 0
               : reinterpret_cast<const uint32_t*>(scales + (r + 32 * i) * stride)[word];
  *reinterpret_cast<uint4*>(tile + word * kScaleTile + r * 16) = {v[0], v[1], v[2], v[3]};
  return v[0] | v[1] | v[2] | v[3];
}

__global__ void __launch_bounds__(kThreads) order(const __grid_constant__ Preparation task) {
  const GroupProduct& g = task.g;
  const ProductPart& p = g.part[0];
  const int64_t count = p.K / 16, tile_bytes = count / 4 * kScaleTile;
  uint32_t bits = 0;

  GroupProduct walked = g;
  walked.N = count, walked.zero_rest = false;
  TileWalk<kTileRows, kTileScales> walk(walked);
  for (Tile tile; walk.next(tile);) {
    const int64_t begin = group_end(g, tile.group - 1);
    bits |= order_scales(
        p.a_block_scales + tile.m0 * p.a_block_stride, p.a_block_stride, tile.m1 - tile.m0, count,
        tile.n0,
        task.to.a_tiles +
            (tiles_before(begin, tile.group) + (tile.m0 - begin) / kTileRows) * tile_bytes);
  }
  const int64_t columns = tiles_of(count, kTileScales);
  const int64_t n_tiles = tiles_of(g.N);
  for (int64_t i = blockIdx.x; i < g.E * n_tiles * columns; i += gridDim.x) {
    const int64_t e = i / (n_tiles * columns), n = i / columns % n_tiles * kTileRows;
    int64_t begin, end;
    group_rows(g, e, begin, end);
    if (begin < end)
      bits |= order_scales(p.b.block_scales + e * p.b.block_stride_e + n * p.b.block_stride_n,
                           p.b.block_stride_n, g.N - n, count, i % columns * kTileScales,
                           task.to.b_tiles + i / columns * tile_bytes);
  }
  const int is_negative = __syncthreads_or(bits & 0x80808080);
  if (threadIdx.x == 0) task.to.negative[blockIdx.x] = is_negative;

  if (!g.zero_rest) return;
  const int64_t halves = g.N * (g.out_dtype == DType::f32 ? 2 : 1);
  for (int64_t m = group_end(g, g.E - 1) + blockIdx.x; m < g.M; m += gridDim.x) {
    uint16_t* row =
        static_cast<uint16_t*>(g.out) + m * g.out_stride * (g.out_dtype == DType::f32 ? 2 : 1);
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < halves; i += kThreads) row[i] = 0;
  }
}

__global__ void __launch_bounds__(kThreads) describe(const __grid_constant__ Preparation task) {
  const GroupProduct& g = task.g;
  const Groups& to = task.to;
  const ProductPart& p = g.part[0];
  const int64_t tile_bytes = p.K / 64 * kScaleTile;
  const int64_t out_bytes = g.out_dtype == DType::f32 ? 4 : 2;
  uint32_t any = 0;
  for (int i = threadIdx.x; i < task.blocks; i += kThreads) any |= to.negative[i];
  const bool is_negative = __syncthreads_or(any);
  const int64_t e = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (e >= g.E) return;
  int64_t begin, end;
  group_rows(g, e, begin, end);
  to.left[e] = is_negative ? end : 0;
  const int rows = is_negative ? 0 : int(end - begin), columns = int(g.N), k = int(p.K);
  to.extents[e] = {rows, columns, k};
  to.a[e] = static_cast<const uint8_t*>(p.a) + begin * p.a_stride;
  to.b[e] = static_cast<const uint8_t*>(p.b.data) + e * p.b.stride_e;
  to.a_scales[e] = to.a_tiles + tiles_before(begin, e) * tile_bytes;
  to.b_scales[e] = to.b_tiles + e * tiles_of(g.N) * tile_bytes;
  to.row_scale[e] = g.row_scale + begin * g.row_scale_stride;
  to.column_scale[e] = p.b.scale + e * p.b.scale_stride_e;
  to.out[e] = static_cast<char*>(g.out) + begin * g.out_stride * out_bytes;
  cute::get<0>(to.a_stride[e]) = p.a_stride * 2;
  cute::get<0>(to.b_stride[e]) = p.b.stride_n * 2;
  cute::get<0>(to.out_stride[e]) = g.out_stride;
  to.a_layout[e] = ScaleConfig::tile_atom_to_shape_SFA(cute::make_shape(rows, columns, k, 1));
  to.b_layout[e] = ScaleConfig::tile_atom_to_shape_SFB(cute::make_shape(rows, columns, k, 1));
}

template <typename Arch>
struct BlockScaled {
  using ToBf16 = Product<Arch, cutlass::bfloat16_t>;
  using ToF32 = Product<Arch, float>;
  static const CudaKernel<Preparation> kOrder, kDescribe;

  // `blocks` of `order`: one a tile of scales, or enough to fill the device.
  static cudaError_t resources(const GroupProduct& g, int* sms, int* blocks) {
    cudaError_t status = multiprocessors(sms);
    if (status == cudaSuccess) status = kOrder.resident_blocks(kThreads, 0, blocks);
    if (status != cudaSuccess) return status;
    const int64_t tiles =
        (tiles_before(g.M, g.E) + g.E * tiles_of(g.N)) * tiles_of(g.part[0].K / 16, kTileScales);
    *blocks = int(std::min<int64_t>(*blocks, tiles));
    return cudaSuccess;
  }

  static int64_t workspace(const GroupProduct& g) {
    int sms, blocks;
    return resources(g, &sms, &blocks) == cudaSuccess ? Groups(g, sms, blocks, nullptr).bytes : 0;
  }

  static cudaError_t launch(const GroupProduct& g, const int64_t*& left, cudaStream_t stream) {
    int sms, blocks;
    cudaError_t status = resources(g, &sms, &blocks);
    if (status != cudaSuccess) return status;
    const Preparation task{g, Groups(g, sms, blocks, g.workspace), blocks};
    left = task.to.left;
    status = kOrder.launch(int64_t(blocks), kThreads, stream, task);
    if (status == cudaSuccess)
      status = kDescribe.launch(tiles_of(g.E, kThreads), kThreads, stream, task);
    if (status != cudaSuccess) return status;
    return g.out_dtype == DType::f32
               ? launch_product<ToF32, float>(g, task.to, sms, stream)
               : launch_product<ToBf16, cutlass::bfloat16_t>(g, task.to, sms, stream);
  }

  template <typename Product, typename Out>
  static cudaError_t launch_product(const GroupProduct& g, const Groups& to, int sms,
                                    cudaStream_t stream) {
    using Kernel = typename Product::Kernel;
    static_assert(cute::is_same_v<typename Kernel::InternalStrideA, RowStride> &&
                  cute::is_same_v<typename Kernel::InternalStrideB, RowStride> &&
                  cute::is_same_v<typename Kernel::InternalStrideD, RowStride>);
    const auto codes = [](const uint8_t** p) { return reinterpret_cast<const Code**>(p); };
    const auto scales = [](const uint8_t** p) { return reinterpret_cast<const Scale**>(p); };
    typename Kernel::Arguments arguments{
        cutlass::gemm::GemmUniversalMode::kGrouped,
        {int(g.E), to.extents, nullptr},
        {codes(to.a), to.a_stride, codes(to.b), to.b_stride, scales(to.a_scales), to.a_layout,
         scales(to.b_scales), to.b_layout},
        {{}, nullptr, nullptr, reinterpret_cast<Out**>(to.out), to.out_stride}};
    auto& result = arguments.epilogue.thread;
    result.op_1.relu2 = g.relu2;
    result.op_0.op_0 = {to.row_scale, 0.f, {g.row_scale_stride != 0, {}, {}}};
    result.op_0.op_1.op_0 = {to.column_scale, 0.f, {{}, g.part[0].b.scale_stride_n != 0, {}}};
    const int64_t tiles = (g.M / cute::size<0>(typename Arch::Tile{}) + g.E) *
                          tiles_of(g.N, cute::size<1>(typename Arch::Tile{}));  // at most
    arguments.hw_info.sm_count = int(std::min<int64_t>(tiles, sms));
    const auto params = Kernel::to_underlying_arguments(arguments, to.tensor_maps);
    return Product::row.launch(Kernel::get_grid_shape(params), Kernel::MaxThreadsPerBlock, stream,
                               params, Kernel::SharedStorageSize);
  }
};

// The table rows and the functions of an architecture.
#define WW_BLOCK_SCALED(Arch, arch, tile, when)                                                  \
  template <>                                                                                    \
  const CudaKernel<Preparation> BlockScaled<Arch>::kOrder{"grouped_gemm", arch ", order scales", \
                                                          "nvfp4", order};                       \
  template <>                                                                                    \
  const CudaKernel<Preparation> BlockScaled<Arch>::kDescribe{                                    \
      "grouped_gemm", arch ", describe groups", "nvfp4", describe};                              \
  template <>                                                                                    \
  const CudaKernel<BlockScaled<Arch>::ToBf16::Kernel::Params> BlockScaled<Arch>::ToBf16::row{    \
      "grouped_gemm", arch ", nvfp4 x nvfp4, " tile, "nvfp4",                                    \
      cutlass::device_kernel<BlockScaled<Arch>::ToBf16::Kernel>, when};                          \
  template <>                                                                                    \
  const CudaKernel<BlockScaled<Arch>::ToF32::Kernel::Params> BlockScaled<Arch>::ToF32::row {     \
    "grouped_gemm", arch ", nvfp4 x nvfp4, " tile ", to float32", "nvfp4",                       \
        cutlass::device_kernel<BlockScaled<Arch>::ToF32::Kernel>, when                           \
  }

}  // namespace
}  // namespace ww
