// SPDX-License-Identifier: Apache-2.0
// Calls, returns and exits, for the decoder and the opcodes of control flow.
#pragma once

#include "engine/op.h"

namespace ptxsim {

constexpr uint64_t kFunctionWindow = uint64_t(1) << 59;  // + index of the function in its module
constexpr uint64_t function_address(size_t index) { return kFunctionWindow + index; }

Flow run_return(Warp& w, const Op& op);
Flow run_exit(Warp& w, const Op& op);
bool is_indirect_call(const ptx::Instruction& call);
// The constants of a frame that depend on the thread: %tid and so on.
void fill_specials(const Warp& w, const Program& program, uint8_t* registers);
uint64_t clock_of(const Warp& w);  // %clock64

}  // namespace ptxsim
