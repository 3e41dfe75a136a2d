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
  const char* when;
  const CudaKernelRow* next;
  static const CudaKernelRow*& first();
};

// For ww_launches(). `because` holds for launches while it lives: why these kernels, not others.
void note_launch(const CudaKernelRow& row);
class Because {
 public:
  explicit Because(const char* why);
  ~Because();
};

// Streaming multiprocessors of the current device: how much work fills it.
cudaError_t multiprocessors(int* count);
// Its compute capability, 90 for 9.0.
cudaError_t compute_capability(int* capability);

template <typename Params>
struct CudaKernel {
  CudaKernelRow row;

  // `when`: the rule that chooses it, for people, where variant and dtypes do not say.
  CudaKernel(const char* op, const char* variant, const char* dtypes, void (*function)(Params),
             const char* when = "")
      : row{op,     variant,
            dtypes, reinterpret_cast<const void*>(function),
            when,   CudaKernelRow::first()} {
    CudaKernelRow::first() = &row;
  }

  // `shared` is dynamic shared memory. Reports this launch only, never a stale error of an earlier
  // one, as cudaGetLastError would.
  cudaError_t launch(dim3 grid, int threads, cudaStream_t stream, Params params,
                     int shared = 0) const {
    const cudaError_t status = allow_shared(shared);
    if (status != cudaSuccess) return status;
    void* args[] = {&params};
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(unsigned(threads));
    config.dynamicSmemBytes = size_t(shared);
    config.stream = stream;
    note_launch(row);
    return cudaLaunchKernelExC(&config, row.function, args);
  }
  cudaError_t launch(int64_t blocks, int threads, cudaStream_t stream, Params params,
                     int shared = 0) const {
    constexpr int64_t kMaxBlocks = (int64_t(1) << 31) - 1;
    if (blocks == 0) return cudaSuccess;
    if (blocks > kMaxBlocks) return cudaErrorInvalidConfiguration;
    return launch(dim3(unsigned(blocks)), threads, stream, params, shared);
  }

  // Blocks that run at the same time on the current device.
  cudaError_t resident_blocks(int threads, int shared, int* count) const {
    int sms, blocks;
    cudaError_t status = allow_shared(shared);
    if (status == cudaSuccess) status = multiprocessors(&sms);
    if (status == cudaSuccess)
      status =
          cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, row.function, threads, shared);
    if (status == cudaSuccess) *count = sms * blocks;
    return status;
  }

 private:
  // More than 48 KB has to be asked for, of every device.
  cudaError_t allow_shared(int bytes) const {
    if (bytes <= 48 * 1024) return cudaSuccess;
    return cudaFuncSetAttribute(row.function, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  }
};

// What a launcher returns for params that its kernels cannot do: "<what> is not supported".
int unsupported(const char* what);

}  // namespace ww
