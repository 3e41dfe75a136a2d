// SPDX-License-Identifier: Apache-2.0
// e4m3 x e4m3 -> f32 in 1x2 clusters: a is multicast, and partial sums are added up outside of
// wgmma; see sm90_gemm.h for the rest. a is (m, k); n is a multiple of 4, k of 16, m any.
#include "sm90_gemm.h"

ORACLE_EXPORT int sm90_e4m3(int m, int n, int k, const void* a, const void* b, const void* c,
                            void* d, int sms) {
  using cute::Shape, cute::_1, cute::_2, cute::_128;
  using E4m3 = cutlass::float_e4m3_t;
  return oracle::Sm90<E4m3, cutlass::layout::RowMajor, E4m3, float, Shape<_128, _128, _128>,
                      Shape<_1, _2, _1>, cutlass::gemm::KernelTmaWarpSpecializedCooperative,
                      cutlass::epilogue::TmaWarpSpecializedCooperative>::run(m, n, k, a, b, c, d,
                                                                             sms);
}
