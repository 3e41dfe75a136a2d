// SPDX-License-Identifier: Apache-2.0
#include "bindings/cuda_library.h"

#include <dlfcn.h>

// Lives in libtorch_cuda.so only, so it is null under a CPU build of torch.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void**);

namespace ww {
namespace {

CudaLibrary open_library() {
#if !WW_WITH_CUDA
  return {nullptr, "this build of warpweave has no CUDA kernels (WARPWEAVE_CUDA=OFF or no nvcc was found)"};
#else
  Dl_info self;
  if (!dladdr(reinterpret_cast<void*>(&open_library), &self)) return {nullptr, "dladdr failed"};
  const std::string module = self.dli_fname;
  const std::string path = module.substr(0, module.rfind('/') + 1) + "libwarpweave_cuda.so";
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  return {handle, handle ? "" : dlerror()};
#endif
}

}  // namespace

const CudaLibrary& cuda_library() {
  static const CudaLibrary library = open_library();
  return library;
}

void launch_cuda(const char* op, const char* symbol, const void* params, const Tensor& t) {
  const CudaLibrary& library = cuda_library();
  WW_CHECK(library.handle, op, ": cannot run on cuda: ", library.problem);
  using Launch = int (*)(const void*, void*);
  const Launch launch = reinterpret_cast<Launch>(dlsym(library.handle, symbol));
  WW_CHECK(launch, op, ": libwarpweave_cuda.so has no CUDA kernel for this op");
  WW_CHECK(&aoti_torch_get_current_cuda_stream != nullptr, op, ": this torch is a CPU build");
  const torch::stable::accelerator::DeviceGuard guard(t.get_device_index());
  void* stream;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  const int status = launch(params, stream);
  const auto error_string =
      reinterpret_cast<const char* (*)(int)>(dlsym(library.handle, "ww_error_string"));
  WW_CHECK(status == 0, op, ": CUDA launch failed: ", error_string ? error_string(status) : "?");
}

}  // namespace ww
