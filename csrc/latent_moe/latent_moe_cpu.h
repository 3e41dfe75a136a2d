// SPDX-License-Identifier: Apache-2.0
// What the CPU kernel of the last stage gets: out = fc2 · routed + shared_down · shared.
#pragma once

#include "grouped_gemm/group_plan.h"
#include "latent_moe/latent_moe.h"

namespace ww {

struct LatentMoeCpu {
  const LatentMoeParams& p;
  GroupPlan plan;  // one group: all tokens
};

}  // namespace ww
