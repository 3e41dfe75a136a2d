// SPDX-License-Identifier: Apache-2.0
#include "latent_moe/latent_moe.h"

#include "core/cpu/cpu.h"
#include "grouped_gemm/group_planner.h"
#include "grouped_gemm/grouped_gemm.h"
#include "latent_moe/latent_moe_cpu.h"

namespace ww {
namespace {

void product(const LatentMoeParams& p, const Weights& weight, int64_t n, bool relu2, void* out) {
  GroupedGemmParams g{};
  g.M = p.T, g.N = n, g.K = p.d, g.E = 1;
  g.dtype = g.out_dtype = p.dtype, g.relu2 = relu2;
  g.a.data = p.x, g.a.stride_n = p.x_stride_t;
  g.b = weight;
  g.out = out, g.out_stride_m = n;
  grouped_gemm_cpu(g);
}

}  // namespace

WW_CPU_KERNEL_MATRIX(latent_moe, LatentMoeCpu, "float32 bfloat16");

void latent_moe_cpu(const LatentMoeParams& p) {
  MoeMlpParams experts = p.experts;
  experts.x = p.fc1.data ? p.latent : p.x;
  experts.x_stride_t = p.fc1.data ? p.l : p.x_stride_t;
  const bool routed_is_all = !p.fc2.data && !p.shared_down.data;
  experts.out = routed_is_all ? p.out : p.routed, experts.out_stride_t = p.l;
  if (p.fc1.data) product(p, p.fc1, p.l, false, p.latent);
  moe_mlp_cpu(experts);
  if (routed_is_all || p.T == 0) return;
  if (p.shared_up.data) product(p, p.shared_up, p.S, true, p.shared);
  GroupPlanner planner;
  planner.add(0, 0, p.T);
  latent_moe_kernel({p, planner.plan()});
}

}  // namespace ww
