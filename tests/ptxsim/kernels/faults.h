// SPDX-License-Identifier: Apache-2.0
// What a GEMM's mutants leave out or do wrong, and how one is launched by name.
#pragma once

#include <cuda_runtime.h>

#include <cstring>

#include "entries.h"

enum class Fault {
  right,
  syncthreads_dropped,
  copy_wait_dropped,
  wgmma_wait_dropped,
  full_barrier_skipped,
  empty_barrier_skipped,
  wrong_expect_tx,
  async_fence_missing,
  off_by_one,
  unwritten,
  atomic_missing,
  wrong_swizzle
};

template <typename Params>
struct Kernel {
  const char* fault;
  void (*kernel)(Params);
};
#define KERNEL(kernel, fault) {#fault, kernel<Fault::fault>}

template <typename Params, size_t kCount>
int launch(const Kernel<Params> (&kernels)[kCount], const char* fault, dim3 grid, int threads,
           size_t shared, const Params& params) {
  for (const auto& k : kernels) {
    if (strcmp(k.fault, fault)) continue;
    k.kernel<<<grid, threads, shared>>>(params);
    const cudaError_t launched = cudaGetLastError();
    return int(launched ? launched : cudaDeviceSynchronize());
  }
  return -1;
}
