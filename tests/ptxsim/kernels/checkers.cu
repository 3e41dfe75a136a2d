// SPDX-License-Identifier: Apache-2.0
// Pairs of kernels, right and with one fault, for the checkers: those that sm_80 can have.
// run(name, grid, block, in, out) launches one on floats.
#include <cuda_pipeline.h>
#include <cuda_runtime.h>

#include "entries.h"
#include "ptx.cuh"

namespace {

// --- Shared memory, within a block and a warp ---

template <bool kSync>
__global__ void barrier(const float* in, float* out) {
  __shared__ float s[256];
  s[threadIdx.x] = in[threadIdx.x];
  if (kSync) __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
}

template <bool kSync>
__global__ void warp_barrier(const float* in, float* out) {
  __shared__ float s[256];
  s[threadIdx.x] = in[threadIdx.x];
  if (kSync) __syncwarp();
  out[threadIdx.x] = s[threadIdx.x ^ 1];
}

template <bool kSync>
__global__ void warp_barrier_global(const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x];
  if (kSync) __syncwarp();
  const float other = out[threadIdx.x ^ 1];
  __syncwarp();
  out[threadIdx.x] = other;
}

template <bool kAlike>
__global__ void lanes_write_one_place(const float* in, float* out) {
  out[threadIdx.x / 2] = in[kAlike ? threadIdx.x / 2 : threadIdx.x];
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

template <bool kWait>
__global__ void exit_with_copy(const float* in, float* out) {
  __shared__ float s[256];
  __pipeline_memcpy_async(&s[threadIdx.x], &in[threadIdx.x], 4);
  __pipeline_commit();
  if (kWait) __pipeline_wait_prior(0);
  out[threadIdx.x] = in[threadIdx.x];
}

template <bool kUse>
__global__ void unwritten(const float* in, float* out) {
  __shared__ float s[256];
  if (threadIdx.x < 255) s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  const float v = s[threadIdx.x];
  if (kUse || threadIdx.x < 255) out[threadIdx.x] = v;
}

// --- Global memory, between blocks ---

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

template <bool kOwn>
__global__ void blocks_write(const float* in, float* out) {
  out[kOwn ? blockIdx.x : 1] = in[blockIdx.x];
}

// The sum of integers is one, that of floats depends on their order.
template <typename T>
__global__ void sum_in_any_order(const float* in, float* out) {
  if (threadIdx.x % 32 == 0)
    atomicAdd(reinterpret_cast<T*>(out), T(threadIdx.x ? in[threadIdx.x] / 64 : 1e8f));
}

// --- Bounds ---

template <int kShift>
__global__ void past_the_end(const float* in, float* out) {
  out[threadIdx.x + kShift] = in[threadIdx.x];
}
template <int kShift>
__global__ void past_shared(const float* in, float* out) {
  __shared__ float s[256];
  s[threadIdx.x + kShift] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x + kShift];
}
template <int kShift>
__global__ void past_dynamic_shared(const float* in, float* out) {  // launched with 1024 bytes
  extern __shared__ float s[];
  s[threadIdx.x + kShift] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x + kShift];
}
template <int kShift>
__global__ void past_local(const float* in, float* out) {
  float s[16];
  for (int i = 0; i < 16; ++i) s[i] = in[i];
  s[int(in[threadIdx.x]) % 16 + kShift] = 1;  // an index that the compiler does not know
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += s[(i * int(in[1 + threadIdx.x % 8])) % 16];
  out[threadIdx.x] = sum;
}
template <bool kConst>
__global__ void writes_its_input(const float* in, float* out) {
  if (!kConst) const_cast<float*>(in)[threadIdx.x] = 1;
  out[threadIdx.x] = in[threadIdx.x];
}
template <int kShift>
__global__ void misaligned(const float* in, float* out) {
  *reinterpret_cast<float2*>(out + kShift + 2 * threadIdx.x) = make_float2(in[0], in[1]);
}

// --- Barriers ---

template <int kFirst, int kSecond>  // in[i] is i: ptxas refuses counts that it knows to be wrong
__global__ void named_barrier(const float* in, float* out) {  // two warps
  if (threadIdx.x < 32)
    asm volatile("bar.sync 1, %0;" ::"r"(int(in[kFirst])) : "memory");
  else if (kSecond)
    asm volatile("bar.sync 1, %0;" ::"r"(int(in[kSecond])) : "memory");
  out[threadIdx.x] = in[threadIdx.x];
}
template <bool kMeet>
__global__ void divergent_barrier(const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x];
  if (kMeet) {
    if (threadIdx.x % 32 < 16) out[threadIdx.x] = 1;
    __syncwarp();
    asm volatile("bar.sync 0;" ::: "memory");
  } else if (threadIdx.x % 32 < 16) {
    asm volatile("bar.sync 0;" ::: "memory");
    out[threadIdx.x] = 1;
  } else {
    asm volatile("bar.sync 0;" ::: "memory");
    out[threadIdx.x] = 2;
  }
}

enum class Mbarrier { right, again, too_many, unsynchronised, no_init, after_inval };
template <Mbarrier kFault>
__global__ void mbarrier(const float* in, float* out) {
  __shared__ float s[256];
  __shared__ uint64_t bar;
  if (kFault != Mbarrier::no_init && threadIdx.x == 0) ptx::mbarrier_init(&bar, blockDim.x);
  if (kFault != Mbarrier::unsynchronised) __syncthreads();
  s[threadIdx.x] = in[threadIdx.x];
  ptx::mbarrier_arrive(&bar);
  if (kFault == Mbarrier::too_many && threadIdx.x == 0) ptx::mbarrier_arrive(&bar, 1000);
  while (!ptx::mbarrier_test(&bar, 0)) {
  }
  out[threadIdx.x] = s[255 - threadIdx.x];
  __syncthreads();
  if (kFault != Mbarrier::again && threadIdx.x == 0) ptx::mbarrier_inval(&bar);
  __syncthreads();
  if (kFault == Mbarrier::after_inval) ptx::mbarrier_test(&bar, 0);
  if (threadIdx.x == 0) ptx::mbarrier_init(&bar, 1);
}

// --- What never ends ---

template <bool kSet>
__global__ void waits_for_flag(const float* in, float* out) {
  volatile float* flag = out;
  if (blockIdx.x == 0)
    while (*flag == 0) {
    }
  else if (kSet && threadIdx.x == 0)
    *flag = in[1];
}
template <bool kRelease>
__global__ void takes_lock(const float* in, float* out) {
  auto* lock = reinterpret_cast<unsigned*>(out);
  if (threadIdx.x % 32) return;
  while (atomicCAS(lock, 0, 1)) {
  }
  __threadfence();
  volatile float* sum = out + 1;
  *sum = *sum + in[1];
  __threadfence();
  if (kRelease) atomicExch(lock, 0);
}
template <bool kEnds>
__global__ void loops(const float* in, float* out) {
  uint32_t x = uint32_t(in[3]);
  while (x != 1) x = kEnds ? x / 2 : x / 2 + 2;
  out[threadIdx.x] = float(x);
}
template <bool kTraps>
__global__ void traps(const float* in, float* out) {
  if (kTraps && in[threadIdx.x] > 100) __trap();
  out[threadIdx.x] = in[threadIdx.x];
}

const Entry kEntries[] = {{"barrier", barrier<true>},
                          {"barrier_missing", barrier<false>},
                          {"warp_barrier", warp_barrier<true>},
                          {"warp_barrier_missing", warp_barrier<false>},
                          {"warp_barrier_global", warp_barrier_global<true>},
                          {"warp_barrier_global_missing", warp_barrier_global<false>},
                          {"lanes_write_one_value", lanes_write_one_place<true>},
                          {"lanes_write_one_place", lanes_write_one_place<false>},
                          {"async_copy", async_copy<true, true>},
                          {"async_copy_wait_missing", async_copy<false, true>},
                          {"async_copy_barrier_missing", async_copy<true, false>},
                          {"exit_after_copy", exit_with_copy<true>},
                          {"exit_with_copy", exit_with_copy<false>},
                          {"unwritten", unwritten<true>},
                          {"unwritten_unused", unwritten<false>},
                          {"last_block", last_block<true>},
                          {"last_block_fence_missing", last_block<false>},
                          {"blocks_write_their_own", blocks_write<true>},
                          {"blocks_write_one_place", blocks_write<false>},
                          {"integer_sum", sum_in_any_order<int>},
                          {"float_sum", sum_in_any_order<float>},
                          {"up_to_the_end", past_the_end<0>},
                          {"past_the_end", past_the_end<1>},
                          {"up_to_the_end_of_shared", past_shared<0>},
                          {"past_shared", past_shared<1>},
                          {"up_to_the_end_of_dynamic_shared", past_dynamic_shared<0>, 1024},
                          {"past_dynamic_shared", past_dynamic_shared<1>, 1024},
                          {"up_to_the_end_of_local", past_local<0>},
                          {"past_local", past_local<16>},
                          {"reads_its_input", writes_its_input<true>},
                          {"writes_its_input", writes_its_input<false>},
                          {"aligned", misaligned<0>},
                          {"misaligned", misaligned<1>},
                          {"named_barrier", named_barrier<64, 64>},
                          {"waits_for_nobody", named_barrier<64, 0>},
                          {"barrier_of_48", named_barrier<48, 48>},
                          {"named_barrier_of_three", named_barrier<96, 96>},
                          {"barrier_of_two_counts", named_barrier<64, 96>},
                          {"barrier_after_divergence", divergent_barrier<true>},
                          {"divergent_barrier", divergent_barrier<false>},
                          {"mbarrier", mbarrier<Mbarrier::right>},
                          {"mbarrier_made_again", mbarrier<Mbarrier::again>},
                          {"mbarrier_arrivals", mbarrier<Mbarrier::too_many>},
                          {"mbarrier_unsynchronised", mbarrier<Mbarrier::unsynchronised>},
                          {"mbarrier_before_init", mbarrier<Mbarrier::no_init>},
                          {"mbarrier_after_inval", mbarrier<Mbarrier::after_inval>},
                          {"waits_for_flag", waits_for_flag<true>},
                          {"waits_for_flag_in_vain", waits_for_flag<false>},
                          {"takes_lock", takes_lock<true>},
                          {"keeps_lock", takes_lock<false>},
                          {"loop", loops<true>},
                          {"endless_loop", loops<false>},
                          {"no_trap", traps<false>},
                          {"traps", traps<true>}};

}  // namespace

EXPORT int run(const char* name, int grid, int block, const float* in, float* out) {
  return launch(kEntries, name, grid, block, in, out);
}

// Launches on memory that is freed already, or frees it twice.
EXPORT int run_freed(int twice, const float* in) {
  float* out;
  if (const cudaError_t error = cudaMalloc(&out, 1024)) return error;
  if (const cudaError_t error = cudaFree(out)) return error;
  return twice ? int(cudaFree(out)) : launch(kEntries, "up_to_the_end", 1, 32, in, out);
}
