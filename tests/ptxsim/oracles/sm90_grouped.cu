// SPDX-License-Identifier: Apache-2.0
// CUTLASS 3.x pointer-array grouped GEMM on sm_90a, bf16 x bf16 -> bf16: warp-specialised
// cooperative kernel in 2x1 clusters. Tile by tile, blocks of the persistent grid come to another
// group: a warp then writes the group's address, extents and strides into a copy of the tensor map
// in shared memory (tensormap.replace), copies it to the block's own place in global memory
// (tensormap.cp_fenceproxy) and others acquire it (fence.proxy.tensormap). Else as sm90_gemm.cu.
//
// Group i: d[i] = a[i] b[i], a (m, k) row-major, b (n, k) row-major, d (m, n) row-major; k and n
// are multiples of 8, m any, and m may be 0. sizes holds m, n, k of each group. sizes, a, b, d are
// host arrays; what a, b and d point to is device memory.
#include "cute/tensor.hpp"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/group_array_problem_shape.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/util/packed_stride.hpp"
#include "launch.h"

namespace {

using cute::Shape, cute::_1, cute::_2, cute::_64, cute::_128;
using Element = cutlass::bfloat16_t;
using Row = cutlass::layout::RowMajor;
using Column = cutlass::layout::ColumnMajor;
using Tile = Shape<_128, _128, _64>;
using Cluster = Shape<_2, _1, _1>;
using Problem = Shape<int, int, int>;

// A pointer to a layout is how the builders are told that there is one operand a group.
using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
    cutlass::epilogue::collective::EpilogueTileAuto, float, float, void, Row*, 8, Element, Row*, 8,
    cutlass::epilogue::PtrArrayTmaWarpSpecializedCooperative>::CollectiveOp;
using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, Row*, 8, Element, Column*, 8,
    float, Tile, Cluster,
    cutlass::gemm::collective::StageCountAutoCarveout<int(
        sizeof(typename Epilogue::SharedStorage))>,
    cutlass::gemm::KernelPtrArrayTmaWarpSpecializedCooperative>::CollectiveOp;
using Kernel = cutlass::gemm::kernel::GemmUniversal<cutlass::gemm::GroupProblemShape<Problem>,
                                                    Mainloop, Epilogue>;
using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
using StrideA = typename Kernel::InternalStrideA;
using StrideB = typename Kernel::InternalStrideB;
using StrideD = typename Kernel::InternalStrideD;

}  // namespace

// sms: blocks of the persistent grid are at most as many; 0 asks the device.
ORACLE_EXPORT int sm90_grouped_bf16(int groups, const int* sizes, const void* const* a,
                                    const void* const* b, void* const* d, int sms) {
  std::vector<Problem> problems;
  std::vector<StrideA> strides_a;
  std::vector<StrideB> strides_b;
  std::vector<StrideD> strides_d;
  for (int i = 0; i < groups; ++i) {
    const int m = sizes[3 * i], n = sizes[3 * i + 1], k = sizes[3 * i + 2];
    problems.push_back(cute::make_shape(m, n, k));
    strides_a.push_back(cutlass::make_cute_packed_stride(StrideA{}, cute::make_shape(m, k, 1)));
    strides_b.push_back(cutlass::make_cute_packed_stride(StrideB{}, cute::make_shape(n, k, 1)));
    strides_d.push_back(cutlass::make_cute_packed_stride(StrideD{}, cute::make_shape(m, n, 1)));
  }
  const oracle::DeviceBuffer device_problems(problems), device_strides_a(strides_a),
      device_strides_b(strides_b), device_strides_d(strides_d);
  const oracle::DeviceBuffer device_a(std::vector<const void*>(a, a + groups));
  const oracle::DeviceBuffer device_b(std::vector<const void*>(b, b + groups));
  const oracle::DeviceBuffer device_d(std::vector<void*>(d, d + groups));
  if (int code = oracle::code_of(cudaGetLastError())) return code;

  typename Gemm::Arguments arguments{
      cutlass::gemm::GemmUniversalMode::kGrouped,
      {groups, device_problems.as<Problem>(), problems.data()},
      {device_a.as<const Element*>(), device_strides_a.as<StrideA>(), device_b.as<const Element*>(),
       device_strides_b.as<StrideB>()},
      {{},
       nullptr,
       device_strides_d.as<StrideD>(),
       device_d.as<Element*>(),
       device_strides_d.as<StrideD>()}};
  arguments.epilogue.thread.alpha = 1.f;
  arguments.hw_info = cutlass::KernelHardwareInfo::make_kernel_hardware_info<Kernel>(0, sms);
  return oracle::run<Gemm>(arguments);
}
