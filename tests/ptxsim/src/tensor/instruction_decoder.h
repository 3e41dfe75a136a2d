// SPDX-License-Identifier: Apache-2.0
// What the decoders of this folder share: errors that name the instruction and its line.
#pragma once

#include <string>

#include "ptx/ir.h"

namespace ptxsim {

class InstructionDecoder {
 protected:
  explicit InstructionDecoder(const ptx::Instruction& instruction) : in_(instruction) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw ptx::Error(in_.line, in_.spelling() + ": " + what);
  }
  void require(bool condition, const std::string& what) const {
    if (!condition) fail(what);
  }
  void once(bool* flag, const std::string& name) const {
    require(!*flag, "." + name + " twice");
    *flag = true;
  }

  const ptx::Instruction& in_;
};

}  // namespace ptxsim
