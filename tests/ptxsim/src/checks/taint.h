// SPDX-License-Identifier: Apache-2.0
// Registers that hold what nothing wrote (taint.cpp).
#pragma once

#include "engine/op.h"

namespace ptxsim {

// Before an instruction of a warp that has such registers.
void track_taint(Warp& w, const Op& op);

void set_taint(Warp& w, uint32_t slot, uint32_t lanes);
uint32_t taint_of(const Warp& w, uint32_t slot);
// Rows of A and columns of B make those of D such (opcodes/tensor.cpp); false if it is no mma.sync.
bool taint_mma(Warp& w, const Op& op);

}  // namespace ptxsim
