// SPDX-License-Identifier: Apache-2.0
// Registers of wgmma (PTX ISA 9.7.15, asynchronous warpgroup-level instructions). From a product's
// issue until a wait_group covers it, nothing but further products may touch its accumulators or
// its A; and what other instructions wrote must be fenced before a product may use it. Which
// products are in flight follows from the program alone, so every schedule finds the same.
#pragma once

#include "engine/op.h"

namespace ptxsim {

// Marks the instructions that touch registers of any wgmma of the function.
void find_wgmma_registers(Program& program);
// Before such an instruction, other than wgmma itself.
void check_wgmma_registers(Warp& w, const Op& op);
// A warp issues a product; `shape` tells apart accumulators that may not follow one another
// unfenced.
void issue_wgmma_registers(Warp& w, const Op& op, const std::vector<uint32_t>& d, const uint32_t* a,
                           size_t a_count, uint32_t shape);

}  // namespace ptxsim
