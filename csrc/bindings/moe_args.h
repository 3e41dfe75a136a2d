// SPDX-License-Identifier: Apache-2.0
// The routed experts' arguments, checked alike for moe_mlp and latent_moe.
#pragma once

#include "bindings/tensor.h"
#include "moe_mlp/moe_mlp.h"

namespace ww {

struct ExpertTensors {  // in the layout the kernels read; holds any copy that this took
  Tensor up, down, weights, indices;
};
ExpertTensors expert_tensors(const char* op, const Tensor& up, const Tensor& down, const Tensor& weights,
                             const Tensor& indices);

// Everything but x and out, for `tokens` rows of `width`.
MoeMlpParams moe_mlp_params(const char* op, const ExpertTensors& t, int64_t tokens, int64_t width);

}  // namespace ww
