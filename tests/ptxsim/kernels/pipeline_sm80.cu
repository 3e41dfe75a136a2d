// SPDX-License-Identifier: Apache-2.0
// A GEMM as kernels for sm_80 are built, once right and once with each fault: cp.async into stages,
// ldmatrix, mma. Same operands as pipeline_sm90.cu.
#include <cuda_pipeline.h>

#include "faults.h"
#include "ptx.cuh"

namespace {

constexpr int kM = 64, kN = 32, kK = 32, kStages = 3, kThreads = 128;
constexpr int kChunks = kK / 8;  // of 16 bytes, in a row

struct Shared {
  alignas(128) __nv_bfloat16 a[kStages][kM * kK];
  alignas(128) __nv_bfloat16 b[kStages][kN * kK];
  float bias[kN];
};

struct Params {
  const __nv_bfloat16 *a, *b;
  const float* bias;
  float* d;
  int* total;
  int n, k;
};

// Chunks change places so that the 8 rows of a matrix lie in different banks.
__device__ int chunk_at(int row, int chunk) { return (row * kChunks + (chunk ^ row / 2 % 4)) * 8; }

template <int kRows>
__device__ void copy(__nv_bfloat16* tile, const __nv_bfloat16* from, int k, int thread) {
  for (int i = thread; i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    __pipeline_memcpy_async(tile + chunk_at(row, chunk), from + row * k + chunk * 8, 16);
  }
}

template <int kCount, bool kWrongSwizzle>
__device__ void load_matrices(uint32_t (&out)[kCount], const __nv_bfloat16* tile, int row,
                              int chunk) {
  const uint32_t at = ptx::address(
      tile + (kWrongSwizzle ? (row * kChunks + (chunk ^ row % 4)) * 8 : chunk_at(row, chunk)));
  if constexpr (kCount == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(out[0]), "=r"(out[1])
                 : "r"(at)
                 : "memory");
}

__device__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <Fault kFault>
__global__ void __launch_bounds__(kThreads) gemm(const Params p) {
  __shared__ Shared s;
  const int row = blockIdx.x * kM, column = blockIdx.y * kN, thread = threadIdx.x;
  const int warp = thread / 32, lane = thread % 32;
  const int tiles = p.k / kK + (kFault == Fault::off_by_one);
  if (thread < (kFault == Fault::unwritten ? kN - 1 : kN)) s.bias[thread] = p.bias[column + thread];

  auto load = [&](int t) {
    if (t < tiles) {
      copy<kM>(s.a[t % kStages], p.a + row * p.k + t * kK, p.k, thread);
      copy<kN>(s.b[t % kStages], p.b + column * p.k + t * kK, p.k, thread);
    }
    __pipeline_commit();
  };
  for (int t = 0; t < kStages - 1; ++t) load(t);

  float d[kN / 8][4] = {};
  for (int t = 0; t < tiles; ++t) {
    if (kFault != Fault::copy_wait_dropped) __pipeline_wait_prior(kStages - 2);
    if (kFault != Fault::syncthreads_dropped) __syncthreads();
    constexpr bool kWrong = kFault == Fault::wrong_swizzle;
    for (int k = 0; k < kK / 16; ++k) {
      uint32_t a[4], b[2];
      load_matrices<4, kWrong>(a, s.a[t % kStages], warp * 16 + lane % 16, k * 2 + lane / 16);
      for (int j = 0; j < kN / 8; ++j) {
        load_matrices<2, kWrong>(b, s.b[t % kStages], j * 8 + lane % 8, k * 2 + lane / 8 % 2);
        multiply(d[j], a, b);
      }
    }
    load(t + kStages - 1);
  }
  __pipeline_wait_prior(0);

  int sum = 0;
  for (int j = 0; j < kN / 8; ++j)
    for (int r = 0; r < 4; ++r) {
      const int m = warp * 16 + lane / 4 + r / 2 * 8, n = j * 8 + lane % 4 * 2 + r % 2;
      const float value = d[j][r] + s.bias[n];
      p.d[(row + m) * p.n + column + n] = value;
      sum += int(value);
    }
  sum = __reduce_add_sync(~0u, sum);
  if (lane == 0) {
    if (kFault == Fault::atomic_missing)
      *p.total += sum;
    else
      atomicAdd(p.total, sum);
  }
}

constexpr Kernel<Params> kKernels[] = {
    KERNEL(gemm, right),        KERNEL(gemm, syncthreads_dropped), KERNEL(gemm, copy_wait_dropped),
    KERNEL(gemm, off_by_one),   KERNEL(gemm, unwritten),           KERNEL(gemm, atomic_missing),
    KERNEL(gemm, wrong_swizzle)};

}  // namespace

EXPORT int run(const char* fault, int m, int n, int k, const void* a, const void* b,
               const float* bias, float* d, int* total) {
  const Params p{static_cast<const __nv_bfloat16*>(a),
                 static_cast<const __nv_bfloat16*>(b),
                 bias,
                 d,
                 total,
                 n,
                 k};
  return launch(kKernels, fault, dim3(m / kM, n / kN), kThreads, 0, p);
}
