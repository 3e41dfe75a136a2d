// SPDX-License-Identifier: Apache-2.0
// The kernels for sm_90a, compiled for nothing else: 4 GB and a minute of the compiler.
//
//   prepare  extents, addresses and strides of each group, where the product reads them; rows of no
//            group set to 0; and the gathered rows of a. TMA copies neighbouring rows only, so a
//            row that an index names is written in order and read again, 4K bytes more than sm_80's
//            gather tile by tile; that one reads each row from L2 once for 128 columns, this once
//            for 256, which is less from 512 columns on
//   product  CUTLASS's grouped product: tiles of 128 x 256, 64 elements of k a stage, copied by TMA
//            and multiplied by two warpgroups; a persistent grid whose blocks each rewrite their
//            tensor maps when they come to another group. Against sm_80's a sixth of the
//            instructions, half the traffic of shared memory and three quarters of that of L2
//
// The sum of two products, or of one and an addend, is that product with a third operand in its
// epilogue. Of two products, the first goes to fp32 in between, 8 bytes a result more than the
// operands need, and still there is one rounding. fp32 leaves memory for 3 stages of k, not 4.
//
// No clusters: they would pair tiles of rows, and a group of 128 rows has one.
#include <algorithm>

#include "core/cuda/launch.h"
#include "core/cuda/workspace.h"
#include "cute/tensor.hpp"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/group_array_problem_shape.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "grouped_gemm/cutlass_activation.cuh"
#include "grouped_gemm/group_product_sm90a.h"
#include "grouped_gemm/group_tiles.cuh"

namespace ww {
namespace {

constexpr int kTileRows = 128, kTileColumns = 256, kDepth = 64;
using Tile = cute::Shape<cute::Int<kTileRows>, cute::Int<kTileColumns>, cute::Int<kDepth>>;
using Cluster = cute::Shape<cute::_1, cute::_1, cute::_1>;
using Problem = cute::Shape<int, int, int>;
using Row = cutlass::layout::RowMajor;
using Column = cutlass::layout::ColumnMajor;
using Element = cutlass::bfloat16_t;

template <typename Addend>
struct SumOf {
  using Node = cutlass::epilogue::fusion::Sm90EVT<
      cutlass::epilogue::fusion::Sm90Compute<cutlass::plus, float, float,
                                             cutlass::FloatRoundStyle::round_to_nearest>,
      cutlass::epilogue::fusion::Sm90SrcFetch<Addend>, cutlass::epilogue::fusion::Sm90AccFetch>;
};
template <>
struct SumOf<void> {
  using Node = cutlass::epilogue::fusion::Sm90AccFetch;
};

// A pointer to a layout is how the builders are told that there is one operand a group.
template <typename Out, typename Addend>
struct Product {
  using AnyAddend = cute::conditional_t<cute::is_void_v<Addend>, Out, Addend>;
  using Result = cutlass::epilogue::fusion::Sm90EVT<
      cutlass::epilogue::fusion::Sm90Compute<Activation, Out, float,
                                             cutlass::FloatRoundStyle::round_to_nearest>,
      typename SumOf<Addend>::Node>;
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, Addend, Row*,
      int(16 / sizeof(AnyAddend)), Out, Row*, int(16 / sizeof(Out)),
      cutlass::epilogue::PtrArrayTmaWarpSpecializedCooperative, Result>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, Row*, 8, Element, Column*, 8,
      float, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<int(
          sizeof(typename Epilogue::SharedStorage))>,
      cutlass::gemm::KernelPtrArrayTmaWarpSpecializedCooperative>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<cutlass::gemm::GroupProblemShape<Problem>,
                                                      Mainloop, Epilogue>;
  static const CudaKernel<typename Kernel::Params> row;
};
using ToBf16 = Product<Element, void>;
using ToF32 = Product<float, void>;
using AddBf16 = Product<Element, Element>;
using AddF32 = Product<Element, float>;
using Stride = typename ToBf16::Kernel::InternalStrideA;  // of rows; all others are alike

struct Groups : WorkspaceParts {
  Problem* extents;
  const Element **a, **b;
  const void** addend;
  void** out;
  Stride *a_stride, *b_stride, *addend_stride, *out_stride;
  void* tensor_maps;

  Groups(int64_t groups, int sms, void* base) : WorkspaceParts{base} {
    extents = take<Problem>(groups);
    a = take<const Element*>(groups);
    b = take<const Element*>(groups);
    addend = take<const void*>(groups);
    out = take<void*>(groups);
    a_stride = take<Stride>(groups);
    b_stride = take<Stride>(groups);
    addend_stride = take<Stride>(groups);
    out_stride = take<Stride>(groups);
    constexpr int kMaps = 5;  // of a, of b, of the addend, and of out for each warpgroup
    tensor_maps = take<char>(int64_t(sms) * kMaps * sizeof(cute::TmaDescriptor));
  }
};

struct Preparation {
  GroupProduct g;
  int addend_bytes;  // of an element
  Groups groups;
};

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) prepare(const __grid_constant__ Preparation task) {
  const GroupProduct& g = task.g;
  const Groups& to = task.groups;
  const ProductPart& p = g.part[0];
  const int64_t out_bytes = g.out_dtype == DType::f32 ? 4 : 2;
  if (blockIdx.x == 0) {
    const void* a = p.rows ? g.gathered : p.a;
    const int64_t a_stride = p.rows ? p.K : p.a_stride;
    for (int64_t e = threadIdx.x; e < g.E; e += kThreads) {
      int64_t begin, end;
      group_rows(g, e, begin, end);
      to.extents[e] = {int(end - begin), int(g.N), int(p.K)};
      to.a[e] = static_cast<const Element*>(a) + begin * a_stride;
      to.b[e] = static_cast<const Element*>(p.b.data) + e * p.b.stride_e;
      to.addend[e] = static_cast<const char*>(g.addend) + begin * g.N * task.addend_bytes;
      to.out[e] = static_cast<char*>(g.out) + begin * g.out_stride * out_bytes;
      cute::get<0>(to.a_stride[e]) = a_stride;
      cute::get<0>(to.b_stride[e]) = p.b.stride_n;
      cute::get<0>(to.addend_stride[e]) = g.N;
      cute::get<0>(to.out_stride[e]) = g.out_stride;
    }
  }
  const int lane = threadIdx.x % 32;
  const int64_t warps = int64_t(gridDim.x) * (kThreads / 32);
  const int64_t warp = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / 32;
  const int64_t grouped = group_end(g, g.E - 1);
  if (p.rows) {
    constexpr int kCount = kVector<bf16_t>, kStep = 32 * kCount, kLoads = 4;  // under way
    for (int64_t m = warp; m < grouped; m += warps) {
      const bf16_t* from = static_cast<const bf16_t*>(p.a) + p.rows[m] * p.a_stride;
      bf16_t* row = static_cast<bf16_t*>(g.gathered) + m * p.K;
      for (int64_t k = lane * kCount; k < p.K; k += kLoads * kStep) {
        Packed<bf16_t, kCount> v[kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; ++i)
          if (k + i * kStep < p.K) v[i] = load_packed<bf16_t, kCount>(from + k + i * kStep);
#pragma unroll
        for (int i = 0; i < kLoads; ++i)
          if (k + i * kStep < p.K) store_packed<bf16_t, kCount>(row + k + i * kStep, v[i]);
      }
    }
  }
  if (g.zero_rest)
    for (int64_t m = grouped + warp; m < g.M; m += warps) {
      char* row = static_cast<char*>(g.out) + m * g.out_stride * out_bytes;
#pragma unroll 1
      for (int64_t i = lane; i < g.N * (out_bytes / 2); i += 32)
        reinterpret_cast<uint16_t*>(row)[i] = 0;
    }
}

const CudaKernel<Preparation> kPrepare{"grouped_gemm", "sm_90a, prepare", "bfloat16", prepare};
constexpr const char* kWhen =
    "on compute capability 9.0, for products of at least 64 rows a group on average, 128 columns"
    " and 64 of k, whose rows lie on 16 bytes, and sums of two of them or of one and an addend";
#define WW_PRODUCT(type, variant)                                                                  \
  template <>                                                                                      \
  const CudaKernel<type::Kernel::Params> type::row {                                               \
    "grouped_gemm", "sm_90a, 128 x 256" variant, "bfloat16", cutlass::device_kernel<type::Kernel>, \
        kWhen                                                                                      \
  }
WW_PRODUCT(ToBf16, "");
WW_PRODUCT(ToF32, ", to float32");
WW_PRODUCT(AddBf16, ", plus bfloat16");
WW_PRODUCT(AddF32, ", plus float32");

template <typename Out, typename Addend>
cudaError_t launch_product(const GroupProduct& g, const Groups& groups, int blocks,
                           cudaStream_t stream) {
  using Kernel = typename Product<Out, Addend>::Kernel;
  typename Kernel::Arguments arguments{cutlass::gemm::GemmUniversalMode::kGrouped,
                                       {int(g.E), groups.extents, nullptr},
                                       {groups.a, groups.a_stride, groups.b, groups.b_stride},
                                       {{},
                                        reinterpret_cast<const Addend**>(groups.addend),
                                        groups.addend_stride,
                                        reinterpret_cast<Out**>(groups.out),
                                        groups.out_stride}};
  arguments.epilogue.thread.op_1.relu2 = g.relu2;
  arguments.hw_info.sm_count = blocks;
  const auto params = Kernel::to_underlying_arguments(arguments, groups.tensor_maps);
  return Product<Out, Addend>::row.launch(Kernel::get_grid_shape(params),
                                          Kernel::MaxThreadsPerBlock, stream, params,
                                          Kernel::SharedStorageSize);
}

// One product, and g.addend if it is there, of the operands' dtype or fp32.
cudaError_t launch_one(const GroupProduct& g, cudaStream_t stream) {
  int sms, resident = 1;
  cudaError_t status = multiprocessors(&sms);
  if (status == cudaSuccess && (g.part[0].rows || g.zero_rest))
    status = kPrepare.resident_blocks(kThreads, 0, &resident);
  if (status != cudaSuccess) return status;
  const Groups groups(g.E, sms, g.workspace);
  const bool addend_is_f32 = g.addend_dtype == DType::f32;
  const int64_t warps = std::min<int64_t>(g.M, int64_t(resident) * (kThreads / 32));
  status = kPrepare.launch((warps * 32 + kThreads - 1) / kThreads, kThreads, stream,
                           {g, addend_is_f32 ? 4 : 2, groups});
  if (status != cudaSuccess) return status;
  const int64_t tiles =
      (g.M / kTileRows + g.E) * ((g.N + kTileColumns - 1) / kTileColumns);  // at most
  const int blocks = int(std::min<int64_t>(tiles, sms));
  const auto launch = !g.addend       ? (g.out_dtype == DType::f32 ? launch_product<float, void>
                                                                   : launch_product<Element, void>)
                      : addend_is_f32 ? launch_product<Element, float>
                                      : launch_product<Element, Element>;
  return launch(g, groups, blocks, stream);
}

}  // namespace

int64_t sm90a_group_product_workspace(int64_t groups) {
  int sms;
  return multiprocessors(&sms) == cudaSuccess ? Groups(groups, sms, nullptr).bytes : 0;
}

cudaError_t launch_sm90a_group_product(const GroupProduct& g, cudaStream_t stream) {
  if (g.parts == 1) return launch_one(g, stream);
  GroupProduct first = g, second = g;
  first.relu2 = first.zero_rest = false;
  first.out = g.partial, first.out_stride = g.N, first.out_dtype = DType::f32;
  second.part[0] = g.part[1], second.addend = g.partial, second.addend_dtype = DType::f32;
  const cudaError_t status = launch_one(first, stream);
  return status == cudaSuccess ? launch_one(second, stream) : status;
}

}  // namespace ww
