// SPDX-License-Identifier: Apache-2.0
// What every oracle needs on the host: status codes, device memory, and one run of a CUTLASS gemm
// from the check of its arguments to the end of its kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cutlass/cutlass.h"

#define ORACLE_EXPORT extern "C" __attribute__((visibility("default")))

namespace oracle {

// 0, or where it failed: 100 + cutlass::Status of can_implement, 200 + that of initialize, 300 +
// that of run, 1000 + cudaError_t.
inline int code_of(cudaError_t error) { return error == cudaSuccess ? 0 : 1000 + int(error); }
inline int code_of(int step, cutlass::Status status) {
  return status == cutlass::Status::kSuccess ? 0 : step + int(status);
}

class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t bytes) {
    if (bytes) error_ = cudaMalloc(&data_, bytes);
  }
  template <class T>
  explicit DeviceBuffer(const std::vector<T>& host) : DeviceBuffer(host.size() * sizeof(T)) {
    if (data_)
      error_ = cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { cudaFree(data_); }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  cudaError_t error() const { return error_; }

 private:
  void* data_ = nullptr;
  cudaError_t error_ = cudaSuccess;
};

template <class Gemm, class... Launch>
int run(const typename Gemm::Arguments& arguments, Launch... launch) {
  if (int code = code_of(100, Gemm::can_implement(arguments))) return code;
  DeviceBuffer workspace(Gemm::get_workspace_size(arguments));
  if (int code = code_of(workspace.error())) return code;
  Gemm gemm;
  if (int code = code_of(200, gemm.initialize(arguments, workspace.template as<void>())))
    return code;
  if (int code = code_of(300, gemm.run(launch...))) return code;
  return code_of(cudaDeviceSynchronize());
}

}  // namespace oracle
