// SPDX-License-Identifier: Apache-2.0
// Routed relu2 experts, the one contract for every backend.
//
//   out[t] = sum_{k, e = indices[t,k]} weights[t,k] * down[e] · h,   h = relu2(up[e] · x[t])
//
// relu2(v) = max(v,0)^2 on the fp32 accumulator times the scale of quantised weights. h is rounded
// once to the dtype of x. The weighted sum is fp32, in ascending order of expert, and rounded once.
// An index of -1 names no expert. out aliases nothing.
#pragma once

#include "core/types.h"
#include "core/weights.h"

namespace ww {

struct MoeMlpParams {
  int64_t T, K, E, I, top_k;              // tokens, model width, experts, expert width
  DType dtype;                            // of x, out and dense weights: f32 or bf16
  const void* x;                          // (T,K), K contiguous
  int64_t x_stride_t;
  Weights up;                             // (E,I,K)
  Weights down;                           // (E,K,I)
  const float* weights;                   // (T,top_k) contiguous
  const void* indices;                    // (T,top_k) contiguous, int32 or int64, in [-1, E)
  bool indices_is_int64;
  void* out;                              // (T,K), K contiguous
  int64_t out_stride_t;
  void* workspace;                        // CUDA: ww_moe_mlp_workspace() bytes
};

void moe_mlp_cpu(const MoeMlpParams& p);  // throws ww::Error on an index out of range

}  // namespace ww
