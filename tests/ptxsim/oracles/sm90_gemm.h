// SPDX-License-Identifier: Apache-2.0
// CUTLASS 3.x GemmUniversal on sm_90a: persistent warp-specialised kernels, a producer warp that
// loads with TMA and two consumer warpgroups that multiply with wgmma. d = a b + c, or a b where c
// is null. b is stored (n, k), d and c are row-major (m, n).
// In all kernels: mbarrier with expect_tx, setmaxnreg, elect, prefetch.tensormap, TMA store, and
// griddepcontrol in a launch that allows it.
#pragma once

#define CUTLASS_ENABLE_GDC_FOR_SM90 1  // griddepcontrol
#include "cute/tensor.hpp"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/util/packed_stride.hpp"
#include "launch.h"

namespace oracle {

// LayoutA: of a, RowMajor is (m, k). Blocks of a cluster share tiles of a (second extent) and b
// (first).
template <class A, class LayoutA, class B, class Out, class Tile, class Cluster, class Schedule,
          class EpilogueSchedule>
struct Sm90 {
  static constexpr int kAlignA = 16 / sizeof(A), kAlignB = 16 / sizeof(B),
                       kAlignOut = 16 / sizeof(Out);
  using Row = cutlass::layout::RowMajor;
  using Column = cutlass::layout::ColumnMajor;
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, Out, Row, kAlignOut, Out, Row,
      kAlignOut, EpilogueSchedule>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, A, LayoutA, kAlignA, B, Column, kAlignB,
      float, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<int(
          sizeof(typename Epilogue::SharedStorage))>,
      Schedule>::CollectiveOp;
  using Kernel =
      cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

  template <class Stride>
  static Stride packed(int rows, int columns) {
    return cutlass::make_cute_packed_stride(Stride{}, cute::make_shape(rows, columns, 1));
  }

  // sms: blocks of the persistent grid are at most as many; 0 asks the device.
  static int run(int m, int n, int k, const void* a, const void* b, const void* c, void* d,
                 int sms) {
    typename Gemm::Arguments arguments{
        cutlass::gemm::GemmUniversalMode::kGemm,
        {m, n, k, 1},
        {static_cast<const A*>(a), packed<typename Kernel::StrideA>(m, k), static_cast<const B*>(b),
         packed<typename Kernel::StrideB>(n, k)},
        {{1.f, c ? 1.f : 0.f},
         static_cast<const Out*>(c ? c : d),  // a tensor map is made of it in any case
         packed<typename Kernel::StrideC>(m, n),
         static_cast<Out*>(d),
         packed<typename Kernel::StrideD>(m, n)}};
    arguments.hw_info.sm_count = sms;
    constexpr bool kProgrammatic = true;  // the launch is a programmatic dependent one
    return oracle::run<Gemm>(arguments, nullptr, nullptr, kProgrammatic);
  }
};

}  // namespace oracle
