// SPDX-License-Identifier: Apache-2.0
// MXFP8 x MXFP8 -> f32 on sm_120a, pingpong: each group of warps has a 128x128 tile of its own,
// ordered barriers let one multiply while the other stores. Exercises mma.m16n8k32
// .kind::mxf8f6f4.block_scale.scale_vec::1X (e4m3 with ue8m0 factors).
//
// a is (m, k), b is (n, k), e4m3; 32 values share a factor 2^(byte - 127). d is row-major (m, n). k
// is a multiple of 16, n of 4, m any.
#include "sm120_block_scaled.h"

ORACLE_EXPORT int sm120_mxfp8(int m, int n, int k, const void* a, const void* b,
                              const void* a_scales, const void* b_scales, void* d) {
  using Operand = cutlass::mx_float8_t<cutlass::float_e4m3_t>;
  using Schedule = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
  return oracle::BlockScaled<Operand, 16, float, Schedule>::run(m, n, k, a, b, a_scales, b_scales,
                                                                d);
}
