// SPDX-License-Identifier: Apache-2.0
// Rows sorted by expert times that expert's matrix, the one contract for every backend.
//
//   out[m,n] = act(sa[m] * sb[e,n] * sum_k a[m,k] * b[e,n,k])   for offsets[e-1] <= m < offsets[e]
//
// where a and b are dense, their scales then 1, or quantised: values without their scale are exact
// in bf16. act is the identity or relu2(v) = max(v,0)^2, applied to the scaled fp32 accumulator;
// one rounding, on store. Groups may be empty. Rows from offsets[E-1] on belong to no group and
// give 0. out aliases nothing.
#pragma once

#include "core/types.h"
#include "core/weights.h"

namespace ww {

struct GroupedGemmParams {
  int64_t M, N, K, E;
  DType dtype;          // of a dense a, and of a dense b: f32 or bf16
  DType out_dtype;      // f32 or bf16
  bool relu2;
  Weights a;            // (M,K), one matrix; quantised only if b is
  Weights b;            // (E,N,K)
  const void* offsets;  // (E) contiguous: end of each group, not decreasing, at most M; null: E = 1
  bool offsets_is_int64;
  void* out;            // (M,N), N contiguous
  int64_t out_stride_m;
  void* workspace;      // CUDA: as many bytes as <op>_workspace() says
};

// Every op that multiplies rows by matrices: grouped_gemm, and nvfp4_matmul, nvfp4_grouped_matmul,
// fp8_matmul and fp8_grouped_matmul. Throws ww::Error in the name of `op` if the offsets are not as
// above.
void grouped_product_cpu(const char* op, const GroupedGemmParams& p);

void grouped_gemm_cpu(const GroupedGemmParams& p);  // of dense operands

}  // namespace ww
