// SPDX-License-Identifier: Apache-2.0
// The two ends of every binding: registration with torch, and the way to the kernel of a device.
#pragma once

#include <utility>

#include "bindings/cuda_library.h"
#include "bindings/simulated_cuda.h"
#include "bindings/tensor.h"

// Registers function `name` as torch.ops.warpweave.<name> with the rest of its schema.
#define WW_TORCH_OP(name, schema)                                                               \
  STABLE_TORCH_LIBRARY_FRAGMENT(warpweave, m) { m.def(#name schema); }                          \
  STABLE_TORCH_LIBRARY_IMPL(warpweave, CPU, m) { m.impl(#name, TORCH_BOX(&Op<&name>::call)); }  \
  STABLE_TORCH_LIBRARY_IMPL(warpweave, CUDA, m) { m.impl(#name, TORCH_BOX(&Op<&name>::call)); } \
  static_assert(true, "so that a semicolon may follow")

namespace ww {

// The op as torch calls it: without what an op that was refused has noted.
template <auto fn>
struct Op;
template <typename R, typename... Args, R (*fn)(Args...)>
struct Op<fn> {
  static R call(Args... args) {
    if (is_simulating) forget_accesses();
    return fn(std::forward<Args>(args)...);
  }
};

// Runs the kernel on the device of `like`: cpu(p), or cuda_symbol of libwarpweave_cuda.so, which a
// simulated one may stand in for.
template <typename Params>
void launch(const char* op, const Tensor& like, const Params& p, void (*cpu)(const Params&),
            const char* cuda_symbol) {
  if (!like.is_cpu())
    launch_cuda(op, cuda_symbol, &p, like);
  else if (is_simulating)
    launch_simulated(op, cuda_symbol, &p);
  else
    cpu(p);
}

}  // namespace ww
