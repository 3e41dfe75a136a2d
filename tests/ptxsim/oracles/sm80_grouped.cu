// SPDX-License-Identifier: Apache-2.0
// cutlass::gemm::device::GemmGrouped of CUTLASS 2.x, bf16 x bf16 -> f32 on sm_80 tensor cores:
// `blocks` persistent blocks find their tiles in a list of problems that lies in device memory,
// each warp with shuffles over 32 problems at a time.
//
// Group i: d[i] = a[i] b[i], a (m, k) row-major, b (n, k) row-major, d (m, n) row-major; k is a
// multiple of 8, n of 4, m any, and m may be 0. sizes holds m, n, k of each group. sizes, a, b, d
// are host arrays; what a, b and d point to is device memory.
#include "cutlass/epilogue/thread/linear_combination.h"
#include "cutlass/gemm/device/gemm_grouped.h"
#include "cutlass/gemm/kernel/default_gemm_grouped.h"
#include "launch.h"

namespace {

using In = cutlass::bfloat16_t;
using cutlass::gemm::GemmShape;

using Kernel = cutlass::gemm::kernel::DefaultGemmGrouped<
    In, cutlass::layout::RowMajor, cutlass::ComplexTransform::kNone, 8, In,
    cutlass::layout::ColumnMajor, cutlass::ComplexTransform::kNone, 8, float,
    cutlass::layout::RowMajor, float, cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80,
    GemmShape<128, 128, 32>, GemmShape<64, 64, 32>, GemmShape<16, 8, 16>,
    cutlass::epilogue::thread::LinearCombination<float, 4, float, float>,
    cutlass::gemm::threadblock::GemmBatchedIdentityThreadblockSwizzle, 3,
    cutlass::gemm::kernel::GroupScheduleMode::kDeviceOnly>::GemmKernel;
using Gemm = cutlass::gemm::device::GemmGrouped<Kernel>;

}  // namespace

// blocks 0: as many as are resident at once.
ORACLE_EXPORT int sm80_grouped_bf16(int groups, const int* sizes, const void* const* a,
                                    const void* const* b, void* const* d, int blocks) {
  std::vector<cutlass::gemm::GemmCoord> problems;
  std::vector<int64_t> ka, kb, nd;  // leading dimensions
  for (int i = 0; i < groups; ++i) {
    problems.emplace_back(sizes[3 * i], sizes[3 * i + 1], sizes[3 * i + 2]);
    ka.push_back(sizes[3 * i + 2]);
    kb.push_back(sizes[3 * i + 2]);
    nd.push_back(sizes[3 * i + 1]);
  }
  const oracle::DeviceBuffer device_problems(problems), device_ka(ka), device_kb(kb), device_nd(nd);
  const oracle::DeviceBuffer device_a(std::vector<const void*>(a, a + groups));
  const oracle::DeviceBuffer device_b(std::vector<const void*>(b, b + groups));
  const oracle::DeviceBuffer device_d(std::vector<void*>(d, d + groups));
  if (int code = oracle::code_of(cudaGetLastError())) return code;

  if (!blocks) blocks = Gemm::sufficient(problems.data(), groups);
  return oracle::run<Gemm>({device_problems.as<cutlass::gemm::GemmCoord>(),
                            groups,
                            blocks,
                            {1.f, 0.f},
                            device_a.as<In*>(),
                            device_b.as<In*>(),
                            device_d.as<float*>(),
                            device_d.as<float*>(),
                            device_ka.as<int64_t>(),
                            device_kb.as<int64_t>(),
                            device_nd.as<int64_t>(),
                            device_nd.as<int64_t>(),
                            problems.data()});
}
