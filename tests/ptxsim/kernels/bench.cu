// SPDX-License-Identifier: Apache-2.0
// What the interpreter is timed on: arithmetic alone, global memory, shared memory.
#include <cuda_runtime.h>

namespace {

__global__ void arithmetic(float* out, int steps) {
  unsigned a = threadIdx.x, b = 0x9e3779b9;
  float x = 0.5f, y = 1.5f;
#pragma unroll 16
  for (int i = 0; i < steps; ++i) {
    a = (a ^ (a << 13)) + b;
    b = a > b ? a - b : b * 5 + 1;
    x = fmaf(x, y, 0.25f);
    y = fminf(x, y) * 0.5f;
  }
  if (x + y == float(a + b)) *out = x;  // never
}

__global__ void global_memory(float* out, const float* in, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    out[i] = fmaf(in[i], 2.f, out[i]);
}

__global__ void shared_memory(float* out, const float* in, int n) {
  __shared__ float tile[32][33];
  const int x = threadIdx.x % 32, y = threadIdx.x / 32, rows = blockDim.x / 32;
  for (int first = blockIdx.x * 1024; first < n; first += gridDim.x * 1024) {
    for (int r = y; r < 32; r += rows) tile[r][x] = in[first + r * 32 + x];
    __syncthreads();
    for (int r = y; r < 32; r += rows) out[first + r * 32 + x] = tile[x][r];
    __syncthreads();
  }
}

}  // namespace

extern "C" int run(int which, float* out, const float* in, int n) {
  switch (which) {
    case 0: arithmetic<<<32, 128>>>(out, n); break;
    case 1: global_memory<<<32, 128>>>(out, in, n); break;
    default: shared_memory<<<32, 128>>>(out, in, n);
  }
  return cudaDeviceSynchronize();
}
