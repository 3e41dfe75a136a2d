// SPDX-License-Identifier: Apache-2.0
// A decoded instruction: a function and where its operands lie.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/instruction_class.h"
#include "engine/state.h"
#include "ptx/ir.h"

namespace ptxsim {

// What becomes of the fragment after an instruction.
enum class Flow : uint8_t {
  next,  // go on
  jump,  // pc was set, or the fragment was cut or has ended
  wait,  // fragment.wait says for what; the instruction runs again
};

struct Op {
  Flow (*run)(Warp&, const Op&) = nullptr;
  const void* form = nullptr;   // further details, owned by the program
  uint32_t slot[8] = {};        // operands: offsets of registers and constants in the frame
  int64_t immediate = 0;
  uint32_t line = 0;            // of the PTX
  uint32_t guard = kNone;       // predicate register
  bool guard_negated = false;
  bool is_label = false;        // something jumps here, so fragments may meet
  bool converges = false;       // all live lanes of the warp must be here: .aligned
  bool touches_wgmma = false;   // a register of one
  bool between_blocks = false;  // by which blocks may notice one another, besides races
  InstructionClass kind = InstructionClass::control;
  static constexpr uint32_t kNone = 0xffffffff;
};

// Registers that an instruction reads and writes, as slots.
struct OperandSlots { std::vector<uint32_t> reads, writes; };

// A function, decoded. Shared by all launches.
struct Program {
  const ptx::Module* module = nullptr;
  const ptx::Function* function = nullptr;
  std::vector<Op> ops;                   // one an instruction, and a return at the end
  std::vector<OperandSlots> operands;    // of each op
  std::vector<uint8_t> image;            // of a fresh frame: registers, then constants in all lanes
  std::vector<uint32_t> register_slots;  // of ptx::Function::registers
  uint32_t local_bytes = 0;              // its .local variables
  uint32_t param_bytes = 0;              // a lane's .param variables, formal ones first
  uint32_t static_shared = 0;       // kernels: what it and its callees declare, without the base
  uint32_t kernel_param_bytes = 0;  // of an entry's parameters
  uint32_t condition_code_slot = Op::kNone;                   // carry of add.cc
  std::map<const ptx::Variable*, uint32_t> variable_offsets;  // .local and .param variables
  struct LocalSlot {  // addresses of .local variables, set when a frame is made
    uint32_t offset, slot;
    int bytes;
  };
  std::vector<LocalSlot> local_slots;
  struct SpecialSlot {
    ptx::Special special;
    uint32_t slot;
    int bytes;                        // 4 or 8 a lane
  };
  std::vector<SpecialSlot> specials;  // constants to be set when a warp starts
  std::vector<std::shared_ptr<void>> forms;

  uint32_t param_offset(const ptx::Variable& v) const { return variable_offsets.at(&v); }
  uint32_t local_variable_slot(const ptx::Variable& v, int bytes);

  const ptx::Instruction& instruction(const Op& op) const {
    return function->body[size_t(&op - ops.data())];
  }
};

}  // namespace ptxsim
