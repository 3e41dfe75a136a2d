// SPDX-License-Identifier: Apache-2.0
// What the C functions of test_api*.cpp share: instructions from a line of text, errors as text.
#pragma once

#include <exception>
#include <string>

#include "ptx/ir.h"

namespace ptxsim::test {

// "mma.sync.aligned v4 v4 v2 v4": the spelling, then the operands: r (a register), vN (N
// registers), a (an address), iN (the integer N).
ptx::Instruction instruction(const char* text);

// Runs `body`; what it throws goes to `error`, of 256 bytes. Returns 0, or -1 after an error.
template <typename Body>
int guarded(char* error, Body body) {
  try {
    body();
    return 0;
  } catch (const std::exception& e) {
    std::string(e.what()).copy(error, 255);
    return -1;
  }
}

}  // namespace ptxsim::test
