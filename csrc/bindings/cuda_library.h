// SPDX-License-Identifier: Apache-2.0
// libwarpweave_cuda.so, opened on the first use from the folder of this extension module.
#pragma once

#include <dlfcn.h>

#include <string>
#include <vector>

#include "bindings/tensor.h"
#include "core/cuda/api.h"

namespace ww {

struct CudaLibrary {
  void* handle;         // null if there is none
  std::string problem;  // then why, in one line; else empty
};
const CudaLibrary& cuda_library();

struct CudaInfo {
  bool built, loaded;   // compiled into this build; libwarpweave_cuda.so opened
  std::string archs;    // "80 90a": what it was compiled for
  std::string cutlass;  // "4.2.0"; empty: compiled without, so sm_90a takes sm_80's group product
  int device_count;     // devices that its runtime sees
  std::string problem;  // the first thing that keeps a CUDA op from running; empty if nothing does
};
CudaInfo cuda_info();

// Of the library that calls go to now, a simulated one too; nothing if there is none.
std::vector<CudaKernelInfo> cuda_kernels();  // with registers and memory if there is a device
int newest_cuda_arch();                      // of these that the device runs; 0: none
std::vector<CudaLaunch> cuda_launches();     // of this thread, since it was last asked
bool has_cuda_kernel(const std::string& op);

// Whether every CUDA op is an NVTX range; at first what WARPWEAVE_NVTX says, "1" or "0".
void set_nvtx(bool on);

// A function of libwarpweave_cuda.so or of a simulated one.
template <typename Fn>
Fn* require_kernel(void* library, const char* op, const std::string& symbol) {
  const auto found = reinterpret_cast<Fn*>(dlsym(library, symbol.c_str()));
  WW_CHECK(found, op, ": has no CUDA kernel; supported devices: cpu");
  return found;
}

// Memory for params.workspace, as much as <symbol>_workspace(params) says.
Tensor cuda_workspace(const char* op, const std::string& symbol, const void* params,
                      const Tensor& like);

// Calls `int <symbol>(const Params*, void* stream)` on the device and current stream of `t`; throws
// ww::Error with the reason if the library, the symbol or a CUDA torch is missing, or the launch
// fails.
void launch_cuda(const char* op, const char* symbol, const void* params, const Tensor& t);

}  // namespace ww
