// SPDX-License-Identifier: Apache-2.0
// s8 x bf16 -> f32: the consumers convert a to bf16 in registers and feed wgmma from there while b
// comes from shared memory; see sm90_gemm.h for the rest. a is (m, k); n is a multiple of 4, k of
// 16, m any.
#include "sm90_gemm.h"

ORACLE_EXPORT int sm90_mixed(int m, int n, int k, const void* a, const void* b, const void* c,
                             void* d, int sms) {
  using cute::Shape, cute::_1, cute::_64, cute::_128;
  return oracle::Sm90<int8_t, cutlass::layout::RowMajor, cutlass::bfloat16_t, float,
                      Shape<_128, _128, _64>, Shape<_1, _1, _1>,
                      cutlass::gemm::KernelTmaWarpSpecializedCooperative,
                      cutlass::epilogue::TmaWarpSpecializedCooperative>::run(m, n, k, a, b, c, d,
                                                                             sms);
}
