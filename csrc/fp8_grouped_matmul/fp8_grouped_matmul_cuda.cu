// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/launch.h"
#include "grouped_gemm/group_product_cuda.h"

WW_EXPORT int64_t ww_fp8_grouped_matmul_workspace(const ww::GroupedGemmParams* p) {
  return ww::grouped_product_workspace(*p);
}
WW_EXPORT int ww_fp8_grouped_matmul(const ww::GroupedGemmParams* p, void* stream) {
  return ww::launch_grouped_product(*p, stream);
}
