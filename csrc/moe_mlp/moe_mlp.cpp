// SPDX-License-Identifier: Apache-2.0
#include "moe_mlp/moe_mlp.h"

#include "core/check.h"
#include "core/cpu/cpu.h"
#include "grouped_gemm/group_planner.h"
#include "moe_mlp/moe_mlp_cpu.h"

namespace ww {

WW_CPU_KERNEL_MATRIX(moe_mlp, MoeMlpCpu, "float32 bfloat16");

void moe_mlp_cpu(const MoeMlpParams& p) {
  const int64_t n = p.T * p.top_k;
  const auto expert = [&](int64_t i) {
    return p.indices_is_int64 ? static_cast<const int64_t*>(p.indices)[i]
                              : int64_t(static_cast<const int32_t*>(p.indices)[i]);
  };
  std::vector<int64_t> end(size_t(p.E) + 1, 0);  // counting sort by expert, tokens in order
  for (int64_t i = 0; i < n; ++i) {
    const int64_t e = expert(i);
    WW_CHECK(e >= -1 && e < p.E, "moe_mlp: 'indices' holds ", e, " for token ", i / p.top_k,
             "; supported: 0 to ", p.E - 1, ", or -1 for no expert");
    if (e >= 0) ++end[size_t(e) + 1];
  }
  GroupPlanner planner;
  for (int64_t e = 0; e < p.E; ++e) {
    planner.add(e, end[size_t(e)], end[size_t(e) + 1]);
    end[size_t(e) + 1] += end[size_t(e)];
  }
  std::vector<Pair> pairs(size_t(end[size_t(p.E)]));
  for (int64_t i = 0; i < n; ++i)
    if (expert(i) >= 0) pairs[size_t(end[size_t(expert(i))]++)] = {i / p.top_k, p.weights[i]};
  moe_mlp_kernel({p, pairs.data(), int64_t(pairs.size()), planner.plan()});
}

}  // namespace ww
