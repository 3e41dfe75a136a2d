// SPDX-License-Identifier: Apache-2.0
// Whose a pointer is.
#pragma once

#include <cstdint>

namespace ptxsim::runtime {

enum class MemoryKind : uint8_t {
  unknown,     // the host's own, or freed
  device,
  pinned,
  managed,     // cudaMalloc, cudaMallocHost, cudaMallocManaged
  registered,  // cudaHostRegister
  exposed,     // by the control interface as device memory, or a module's variable
};
MemoryKind kind_of(const void* pointer);

}  // namespace ptxsim::runtime
