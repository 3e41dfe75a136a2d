// SPDX-License-Identifier: Apache-2.0
#include "grouped_gemm/grouped_gemm.h"

#include "core/check.h"
#include "core/cpu/cpu.h"
#include "grouped_gemm/group_planner.h"
#include "grouped_gemm/grouped_gemm_cpu.h"

namespace ww {

WW_CPU_KERNEL_MATRIX(grouped_gemm, GroupedGemmCpu, "float32 bfloat16");

void grouped_product_cpu(const char* op, const GroupedGemmParams& p) {
  GroupPlanner planner;
  const bool is_one_group = p.E == 1 && !p.offsets;
  if (is_one_group) planner.add(0, 0, p.M);
  int64_t begin = 0;
  for (int64_t e = 0; e < p.E && !is_one_group; ++e) {
    const int64_t end = p.offsets_is_int64 ? static_cast<const int64_t*>(p.offsets)[e]
                                           : int64_t(static_cast<const int32_t*>(p.offsets)[e]);
    WW_CHECK(end >= begin && end <= p.M, op, ": 'offsets' holds ", end, " at ", e,
             "; supported: end offsets that do not decrease (the last was ", begin,
             ") and do not pass the ", p.M, " rows of 'a'");
    planner.add(e, begin, end - begin);
    begin = end;
  }
  grouped_gemm_kernel({p, planner.plan()});
}

void grouped_gemm_cpu(const GroupedGemmParams& p) { grouped_product_cpu("grouped_gemm", p); }

}  // namespace ww
