// SPDX-License-Identifier: Apache-2.0
// What the CPU kernel gets: the contract's params and the groups that have rows.
#pragma once

#include "grouped_gemm/group_plan.h"
#include "grouped_gemm/grouped_gemm.h"

namespace ww {

struct GroupedGemmCpu {
  const GroupedGemmParams& p;
  GroupPlan plan;
};

}  // namespace ww
