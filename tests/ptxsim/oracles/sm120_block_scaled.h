// SPDX-License-Identifier: Apache-2.0
// CUTLASS 3.x block-scaled GemmUniversal on sm_120a (GeForce Blackwell), d = a b: neighbours in k
// of a and of b share a scale factor. A producer warp loads with TMA, two groups of four warps
// multiply with mma.block_scale, and a scheduler warp takes over the tiles of blocks that have not
// started (clusterlaunchcontrol): the grid has a block a tile.
// In all kernels: TMA of operands and scale factors, ldmatrix, mbarrier, setmaxnreg, TMA store.
//
// The scale factor of row r and of the kVector values from kVector q on stands in block (r / 128) *
// ceil(k / (4 kVector)) + q / 4 of 512 bytes, at r % 32 * 16 + r / 32 % 4 * 4 + q % 4. Rows and
// columns are filled up to whole blocks with factors that are finite: those past k meet zeros.
#pragma once

#include "cute/tensor.hpp"
#include "cutlass/detail/sm100_blockscaled_layout.hpp"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/util/packed_stride.hpp"
#include "launch.h"

namespace oracle {

// In the shared-memory layouts of the scale factors stands Int<x>, x a dependent constant of type
// uint32_t. That is C<int(x)> to nvcc but C<x>, another type, to g++ 12, whose host code would then
// launch a kernel of another name, which was never compiled. All constants are made int here, which
// changes nothing where they are.
template <class T>
struct Signed {
  using type = T;
};
template <auto kValue>
struct Signed<cute::C<kValue>> {
  using type = cute::C<int(kValue)>;
};
template <class... T>
struct Signed<cute::tuple<T...>> {
  using type = cute::tuple<typename Signed<T>::type...>;
};
template <class Shape, class Stride>
struct Signed<cute::Layout<Shape, Stride>> {
  using type = cute::Layout<typename Signed<Shape>::type, typename Signed<Stride>::type>;
};
template <class Policy, class Tile, class A, class StrideA, class B, class StrideB, class Mma,
          class LoadA, class LayoutsA, class CopyA, class TransformA, class LoadB, class LayoutsB,
          class CopyB, class TransformB>
struct Signed<cutlass::gemm::collective::CollectiveMma<Policy, Tile, A, StrideA, B, StrideB, Mma,
                                                       LoadA, LayoutsA, CopyA, TransformA, LoadB,
                                                       LayoutsB, CopyB, TransformB>> {
  using type = cutlass::gemm::collective::CollectiveMma<
      Policy, Tile, A, StrideA, B, StrideB, Mma, LoadA, typename Signed<LayoutsA>::type, CopyA,
      TransformA, LoadB, typename Signed<LayoutsB>::type, CopyB, TransformB>;
};

// Operand: cutlass::nv_float4_t, mx_float8_t, ...; kAlign: elements that fill 16 bytes.
template <class Operand, int kAlign, class Out, class Schedule>
struct BlockScaled {
  static constexpr int kAlignOut = 16 / sizeof(Out);
  using Row = cutlass::layout::RowMajor;
  using Column = cutlass::layout::ColumnMajor;
  using Tile = cute::Shape<cute::_128, cute::_128, cute::_128>;
  using Cluster = cute::Shape<cute::_1, cute::_1, cute::_1>;
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm120, cutlass::arch::OpClassBlockScaledTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, void, Row, kAlignOut, Out, Row,
      kAlignOut, cutlass::epilogue::collective::EpilogueScheduleAuto>::CollectiveOp;
  using Mainloop = typename Signed<typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm120, cutlass::arch::OpClassBlockScaledTensorOp, Operand, Row, kAlign,
      Operand, Column, kAlign, float, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<int(
          sizeof(typename Epilogue::SharedStorage))>,
      Schedule>::CollectiveOp>::type;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop,
                                                      Epilogue, void>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
  using Scales = typename Mainloop::Sm1xxBlkScaledConfig;
  using Element = typename Operand::DataType;
  using Scale = typename Operand::ScaleFactorType;

  template <class Stride>
  static Stride packed(int rows, int columns) {
    return cutlass::make_cute_packed_stride(Stride{}, cute::make_shape(rows, columns, 1));
  }

  static int run(int m, int n, int k, const void* a, const void* b, const void* a_scales,
                 const void* b_scales, void* d) {
    const auto shape = cute::make_shape(m, n, k, 1);
    const float alpha = 1, beta = 0;
    return oracle::run<Gemm>(
        {cutlass::gemm::GemmUniversalMode::kGemm,
         shape,
         {static_cast<const Element*>(a), packed<typename Kernel::StrideA>(m, k),
          static_cast<const Element*>(b), packed<typename Kernel::StrideB>(n, k),
          static_cast<const Scale*>(a_scales), Scales::tile_atom_to_shape_SFA(shape),
          static_cast<const Scale*>(b_scales), Scales::tile_atom_to_shape_SFB(shape)},
         {{alpha, beta},
          nullptr,
          packed<typename Kernel::StrideC>(m, n),
          static_cast<Out*>(d),
          packed<typename Kernel::StrideD>(m, n)}});
  }
};

}  // namespace oracle
