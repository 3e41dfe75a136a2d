// SPDX-License-Identifier: Apache-2.0
// What host code can ask about the simulated device. There is one, with number 0.
#include <cstdio>
#include <cstring>

#include "runtime/registration.h"

namespace ptxsim::runtime {
namespace {

constexpr int kWarp = 32;
constexpr int kConstantBytes = 64 * 1024;
constexpr size_t kMaxPitch = 2147483647;

void require_device(int device) {
  if (device != 0) fail(cudaErrorInvalidDevice, "there is one device, 0");
}

// Only what a compute device is asked for: textures, surfaces, PCI and the like are unknown here.
int attribute(const Device& d, cudaDeviceAttr id) {
  switch (id) {
    case cudaDevAttrMaxThreadsPerBlock: return d.threads_per_block;
    case cudaDevAttrMaxBlockDimX: return 1024;
    case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return 2147483647;
    case cudaDevAttrMaxGridDimY: return 65535;
    case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrMaxSharedMemoryPerBlock: return d.shared_per_block;
    case cudaDevAttrTotalConstantMemory: return kConstantBytes;
    case cudaDevAttrWarpSize: return kWarp;
    case cudaDevAttrMaxPitch: return int(kMaxPitch);
    case cudaDevAttrMaxRegistersPerBlock: return d.registers_per_block;
    case cudaDevAttrClockRate: return int(d.clock_ghz * 1e6);
    case cudaDevAttrMultiProcessorCount: return d.sms;
    case cudaDevAttrIntegrated: return 0;
    case cudaDevAttrCanMapHostMemory: return 1;
    case cudaDevAttrComputeMode: return cudaComputeModeDefault;
    case cudaDevAttrConcurrentKernels: return 1;
    case cudaDevAttrL2CacheSize: return int(d.l2_bytes);
    case cudaDevAttrMaxThreadsPerMultiProcessor: return d.warps_per_sm * kWarp;
    case cudaDevAttrUnifiedAddressing: return 1;
    case cudaDevAttrComputeCapabilityMajor: return d.major;
    case cudaDevAttrComputeCapabilityMinor: return d.minor;
    case cudaDevAttrStreamPrioritiesSupported: return 1;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return d.shared_per_sm;
    case cudaDevAttrMaxRegistersPerMultiprocessor: return d.registers_per_sm;
    case cudaDevAttrManagedMemory: return 1;
    case cudaDevAttrConcurrentManagedAccess: return 1;
    case cudaDevAttrPageableMemoryAccess: return 0;
    case cudaDevAttrCanUseHostPointerForRegisteredMem: return 1;
    case cudaDevAttrCooperativeLaunch: return 1;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return d.shared_per_block_optin;
    case cudaDevAttrHostRegisterSupported: return 1;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return d.blocks_per_sm;
    case cudaDevAttrReservedSharedMemoryPerBlock: return d.shared_reserved;
    case cudaDevAttrMemoryPoolsSupported:
      return 0;  // cudaMallocAsync works, the pools' own calls do not
    case cudaDevAttrClusterLaunch: return d.max_cluster > 1;
    default:
      fail(cudaErrorInvalidValue,
           "device attribute " + std::to_string(int(id)) + " is not simulated");
  }
}

cudaDeviceProp properties(const Device& d) {
  cudaDeviceProp p{};
  std::snprintf(p.name, sizeof p.name, "%s", d.full_name);
  p.totalGlobalMem = d.memory_bytes;
  p.sharedMemPerBlock = size_t(d.shared_per_block);
  p.regsPerBlock = d.registers_per_block;
  p.warpSize = kWarp;
  p.memPitch = kMaxPitch;
  p.maxThreadsPerBlock = d.threads_per_block;
  const int block[3] = {1024, 1024, 64}, grid[3] = {2147483647, 65535, 65535};
  std::memcpy(p.maxThreadsDim, block, sizeof block);
  std::memcpy(p.maxGridSize, grid, sizeof grid);
  p.totalConstMem = kConstantBytes;
  p.major = d.major;
  p.minor = d.minor;
  p.multiProcessorCount = d.sms;
  p.canMapHostMemory = 1;
  p.concurrentKernels = 1;
  p.unifiedAddressing = 1;
  p.l2CacheSize = int(d.l2_bytes);
  p.maxThreadsPerMultiProcessor = d.warps_per_sm * kWarp;
  p.streamPrioritiesSupported = 1;
  p.sharedMemPerMultiprocessor = size_t(d.shared_per_sm);
  p.regsPerMultiprocessor = d.registers_per_sm;
  p.managedMemory = 1;
  p.concurrentManagedAccess = 1;
  p.canUseHostPointerForRegisteredMem = 1;
  p.cooperativeLaunch = 1;
  p.sharedMemPerBlockOptin = size_t(d.shared_per_block_optin);
  p.maxBlocksPerMultiProcessor = d.blocks_per_sm;
  p.reservedSharedMemPerBlock = size_t(d.shared_reserved);
  p.hostRegisterSupported = 1;
  p.clusterLaunch = d.max_cluster > 1;
  return p;
}

}  // namespace
}  // namespace ptxsim::runtime

using namespace ptxsim::runtime;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  return api<Needs::nothing>(__func__, [&] {
    require(count, cudaErrorInvalidValue, "count is null");
    *count = session().has_device();
    session().simulator();  // none: cudaErrorNoDevice
  });
}

cudaError_t cudaGetDevice(int* device) {
  return api<Needs::device>(__func__, [&] {
    require(device, cudaErrorInvalidValue, "device is null");
    *device = 0;
  });
}

cudaError_t cudaSetDevice(int device) {
  return api(__func__, [&] { require_device(device); });
}

cudaError_t cudaInitDevice(int device, unsigned, unsigned) {
  return api(__func__, [&] { require_device(device); });
}

cudaError_t cudaDeviceReset() {
  return api<Needs::device>(__func__, [&] {
    session().reset();
    initialize_managed();
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr id, int device) {
  return api<Needs::device>(__func__, [&] {
    require(value, cudaErrorInvalidValue, "value is null");
    require_device(device);
    *value = attribute(session().device(), id);
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device) {
  return api<Needs::device>(__func__, [&] {
    require(out, cudaErrorInvalidValue, "prop is null");
    require_device(device);
    *out = properties(session().device());
  });
}

cudaError_t cudaDriverGetVersion(int* version) {
  return api<Needs::nothing>(__func__, [&] {
    require(version, cudaErrorInvalidValue, "driverVersion is null");
    *version = CUDART_VERSION;
  });
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  return api<Needs::nothing>(__func__, [&] {
    require(version, cudaErrorInvalidValue, "runtimeVersion is null");
    *version = CUDART_VERSION;
  });
}

}  // extern "C"
