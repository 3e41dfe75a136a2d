// SPDX-License-Identifier: Apache-2.0
// NVFP4 x NVFP4 -> bf16 on sm_120a, cooperative: both groups of warps work on one 128x128 tile.
// Exercises mma.m16n8k64 .kind::mxf4nvf4.block_scale.scale_vec::4X (e2m1 with ue4m3 factors) and
// stmatrix.
//
// a is (m, k), b is (n, k), each with two e2m1 values a byte, the first in the low half; 16 values
// share a factor of type e4m3, not negative. d is row-major (m, n). k is a multiple of 32, n of 8,
// m any.
#include "sm120_block_scaled.h"

ORACLE_EXPORT int sm120_nvfp4(int m, int n, int k, const void* a, const void* b,
                              const void* a_scales, const void* b_scales, void* d) {
  using Operand = cutlass::nv_float4_t<cutlass::float_e2m1_t>;
  using Schedule = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
  return oracle::BlockScaled<Operand, 32, cutlass::bfloat16_t, Schedule>::run(
      m, n, k, a, b, a_scales, b_scales, d);
}
