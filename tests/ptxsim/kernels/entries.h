// SPDX-License-Identifier: Apache-2.0
// Kernels by name, launched on an input and an output of 256 floats.
#pragma once

#include <cuda_runtime.h>

#include <cstring>

#define EXPORT extern "C" __attribute__((visibility("default")))

struct Entry {
  const char* name;
  void (*kernel)(const float*, float*);
  int dynamic_shared = 0;
};

template <size_t kCount>
int launch(const Entry (&entries)[kCount], const char* name, int grid, int block, const float* in,
           float* out) {
  for (const Entry& e : entries) {
    if (strcmp(e.name, name)) continue;
    e.kernel<<<grid, block, e.dynamic_shared>>>(in, out);
    const cudaError_t launched = cudaGetLastError();
    return int(launched ? launched : cudaDeviceSynchronize());
  }
  return -1;
}
