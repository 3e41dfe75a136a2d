// SPDX-License-Identifier: Apache-2.0
// The functions of simd.h and vmath.h over arrays: how tests reach them on each ISA.
#pragma once

#include <stdint.h>

namespace ww {

enum class VectorFn { exp, log1p, softplus, sigmoid, silu, silu_coarse, round_bf16, round_f16 };

struct VectorMath {
  VectorFn fn;
  const float* x;
  float* out;  // round_*: through the storage type and back
  int64_t n;
};

void vector_math(const VectorMath& args);

}  // namespace ww
