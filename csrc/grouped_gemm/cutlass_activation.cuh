// SPDX-License-Identifier: Apache-2.0
// The identity or relu2, as a node of CUTLASS's epilogues.
#pragma once

#include "cutlass/cutlass.h"

namespace ww {
namespace {

struct ActivationArguments { bool relu2; };
template <typename V>
struct Activation {  // keeps a NaN
  using Arguments = ActivationArguments;
  __device__ V operator()(const V& v, const Arguments& how) const {
    if (!how.relu2) return v;
    if constexpr (cute::is_same_v<V, float>) {
      return v < 0.f ? 0.f : v * v;
    } else {
      V out;
#pragma unroll
      for (int i = 0; i < V::kElements; ++i) out[i] = Activation<float>{}(v[i], how);
      return out;
    }
  }
};

}  // namespace
}  // namespace ww
