// SPDX-License-Identifier: Apache-2.0
// Launching from .cu files: every CUDA call that can fail is checked, and its status goes to the
// caller.
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

#define WW_EXPORT extern "C" __attribute__((visibility("default")))

namespace ww {

// One compiled kernel and its row in ww_kernels(). Rooms keep theirs in a static table, which is
// also what they launch from: what runs is listed, and the other way round.
struct CudaKernelRow {
  const char* op;
  const char* variant;
  const char* dtypes;
  const void* function;
  const CudaKernelRow* next;
  static const CudaKernelRow*& first();
};

template <typename Params>
struct CudaKernel {
  CudaKernelRow row;

  CudaKernel(const char* op, const char* variant, const char* dtypes, void (*function)(Params))
      : row{op, variant, dtypes, reinterpret_cast<const void*>(function), CudaKernelRow::first()} {
    CudaKernelRow::first() = &row;
  }

  // Reports this launch only, never a stale error of an earlier one, as cudaGetLastError would.
  cudaError_t launch(int64_t blocks, int threads, cudaStream_t stream, Params params) const {
    constexpr int64_t kMaxBlocks = (int64_t(1) << 31) - 1;
    if (blocks == 0) return cudaSuccess;
    if (blocks > kMaxBlocks) return cudaErrorInvalidConfiguration;
    void* args[] = {&params};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(unsigned(blocks));
    config.blockDim = dim3(unsigned(threads));
    config.stream = stream;
    return cudaLaunchKernelExC(&config, row.function, args);
  }
};

// What a launcher returns for params that its kernels cannot do: "<what> is not supported".
int unsupported(const char* what);

// Streaming multiprocessors of the current device: how much work fills it.
cudaError_t multiprocessors(int* count);

}  // namespace ww
