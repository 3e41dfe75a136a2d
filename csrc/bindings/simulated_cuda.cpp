// SPDX-License-Identifier: Apache-2.0
#include "bindings/simulated_cuda.h"

#include <dlfcn.h>

#include <vector>

#include "bindings/cuda_library.h"
#include "core/cuda/api.h"

namespace ww {

bool is_simulating = false;

namespace {

void* library_handle = nullptr;
Simulator simulator_hooks;

struct Noted {
  Extent extent;
  std::string name;
};
thread_local std::vector<Noted> noted;

uint64_t extent_bytes(const Tensor& t) {
  uint64_t last = 0;
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (t.size(d) == 0) return 0;
    last += uint64_t(t.size(d) - 1) * uint64_t(t.stride(d));
  }
  return (last + 1) * t.element_size();
}

}  // namespace

void simulate_cuda(const std::string& library, Simulator simulator) {
  void* handle = nullptr;
  if (!library.empty()) {
    // Before the libcudart of a CUDA torch, which is in the global scope, come its own libraries.
    handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    WW_CHECK(handle, "simulate_cuda: ", dlerror());
  }
  library_handle = handle;
  simulator_hooks = simulator;
  is_simulating = handle != nullptr;
}

void* simulated_library() { return library_handle; }

void forget_accesses() { noted.clear(); }

void note_access(const Tensor& t, Access access) {
  static constexpr const char* kNames[] = {"input ", "in-place argument ", "output "};
  const uint64_t bytes = extent_bytes(t);
  if (bytes == 0) return;
  for (const Noted& n : noted)  // an op's own tensor stays fresh when it takes the pointer
    if (n.extent.begin == t.const_data_ptr() && n.extent.bytes == bytes &&
        n.extent.access == Access::fresh)
      return;
  noted.push_back(
      {{t.const_data_ptr(), bytes, nullptr, access}, kNames[int(access)] + shape_string(t)});
}

void launch_simulated(const char* op, const char* symbol, const void* params) {
  const auto launch = require_kernel<int(const void*, void*)>(library_handle, op, symbol);
  std::vector<Extent> extents;
  for (const Noted& n : noted) {
    extents.push_back(n.extent);
    extents.back().name = n.name.c_str();
  }
  void* stream;
  const char* problem = simulator_hooks.begin(extents.data(), int32_t(extents.size()), &stream);
  WW_CHECK(!problem, op, ": ", problem);
  const int status = launch(params, stream);
  problem = simulator_hooks.end();
  WW_CHECK(!problem, op, ": ", problem);
  WW_CHECK(
      status == 0, op, ": CUDA launch failed: ",
      require_kernel<decltype(ww_error_string)>(library_handle, op, "ww_error_string")(status));
}

}  // namespace ww
