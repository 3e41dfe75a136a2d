// SPDX-License-Identifier: Apache-2.0
#include "moe_route/moe_route.h"

#include "core/check.h"
#include "core/cpu/cpu.h"

namespace ww {

WW_CPU_KERNEL_VECTOR(moe_route, MoeRouteParams, "float32 bfloat16");

void moe_route_check(const MoeRouteParams& p) {
  WW_CHECK(p.dtype == DType::f32 || p.dtype == DType::bf16, "moe_route: 'x' is ",
           dtype_name(p.dtype), "; supported: float32, bfloat16");
  WW_CHECK(p.weight_dtype == p.dtype || p.weight_dtype == DType::f32, "moe_route: 'weight' is ",
           dtype_name(p.weight_dtype), "; supported: float32 or the dtype of 'x', ",
           dtype_name(p.dtype));
  WW_CHECK(p.E >= 1 && p.E <= kMaxExperts, "moe_route: 'weight' has ", p.E,
           " experts; supported: 1 to ", kMaxExperts);
  WW_CHECK(p.n_group >= 1 && p.E % p.n_group == 0, "moe_route: 'n_group' is ", p.n_group,
           "; supported: divisors of E = ", p.E);
  WW_CHECK(p.topk_group >= 1 && p.topk_group <= p.n_group, "moe_route: 'topk_group' is ",
           p.topk_group, "; supported: 1 to n_group = ", p.n_group);
  const int64_t eligible = p.E / p.n_group * p.topk_group;
  WW_CHECK(p.top_k >= 1 && p.top_k <= eligible, "moe_route: 'top_k' is ", p.top_k,
           "; supported: 1 to the ", eligible, " experts of the kept groups");
}

void moe_route_cpu(const MoeRouteParams& p) {
  moe_route_check(p);
  moe_route_kernel(p);
}

}  // namespace ww
