// SPDX-License-Identifier: Apache-2.0
// What the CPU kernel gets: the contract's params and its (token, expert) pairs sorted by expert.
#pragma once

#include "grouped_gemm/group_plan.h"
#include "moe_mlp/moe_mlp.h"

namespace ww {

struct Pair {
  int64_t token;
  float weight;
};

struct MoeMlpCpu {
  const MoeMlpParams& p;
  const Pair* pairs;
  int64_t num_pairs;
  GroupPlan plan;  // over the pairs
};

}  // namespace ww
