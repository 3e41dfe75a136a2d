// SPDX-License-Identifier: Apache-2.0
// The two ends of every binding: registration with torch, and the way to the kernel of a device.
#pragma once

#include "bindings/cuda_library.h"
#include "bindings/tensor.h"

// Registers function `name` as torch.ops.warpweave.<name> with the rest of its schema.
#define WW_TORCH_OP(name, schema)                                                    \
  STABLE_TORCH_LIBRARY_FRAGMENT(warpweave, m) { m.def(#name schema); }               \
  STABLE_TORCH_LIBRARY_IMPL(warpweave, CPU, m) { m.impl(#name, TORCH_BOX(&name)); }  \
  STABLE_TORCH_LIBRARY_IMPL(warpweave, CUDA, m) { m.impl(#name, TORCH_BOX(&name)); } \
  static_assert(true, "so that a semicolon may follow")

namespace ww {

// Runs the kernel on the device of `like`: cpu(p), or cuda_symbol of libwarpweave_cuda.so.
template <typename Params>
void launch(const char* op, const Tensor& like, const Params& p, void (*cpu)(const Params&),
            const char* cuda_symbol) {
  if (like.is_cpu())
    cpu(p);
  else
    launch_cuda(op, cuda_symbol, &p, like);
}

}  // namespace ww
