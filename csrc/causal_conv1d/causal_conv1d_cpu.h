// SPDX-License-Identifier: Apache-2.0
// What the CPU kernel gets: the contract's params and the sequences they describe.
#pragma once

#include "causal_conv1d/causal_conv1d.h"
#include "core/segment.h"

namespace ww {

struct CausalConv1dCpu {
  const CausalConv1dParams& p;
  const Segment* segments;
  int64_t num_segments;
};

}  // namespace ww
