// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/launch.h"

#include <nvtx3/nvToolsExt.h>

#include <string>

#include "core/cuda/api.h"

namespace ww {

const CudaKernelRow*& CudaKernelRow::first() {
  static const CudaKernelRow* head = nullptr;  // in a function: rooms register before main
  return head;
}

namespace {

thread_local std::string refusal;

constexpr int kLaunches = 64;
struct Launches {  // a ring
  CudaLaunch launch[kLaunches];
  int64_t count;
  const char* because;
};
thread_local Launches launches{{}, 0, ""};

}  // namespace

void note_launch(const CudaKernelRow& row) {
  launches.launch[launches.count++ % kLaunches] = {row.op, row.variant, launches.because};
}
Because::Because(const char* why) { launches.because = why; }
Because::~Because() { launches.because = ""; }

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

cudaError_t compute_capability(int* capability) {
  int device, major = 0, minor = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  *capability = 10 * major + minor;
  return status;
}

}  // namespace ww

WW_EXPORT const char* ww_version() { return WW_VERSION; }

WW_EXPORT const char* ww_error_string(int status) {
  if (status == -1) return ww::refusal.c_str();
  return cudaGetErrorString(static_cast<cudaError_t>(status));
}

WW_EXPORT void ww_range(const char* name) {
  if (name)
    nvtxRangePushA(name);
  else
    nvtxRangePop();
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
    rows[count] = {k->op, k->variant, k->dtypes, k->when, nullptr, 0, 0, 0, 0};
    cudaFuncAttributes facts;
    if (!device) continue;
    if (cudaFuncGetAttributes(&facts, k->function) != cudaSuccess ||
        cudaFuncGetName(&rows[count].symbol, k->function) != cudaSuccess) {  // not for this device
      cudaGetLastError();  // or the next who asks would find it
      continue;
    }
    rows[count].arch = facts.binaryVersion;
    rows[count].registers = facts.numRegs;
    rows[count].shared_bytes = int32_t(facts.sharedSizeBytes);
    rows[count].local_bytes = int32_t(facts.localSizeBytes);
  }
  return count;
}

WW_EXPORT int ww_launches(ww::CudaLaunch* rows, int capacity) {
  using ww::kLaunches, ww::launches;
  const int count = int(launches.count < kLaunches ? launches.count : kLaunches);
  for (int i = 0; i < count && i < capacity; ++i)
    rows[i] = launches.launch[(launches.count - count + i) % kLaunches];
  if (capacity > 0) launches.count = 0;
  return count;
}
