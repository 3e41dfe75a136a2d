// SPDX-License-Identifier: Apache-2.0
// Kernels whose counts can be worked out by hand.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "ptx.cuh"

namespace {

// --- Global memory ---

__global__ void strided_load(const float* x, float* y, int stride, int offset) {
  y[blockIdx.x * blockDim.x + threadIdx.x] = x[offset + threadIdx.x * stride];
}

__global__ void one_address_atomics(int* x, int addresses) {
  __shared__ int s[32];
  s[threadIdx.x] = 0;
  __syncwarp();
  atomicAdd(&x[threadIdx.x % addresses], 1);
  atomicAdd(&s[threadIdx.x % addresses], 1);
}

// --- Shared memory: an access of lanes that lie `stride` elements apart ---

template <typename T>
__global__ void strided_shared(int stride) {
  __shared__ T s[1056];
  volatile T* at = s + threadIdx.x * stride;
  at->x = 0;
}
struct Word { int x; };

__global__ void vector_shared(int stride) {
  __shared__ int4 s[64];
  const uint32_t at = ptx::address(s + threadIdx.x * stride);
  asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(at), "r"(0));
}

__global__ void matrices(int pitch) {
  __shared__ __align__(16) char s[32 * 144];
  const uint32_t at = ptx::address(s + threadIdx.x * pitch);
  int r[4] = {};
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]));
  __syncwarp();
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(at));
}

__global__ void copies(const int4* x) {
  __shared__ int4 s[64];
  const uint32_t at = ptx::address(s + threadIdx.x * 2);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\ncp.async.wait_all;" ::"r"(at),
               "l"(x + threadIdx.x));
}

// --- Instructions ---

__global__ void arithmetic(float* x, int off) {
  float v = x[0];
  asm volatile("fma.rn.f32 %0, %0, %0, %0;\nfma.rn.f32 %0, %0, %0, %0;" : "+f"(v));
  asm volatile("{.reg .pred p;\nsetp.eq.s32 p, %1, 0;\n@p fma.rn.f32 %0, %0, %0, %0;}"
               : "+f"(v)
               : "r"(off));
  __syncthreads();
  asm volatile("bar.sync 1, 64;");
}

__global__ void products() {
  float d[4] = {};
  for (int i = 0; i < 3; ++i)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, "
        "{%4, %4}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(0));
}

// --- Hopper ---

__device__ void wait(uint32_t barrier) {
  asm volatile(
      "{.reg .pred p;\nagain: mbarrier.try_wait.parity.shared.b64 p, [%0], 0;\n@!p bra again;}" ::
          "r"(barrier)
      : "memory");
}
__device__ uint32_t start(uint64_t* barrier, int bytes) {
  const uint32_t b = ptx::address(barrier);
  asm volatile(
      "mbarrier.init.shared.b64 [%0], 1;\nfence.proxy.async;\n"
      "mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(b),
      "r"(bytes)
      : "memory");
  return b;
}

__global__ void bulk(const char* x, char* y) {
  __shared__ __align__(128) char s[512];
  __shared__ uint64_t barrier;
  if (threadIdx.x) return;
  const uint32_t b = start(&barrier, 320), at = ptx::address(s + 64);
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 320, [%2];" ::
          "r"(at),
      "l"(x), "r"(b)
      : "memory");
  wait(b);
  asm volatile(
      "cp.async.bulk.global.shared::cta.bulk_group [%1], [%0], 320;\n"
      "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::"r"(at),
      "l"(y)
      : "memory");
}

// A box to shared memory and back.
__global__ void tensor_copy(const __grid_constant__ CUtensorMap map, int row) {
  __shared__ __align__(1024) char s[1024];
  __shared__ uint64_t barrier;
  if (threadIdx.x) return;
  const uint32_t b = start(&barrier, 1024), at = ptx::address(s);
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3}], [%4];" ::"r"(at),
      "l"(&map), "r"(0), "r"(row), "r"(b)
      : "memory");
  wait(b);
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%1, {%2, %3}], [%0];\n"
      "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::"r"(at),
      "l"(&map), "r"(0), "r"(row)
      : "memory");
}

// The first of two blocks loads a box for both.
__global__ void __cluster_dims__(2) multicast(const __grid_constant__ CUtensorMap map, int row) {
  __shared__ __align__(1024) char s[1024];
  __shared__ uint64_t barrier;
  uint32_t b = ptx::address(&barrier);
  if (threadIdx.x == 0) start(&barrier, 1024);
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
  if (threadIdx.x == 0 && blockIdx.x == 0)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(ptx::address(s)),
        "l"(&map), "r"(0), "r"(row), "r"(b), "h"(uint16_t(3))
        : "memory");
  wait(b);
}

// 64 x 8 x 16 with both operands in shared memory, without swizzle: core matrices of 128 bytes.
__global__ void __launch_bounds__(128) warpgroup_product() {
  __shared__ __align__(128) int a[512], b[64];
  for (int i = threadIdx.x; i < 512; i += 128) a[i] = 0;
  if (threadIdx.x < 64) b[threadIdx.x] = 0;
  asm volatile("fence.proxy.async;" ::: "memory");
  __syncthreads();
  float d[4] = {};
  asm volatile(
      "wgmma.fence.sync.aligned;\n"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 0, 1, 1, 0, "
      "0;\nwgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "l"(ptx::plain_operand(a)), "l"(ptx::plain_operand(b)));
}

__global__ void __cluster_dims__(2) clusters() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;");
}

// --- Registers: many values that live at once ---

__global__ void wide(float* x) {
  float v[96];
  for (int i = 0; i < 96; ++i) v[i] = x[i];
  __syncthreads();
  for (int i = 0; i < 96; ++i) x[i] = v[95 - i];
}

}  // namespace

#define RUN(name, parameters, ...)       \
  extern "C" int run_##name parameters { \
    __VA_ARGS__;                         \
    return cudaDeviceSynchronize();      \
  }
RUN(strided_load, (const float* x, float* y, int stride, int offset, int grid, int block),
    strided_load<<<grid, block>>>(x, y, stride, offset))
RUN(one_address_atomics, (int* x, int addresses), one_address_atomics<<<1, 32>>>(x, addresses))
RUN(strided_shared, (int stride), strided_shared<Word><<<1, 32>>>(stride))
RUN(vector_shared, (int stride), vector_shared<<<1, 32>>>(stride))
RUN(matrices, (int pitch), matrices<<<1, 32>>>(pitch))
RUN(copies, (const int4* x), copies<<<1, 32>>>(x))
RUN(arithmetic, (float* x, int off), arithmetic<<<3, 64>>>(x, off))
RUN(products, (), products<<<2, 64>>>())
RUN(bulk, (const char* x, char* y), bulk<<<1, 32>>>(x, y))
RUN(warpgroup_product, (), warpgroup_product<<<1, 128>>>())
RUN(clusters, (), clusters<<<4, 64>>>())
RUN(wide, (float* x), wide<<<1, 1>>>(x))

// A matrix of 20 rows of 64 bf16, in boxes of 8 rows.
static int run_with_map(void (*kernel)(CUtensorMap, int), int blocks, void* x, int row) {
  void* encode;
  cudaDriverEntryPointQueryResult found;
  cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault,
                                   &found);
  CUtensorMap map;
  const cuuint64_t size[] = {64, 20}, stride[] = {128};
  const cuuint32_t box[] = {64, 8}, step[] = {1, 1};
  reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(encode)(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, x, size, stride, box, step,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  kernel<<<blocks, 32>>>(map, row);
  return cudaDeviceSynchronize();
}
extern "C" int run_tensor_copy(void* x, int row) { return run_with_map(tensor_copy, 1, x, row); }
extern "C" int run_multicast(void* x, int row) { return run_with_map(multicast, 2, x, row); }
