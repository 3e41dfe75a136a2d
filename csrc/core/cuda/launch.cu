// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/launch.h"

#include <string>

#include "core/cuda/api.h"

namespace ww {

const CudaKernelRow*& CudaKernelRow::first() {
  static const CudaKernelRow* head = nullptr;  // in a function: rooms register before main
  return head;
}

namespace { thread_local std::string refusal; }

int unsupported(const char* what) {
  refusal = std::string(what) + " is not supported";
  return -1;
}

cudaError_t multiprocessors(int* count) {
  int device;
  const cudaError_t status = cudaGetDevice(&device);
  if (status != cudaSuccess) return status;
  return cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
}

}  // namespace ww

WW_EXPORT const char* ww_version() { return WW_VERSION; }

WW_EXPORT const char* ww_error_string(int status) {
  if (status == -1) return ww::refusal.c_str();
  return cudaGetErrorString(static_cast<cudaError_t>(status));
}

WW_EXPORT int ww_device_count(int* count) {
  *count = 0;
  return cudaGetDeviceCount(count);
}

WW_EXPORT int ww_kernels(ww::CudaKernelInfo* rows, int capacity) {
  int devices;
  const bool device = ww_device_count(&devices) == cudaSuccess && devices > 0;
  int count = 0;
  for (const ww::CudaKernelRow* k = ww::CudaKernelRow::first(); k; k = k->next, ++count) {
    if (count >= capacity) continue;
    rows[count] = {k->op, k->variant, k->dtypes, nullptr, 0, 0, 0, 0};
    cudaFuncAttributes facts;
    if (!device || cudaFuncGetAttributes(&facts, k->function) != cudaSuccess ||
        cudaFuncGetName(&rows[count].symbol, k->function) != cudaSuccess)
      continue;
    rows[count].arch = facts.binaryVersion;
    rows[count].registers = facts.numRegs;
    rows[count].shared_bytes = int32_t(facts.sharedSizeBytes);
    rows[count].local_bytes = int32_t(facts.localSizeBytes);
  }
  return count;
}
