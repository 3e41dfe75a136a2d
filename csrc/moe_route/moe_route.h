// SPDX-License-Identifier: Apache-2.0
// The sigmoid router of the mixture of experts, the one contract for every backend.
//
//   s = sigmoid(x weight'), choice = s + bias
//   n_group > 1: a group's score is the sum of its two best choices; only the topk_group best
//   groups keep their choices, the others get -inf
//   indices = the top_k of choice, descending; weights = s[indices], without the bias,
//   divided by (their sum + 1e-20) if normalize, times scale
//
// fp32 throughout. All ties go to the lowest index or group. A NaN ranks above every number, as in
// torch.sort, so that it shows in the weights. A token's result does not depend on its batch.
#pragma once

#include "core/types.h"

namespace ww {

inline constexpr int kMaxExperts = 1024;

struct MoeRouteParams {
  int64_t rows, d, E, top_k, n_group, topk_group;  // E <= kMaxExperts
  bool normalize;
  float scale;
  DType dtype;                                     // of x: f32 or bf16
  DType weight_dtype;                              // dtype or f32
  const void* x;                                   // (rows,d), d contiguous
  int64_t x_stride;
  const void* weight;                              // (E,d), d contiguous
  int64_t weight_stride;
  const float* bias;                               // (E) contiguous; may be null: zeros
  float* weights;                                  // (rows,top_k) contiguous
  int32_t* indices;                                // (rows,top_k) contiguous
  void* workspace;                                 // CUDA: ww_moe_route_workspace() bytes
};

void moe_route_check(const MoeRouteParams& p);     // throws ww::Error on what the contract forbids
void moe_route_cpu(const MoeRouteParams& p);
// Exported by libwarpweave_cuda.so; see core/cuda/api.h.
// int ww_moe_route(const MoeRouteParams*, void* stream)

}  // namespace ww
