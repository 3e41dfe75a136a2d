// SPDX-License-Identifier: Apache-2.0
// Rows sorted by expert times that expert's matrix, the one contract for every backend.
//
//   out[m,n] = act(sum_k a[m,k] * b[e,n,k])   for offsets[e-1] <= m < offsets[e]
//
// act is the identity or relu2(v) = max(v,0)^2, applied to the fp32 accumulator; one rounding, on
// store. Groups may be empty. Rows from offsets[E-1] on belong to no group and give 0. out aliases
// nothing.
#pragma once

#include "core/types.h"

namespace ww {

struct GroupedGemmParams {
  int64_t M, N, K, E;
  DType dtype;          // of a, b, out: f32 or bf16
  bool relu2;
  const void* a;        // (M,K), K contiguous
  int64_t a_stride_m;
  const void* b;        // (E,N,K), K contiguous
  int64_t b_stride_e, b_stride_n;
  const void* offsets;  // (E) contiguous: end of each group, not decreasing, at most M
  bool offsets_is_int64;
  void* out;            // (M,N), N contiguous
  int64_t out_stride_m;
  void* workspace;      // CUDA: ww_grouped_gemm_workspace() bytes
};

void grouped_gemm_cpu(
    const GroupedGemmParams& p);  // throws ww::Error if the offsets are not as above

}  // namespace ww
