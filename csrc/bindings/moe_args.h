// SPDX-License-Identifier: Apache-2.0
// The routed experts' arguments, checked alike for moe_mlp and latent_moe.
#pragma once

#include "bindings/weights.h"
#include "moe_mlp/moe_mlp.h"

namespace ww {

struct ExpertTensors {  // in the layout the kernels read; holds any copy that this took
  WeightTensors up, down;
  Tensor weights, indices;

  ExpertTensors(const char* op, const WeightTensors& up, const WeightTensors& down,
                const Tensor& weights, const Tensor& indices);
};

// Everything but x and out, for `tokens` rows of `width` in `dtype`, which dense weights have too.
MoeMlpParams moe_mlp_params(const char* op, const ExpertTensors& t, int64_t tokens, int64_t width,
                            DType dtype);

}  // namespace ww
