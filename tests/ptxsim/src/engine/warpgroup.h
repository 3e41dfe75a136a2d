// SPDX-License-Identifier: Apache-2.0
// Products of warpgroups, as far as waiting goes (opcodes/wgmma.cpp).
#pragma once

#include "engine/state.h"

namespace ptxsim {

// All products up to the group have been issued by all four warps, so that waiting for them can
// end.
bool wgmma_groups_issued(const Block& block, uint32_t warpgroup, uint64_t group);

}  // namespace ptxsim
