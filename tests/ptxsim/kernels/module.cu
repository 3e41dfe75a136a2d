// SPDX-License-Identifier: Apache-2.0
// One kernel, compiled in ways that do not load everywhere.
__global__ void double_and_add(int* x, int by) { *x = *x * 2 + by; }

extern "C" int go(int* x, int by) {
  double_and_add<<<1, 1>>>(x, by);
  return cudaGetLastError();
}
