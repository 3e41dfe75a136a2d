// SPDX-License-Identifier: Apache-2.0
// Copies and fills as operations of a stream, and the memory that the runtime allocated.
#pragma once

#include "runtime/stream.h"

namespace ptxsim::runtime {

struct Copy {
  void* destination;
  const void* source;
  size_t destination_pitch, source_pitch, width, height;  // bytes; height in rows
  cudaMemcpyKind kind;
  bool to_symbol = false;                                 // the host may write what kernels may not
};

struct Fill {
  void* destination;
  size_t pitch;
  unsigned value;
  int element_bytes;     // 1, 2 or 4
  size_t width, height;  // elements, rows
};

// Check the ranges now; run() moves the bytes.
Operation copy_operation(const Copy& copy);
Operation fill_operation(const Fill& fill);

void free_all(GlobalMemory& memory);  // what cudaMalloc and its kin allocated

}  // namespace ptxsim::runtime
