// SPDX-License-Identifier: Apache-2.0
// Pairs of kernels, right and with one fault, for the checkers. run(name, grid, block, in, out) launches
// one on floats.
#include <cuda_pipeline.h>
#include <cuda_runtime.h>

#include <cstring>

namespace {

__global__ void barrier(const float* in, float* out) {
  __shared__ float s[256];
  s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
}
__global__ void barrier_missing(const float* in, float* out) {
  __shared__ float s[256];
  s[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = s[255 - threadIdx.x];
}
__global__ void warp_barrier(const float* in, float* out) {
  __shared__ float s[256];
  s[threadIdx.x] = in[threadIdx.x];
  __syncwarp();
  out[threadIdx.x] = s[threadIdx.x ^ 1];
}
__global__ void warp_barrier_missing(const float* in, float* out) {
  __shared__ float s[256];
  s[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = s[threadIdx.x ^ 1];
}

template <bool kWait, bool kSync>
__global__ void async_copy(const float* in, float* out) {
  __shared__ float s[256];
  __pipeline_memcpy_async(&s[threadIdx.x], &in[threadIdx.x], 4);
  __pipeline_commit();
  if (kWait) __pipeline_wait_prior(0);
  if (kSync) __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
}

__global__ void unwritten(const float* in, float* out) {
  __shared__ float s[256];
  if (threadIdx.x < 255) s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
}
__global__ void unwritten_unused(const float* in, float* out) {
  __shared__ float s[256];
  if (threadIdx.x < 255) s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  const float v = s[threadIdx.x];
  if (threadIdx.x < 255) out[threadIdx.x] = v;
}

// The last block sums what all have written (the threadfence pattern).
template <bool kFence>
__global__ void last_block(const float* in, float* out) {
  __shared__ bool last;
  float* partial = out + 8;
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = in[blockIdx.x];
    if (kFence) __threadfence();
    last = atomicAdd(reinterpret_cast<unsigned*>(out), 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last || threadIdx.x) return;
  if (kFence) __threadfence();
  float sum = 0;
  for (int i = 0; i < int(gridDim.x); ++i) sum += partial[i];
  out[1] = sum;
}

__global__ void blocks_write_one_place(const float* in, float* out) { out[1] = in[blockIdx.x]; }
__global__ void past_the_end(const float* in, float* out) { out[threadIdx.x + 1] = in[threadIdx.x]; }
__global__ void writes_its_input(const float* in, float* out) {
  const_cast<float*>(in)[threadIdx.x] = out[threadIdx.x] = 1;
}
__global__ void misaligned(const float* in, float* out) {
  *reinterpret_cast<float2*>(out + 1 + 2 * threadIdx.x) = make_float2(in[0], in[1]);
}
__global__ void waits_for_nobody(const float* in, float* out) {
  if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;" ::: "memory");
  out[threadIdx.x] = in[threadIdx.x];
}
__global__ void traps(const float* in, float* out) {
  if (in[threadIdx.x] > 100) __trap();
  out[threadIdx.x] = 0;
}

struct Entry {
  const char* name;
  void (*kernel)(const float*, float*);
};
const Entry kEntries[] = {{"barrier", barrier},
                          {"barrier_missing", barrier_missing},
                          {"warp_barrier", warp_barrier},
                          {"warp_barrier_missing", warp_barrier_missing},
                          {"async_copy", async_copy<true, true>},
                          {"async_copy_wait_missing", async_copy<false, true>},
                          {"async_copy_barrier_missing", async_copy<true, false>},
                          {"unwritten", unwritten},
                          {"unwritten_unused", unwritten_unused},
                          {"last_block", last_block<true>},
                          {"last_block_fence_missing", last_block<false>},
                          {"blocks_write_one_place", blocks_write_one_place},
                          {"past_the_end", past_the_end},
                          {"writes_its_input", writes_its_input},
                          {"misaligned", misaligned},
                          {"waits_for_nobody", waits_for_nobody},
                          {"traps", traps}};

}  // namespace

extern "C" __attribute__((visibility("default"))) int run(const char* name, int grid, int block,
                                                          const float* in, float* out) {
  for (const Entry& e : kEntries) {
    if (strcmp(e.name, name)) continue;
    e.kernel<<<grid, block>>>(in, out);
    const cudaError_t launched = cudaGetLastError();
    return int(launched ? launched : cudaDeviceSynchronize());
  }
  return -1;
}
