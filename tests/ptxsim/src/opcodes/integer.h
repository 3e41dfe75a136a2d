// SPDX-License-Identifier: Apache-2.0
// Opcodes that have integer and float forms, and forms with a carry.
#pragma once

#include "engine/decode.h"

namespace ptxsim {

// Decodes the integer form of an opcode that float.cpp has; false if this is none.
bool decode_integer_form(Decode& d);

void decode_carry_out(Decode& d);  // add.cc and sub.cc, behind .cc
// mad and madc, behind .lo or .hi and .cc
void decode_mad_carry(Decode& d, bool high, bool use, bool set);

}  // namespace ptxsim
