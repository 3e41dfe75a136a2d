// SPDX-License-Identifier: Apache-2.0
// wgmma with both operands from shared memory; see sm90_gemm.h for what all have in common.
//
//   entry             a, b -> c, d  a stored  multiples      exercises
//   sm90_pingpong     bf16 -> bf16  (m, k)    n 8, k 8       each consumer has a tile of its own,
//                                                            ordered barriers; stmatrix
//   sm90_cooperative  bf16 -> bf16  (k, m)    m 8, n 8, k 8  2x1 cluster: b is multicast, full and
//                                                            empty barriers cross blocks; wgmma
//                                                            transposes a
#include "sm90_gemm.h"

namespace {

using cute::Shape, cute::_1, cute::_2, cute::_64, cute::_128;
using Row = cutlass::layout::RowMajor;
using Column = cutlass::layout::ColumnMajor;
using Bf16 = cutlass::bfloat16_t;

using Pingpong = oracle::Sm90<Bf16, Row, Bf16, Bf16, Shape<_64, _128, _64>, Shape<_1, _1, _1>,
                              cutlass::gemm::KernelTmaWarpSpecializedPingpong,
                              cutlass::epilogue::TmaWarpSpecialized>;
using Cooperative =
    oracle::Sm90<Bf16, Column, Bf16, Bf16, Shape<_128, _128, _64>, Shape<_2, _1, _1>,
                 cutlass::gemm::KernelTmaWarpSpecializedCooperative,
                 cutlass::epilogue::TmaWarpSpecializedCooperative>;

}  // namespace

ORACLE_EXPORT int sm90_pingpong(int m, int n, int k, const void* a, const void* b, const void* c,
                                void* d, int sms) {
  return Pingpong::run(m, n, k, a, b, c, d, sms);
}

ORACLE_EXPORT int sm90_cooperative(int m, int n, int k, const void* a, const void* b, const void* c,
                                   void* d, int sms) {
  return Cooperative::run(m, n, k, a, b, c, d, sms);
}
