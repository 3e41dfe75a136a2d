// SPDX-License-Identifier: Apache-2.0
// A GEMM as kernels for sm_90a are built, once right and once with each fault: a producer warp
// copies tiles by TMA into stages with full and empty mbarriers, a warpgroup multiplies them by
// wgmma, adds a bias, and leaves by way of shared memory and TMA. d = a b^T + bias, a (m, k), b
// (n, k), d (m, n), row-major; total += sum of d. m, n, k are multiples of the tile.
#include "faults.h"
#include "ptx.cuh"
#include "tensor_map.h"

namespace {

constexpr int kM = 64, kN = 32, kK = 64, kStages = 2;
constexpr int kConsumers = 128, kThreads = kConsumers + 32;
constexpr uint32_t kStageBytes = (kM + kN) * kK * sizeof(__nv_bfloat16);

struct Shared {
  alignas(1024) __nv_bfloat16 a[kStages][kM * kK];  // rows of 128 bytes, swizzled by TMA
  alignas(1024) __nv_bfloat16 b[kStages][kN * kK];
  alignas(128) float d[kM * kN];
  float bias[kN];
  uint64_t full[kStages], empty[kStages];
};

struct Params {
  CUtensorMap a, b, d;
  const float* bias;
  int* total;
  int tiles;  // along k
};

template <Fault kFault>
__device__ void produce(const Params& p, Shared& s, int row, int column) {
  for (int t = 0; t < p.tiles; ++t) {
    const int stage = t % kStages, round = t / kStages;
    if (round > 0 && kFault != Fault::empty_barrier_skipped)
      ptx::mbarrier_wait(&s.empty[stage], (round - 1) & 1);
    ptx::mbarrier_expect(&s.full[stage],
                         kFault == Fault::wrong_expect_tx ? kStageBytes / 2 : kStageBytes);
    ptx::load(s.a[stage], &p.a, t * kK, row, &s.full[stage]);
    ptx::load(s.b[stage], &p.b, t * kK, column, &s.full[stage]);
  }
}

template <Fault kFault>
__device__ void multiply(const Params& p, Shared& s, float (&d)[kN / 2]) {
  constexpr ptx::Swizzle kSwizzle =
      kFault == Fault::wrong_swizzle ? ptx::kSwizzle64 : ptx::kSwizzle128;
#pragma unroll 1
  for (int t = 0; t < p.tiles; ++t) {
    const int stage = t % kStages, round = t / kStages;
    if (kFault != Fault::full_barrier_skipped) ptx::mbarrier_wait(&s.full[stage], round & 1);
    ptx::pin(d);
    ptx::wgmma_fence();
    for (int k = 0; k < kK; k += 16)
      ptx::wgmma_n32(d, ptx::descriptor(s.a[stage] + k, kSwizzle, 16, 1024),
                     ptx::descriptor(s.b[stage] + k, kSwizzle, 16, 1024));
    ptx::wgmma_commit();
    if (kFault != Fault::wgmma_wait_dropped) ptx::wgmma_wait();
    ptx::pin(d);
    ptx::mbarrier_arrive(&s.empty[stage]);
  }
}

template <Fault kFault>
__global__ void __launch_bounds__(kThreads) gemm(const __grid_constant__ Params p) {
  extern __shared__ uint8_t raw[];
  Shared& s = *reinterpret_cast<Shared*>((reinterpret_cast<uintptr_t>(raw) + 1023) / 1024 * 1024);
  const int row = blockIdx.x * kM, column = blockIdx.y * kN, thread = threadIdx.x;
  if (thread == 0)
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(&s.full[stage], 1);
      ptx::mbarrier_init(&s.empty[stage], kConsumers);
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
  const int count = kFault == Fault::off_by_one ? kN + 1 : kFault == Fault::unwritten ? kN - 1 : kN;
  if (thread < count) s.bias[thread] = p.bias[column + thread];
  if (kFault != Fault::syncthreads_dropped) __syncthreads();

  if (thread >= kConsumers) {
    if (thread == kConsumers) produce<kFault>(p, s, row, column);
    return;
  }
  float d[kN / 2] = {};
  multiply<kFault>(p, s, d);

  // Register 4 j + 2 h + c of lane 4 g + q: row 16 warp + g + 8 h, column 8 j + 2 q + c.
  const int first = thread / 32 * 16 + thread % 32 / 4, lane_column = thread % 4 * 2;
  int sum = 0;
  for (int r = 0; r < kN / 2; ++r) {
    const int m = first + r / 2 % 2 * 8, n = r / 4 * 8 + lane_column + r % 2;
    s.d[m * kN + n] = d[r] + s.bias[n];
    sum += int(s.d[m * kN + n]);
  }
  if (kFault != Fault::async_fence_missing) ptx::fence_async();
  asm volatile("bar.sync 1, 128;" ::: "memory");
  if (thread == 0) {
    ptx::store(&p.d, column, row, s.d);
    ptx::bulk_commit();
    ptx::bulk_wait_read();
  }
  sum = __reduce_add_sync(~0u, sum);
  if (thread % 32 == 0) {
    if (kFault == Fault::atomic_missing)
      *p.total += sum;
    else
      atomicAdd(p.total, sum);
  }
}

constexpr Kernel<Params> kKernels[] = {KERNEL(gemm, right),
                                       KERNEL(gemm, syncthreads_dropped),
                                       KERNEL(gemm, wgmma_wait_dropped),
                                       KERNEL(gemm, full_barrier_skipped),
                                       KERNEL(gemm, empty_barrier_skipped),
                                       KERNEL(gemm, wrong_expect_tx),
                                       KERNEL(gemm, async_fence_missing),
                                       KERNEL(gemm, off_by_one),
                                       KERNEL(gemm, unwritten),
                                       KERNEL(gemm, atomic_missing),
                                       KERNEL(gemm, wrong_swizzle)};

}  // namespace

EXPORT int run(const char* fault, int m, int n, int k, const void* a, const void* b,
               const float* bias, float* d, int* total) {
  const auto bf16 = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const Params p{
      tensor_map(bf16, a, m, k, kM, kK, CU_TENSOR_MAP_SWIZZLE_128B),
      tensor_map(bf16, b, n, k, kN, kK, CU_TENSOR_MAP_SWIZZLE_128B),
      tensor_map(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, d, m, n, kM, kN, CU_TENSOR_MAP_SWIZZLE_NONE),
      bias,
      total,
      k / kK};
  return launch(kKernels, fault, dim3(m / kM, n / kN), kThreads, sizeof(Shared) + 1024, p);
}
