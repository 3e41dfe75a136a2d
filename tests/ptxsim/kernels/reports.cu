// SPDX-License-Identifier: Apache-2.0
// Races of asynchronous work, to see whom the reports name, and more findings than are shown.
#include <cuda_runtime.h>

#include <cstdint>

#include "ptx.cuh"

namespace {

__global__ void copy(const int* in, int* out) {
  __shared__ int s[64];
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(ptx::address(s + threadIdx.x)),
               "l"(in + threadIdx.x)
               : "memory");
  __syncthreads();
  out[threadIdx.x] = s[63 - threadIdx.x];
}

__global__ void bulk_copy(const int* in, int* out) {
  __shared__ __align__(128) int s[64];
  __shared__ uint64_t barrier;
  const uint32_t b = ptx::address(&barrier);
  s[threadIdx.x] = 0;
  if (threadIdx.x == 32) {
    asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(b) : "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], 256;" ::"r"(b) : "memory");
  }
  asm volatile("fence.proxy.async;" ::: "memory");
  __syncthreads();
  if (threadIdx.x == 32)
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 256, "
        "[%2];" ::"r"(ptx::address(s)),
        "l"(in), "r"(b)
        : "memory");
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}

// Warpgroup 1 multiplies what its threads overwrite before they wait.
__global__ void __launch_bounds__(256) product(const int* in, int* out) {
  __shared__ __align__(128) int a[512], b[64];
  for (int i = threadIdx.x; i < 512; i += 256) a[i] = 0;
  if (threadIdx.x < 64) b[threadIdx.x] = 0;
  asm volatile("fence.proxy.async;" ::: "memory");
  __syncthreads();
  if (threadIdx.x < 128) return;
  float d[4] = {};
  asm volatile(
      "wgmma.fence.sync.aligned;\n"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 0, 1, 1, 0, "
      "0;\nwgmma.commit_group.sync.aligned;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "l"(ptx::plain_operand(a)), "l"(ptx::plain_operand(b)));
  if (threadIdx.x < 192) b[threadIdx.x - 128] = in[0];
  asm volatile("wgmma.wait_group.sync.aligned 0;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])::"memory");
  out[threadIdx.x] = int(d[0]);
}

// Three instructions, each of 4 blocks, write what the other blocks write.
template <int kFirst>
__global__ void overwritten(const int*, int* out) {
  for (int i = 0; i < 3; ++i) {
    asm volatile("st.global.u32 [%0], %1;" ::"l"(out + kFirst + i), "r"(blockIdx.x) : "memory");
    if (i == 3) break;
  }
}

}  // namespace

extern "C" int run(int which, const int* in, int* out) {
  switch (which) {
    case 0: copy<<<1, 64>>>(in, out); break;
    case 1: bulk_copy<<<1, 64>>>(in, out); break;
    case 2: product<<<1, 256>>>(in, out); break;
    default: overwritten<7><<<4, 1>>>(in, out);
  }
  return cudaDeviceSynchronize();
}
