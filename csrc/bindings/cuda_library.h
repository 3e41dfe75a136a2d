// SPDX-License-Identifier: Apache-2.0
// libwarpweave_cuda.so, opened on the first use from the folder of this extension module.
#pragma once

#include <string>

#include "bindings/tensor.h"

namespace ww {

struct CudaLibrary {
  void* handle;          // null if it could not be opened
  std::string problem;   // why, in one line; empty if it could
};
const CudaLibrary& cuda_library();

// Calls `int <symbol>(const Params*, void* stream)` on the device and current stream of `t`; throws
// ww::Error with the reason if the library, the symbol or a CUDA torch is missing, or the launch fails.
void launch_cuda(const char* op, const char* symbol, const void* params, const Tensor& t);

}  // namespace ww
