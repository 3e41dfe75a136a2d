// SPDX-License-Identifier: Apache-2.0
#include "bindings/cuda_library.h"

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "bindings/simulated_cuda.h"

// Lives in libtorch_cuda.so only, so it is null under a CPU build of torch.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void**);

namespace ww {
namespace {

#if defined(WW_CUDA_ARCHS)
constexpr bool kBuilt = true;
#else
#define WW_CUDA_ARCHS ""
#define WW_CUTLASS ""
constexpr bool kBuilt = false;
#endif

CudaLibrary open_library() {
  if (!kBuilt) return {nullptr, "this build has no CUDA kernels (WARPWEAVE_CUDA=OFF or no nvcc)"};
  Dl_info self;
  if (!dladdr(reinterpret_cast<void*>(&open_library), &self)) return {nullptr, "dladdr failed"};
  const std::string module = self.dli_fname;
  const std::string path = module.substr(0, module.rfind('/') + 1) + "libwarpweave_cuda.so";
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  return {handle, handle ? "" : dlerror()};
}

template <typename Fn>
Fn* find(const char* name) {
  void* handle = cuda_library().handle;
  return handle ? reinterpret_cast<Fn*>(dlsym(handle, name)) : nullptr;
}

// Missing symbols mean that the library beside this module is of another build.
template <typename Fn>
Fn* require(const char* name) {
  Fn* fn = find<Fn>(name);
  WW_CHECK(fn, "libwarpweave_cuda.so does not export ", name, "; it is not of this build");
  return fn;
}

void require_library(const char* op) {
  WW_CHECK(cuda_library().handle, op, ": cannot run on cuda: ", cuda_library().problem);
}

bool torch_has_cuda() { return &aoti_torch_get_current_cuda_stream != nullptr; }
bool read_nvtx() {
  const char* value = std::getenv("WARPWEAVE_NVTX");
  const std::string text = value ? value : "0";
  WW_CHECK(text == "0" || text == "1", "WARPWEAVE_NVTX is '", text, "'; supported: 0, 1");
  return text == "1";
}
bool& nvtx() {
  static bool on = read_nvtx();
  return on;
}

class Range {
 public:
  explicit Range(const char* op) {
    if (!nvtx()) return;
    mark_ = require<decltype(ww_range)>("ww_range");
    mark_((std::string("warpweave::") + op).c_str());
  }
  ~Range() {
    if (mark_) mark_(nullptr);
  }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

 private:
  decltype(ww_range)* mark_ = nullptr;
};

constexpr const char* kCpuTorch = "this torch is a CPU build; install one with CUDA";

void* current_library() { return is_simulating ? simulated_library() : cuda_library().handle; }

template <typename Row>
std::vector<Row> rows_of(const char* name) {
  if (!current_library()) return {};
  const auto list = require_kernel<int(Row*, int)>(current_library(), "cuda", name);
  std::vector<Row> rows(size_t(list(nullptr, 0)));
  list(rows.data(), int(rows.size()));
  return rows;
}

}  // namespace

void set_nvtx(bool on) { nvtx() = on; }

const CudaLibrary& cuda_library() {
  static const CudaLibrary library = open_library();
  return library;
}

CudaInfo cuda_info() {
  const CudaLibrary& library = cuda_library();
  CudaInfo info{kBuilt, library.handle != nullptr, WW_CUDA_ARCHS, WW_CUTLASS, 0, library.problem};
  if (!info.loaded) return info;
  const int status = require<decltype(ww_device_count)>("ww_device_count")(&info.device_count);
  if (!torch_has_cuda())
    info.problem = kCpuTorch;
  else if (status != 0)
    info.problem = require<decltype(ww_error_string)>("ww_error_string")(status);
  else if (info.device_count == 0)
    info.problem = "no CUDA device is visible";
  else if (newest_cuda_arch() == 0)
    info.problem = std::string("no kernel of this build, for ") + WW_CUDA_ARCHS +
                   ", runs on the current device";
  return info;
}

std::vector<CudaKernelInfo> cuda_kernels() { return rows_of<CudaKernelInfo>("ww_kernels"); }
int newest_cuda_arch() {
  int arch = 0;
  for (const CudaKernelInfo& kernel : cuda_kernels()) arch = std::max(arch, int(kernel.arch));
  return arch;
}
std::vector<CudaLaunch> cuda_launches() { return rows_of<CudaLaunch>("ww_launches"); }

bool has_cuda_kernel(const std::string& op) {
  return current_library() && dlsym(current_library(), ("ww_" + op).c_str());
}

Tensor cuda_workspace(const char* op, const std::string& symbol, const void* params,
                      const Tensor& like) {
  if (!like.is_cpu()) require_library(op);
  std::optional<torch::stable::accelerator::DeviceGuard> guard;  // it may depend on the device
  if (!like.is_cpu()) guard.emplace(like.get_device_index());
  void* library = like.is_cpu() ? simulated_library() : cuda_library().handle;
  const int64_t bytes =
      require_kernel<int64_t(const void*)>(library, op, symbol + "_workspace")(params);
  return empty(like, {(bytes + 3) / 4}, ScalarType::Int);
}

void launch_cuda(const char* op, const char* symbol, const void* params, const Tensor& t) {
  require_library(op);
  const auto launch = require_kernel<int(const void*, void*)>(cuda_library().handle, op, symbol);
  WW_CHECK(torch_has_cuda(), op, ": cannot run on cuda: ", kCpuTorch);
  const torch::stable::accelerator::DeviceGuard guard(t.get_device_index());
  void* stream;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  const Range range(op);
  const int status = launch(params, stream);
  WW_CHECK(status == 0, op,
           ": CUDA launch failed: ", require<decltype(ww_error_string)>("ww_error_string")(status));
}

}  // namespace ww
