// SPDX-License-Identifier: Apache-2.0
// Values that came from memory nothing wrote. Reading such memory is no fault as long as nobody
// looks: software pipelines load fragments of stages that they never use, and tiles at the edge of
// a matrix carry rows that are never stored. So the registers are remembered, what is computed from
// them is remembered, too, what is stored of them in shared memory counts as unwritten again, and
// the first use that matters is reported: in global memory, an atomic, an address, a branch. Warps
// without such registers pay one test an instruction.
#include "checks/taint.h"

#include "engine/lanes.h"
#include "engine/launch.h"

namespace ptxsim {
namespace {

bool matters(InstructionClass kind) {
  switch (kind) {
    case InstructionClass::control:
    case InstructionClass::wgmma:
    case InstructionClass::store_global:
    case InstructionClass::atomic:
    case InstructionClass::cp_async:
    case InstructionClass::bulk:
    case InstructionClass::tma:
    case InstructionClass::ldmatrix:
    case InstructionClass::load_global:
    case InstructionClass::load_shared:
    case InstructionClass::mbarrier:
    case InstructionClass::barrier: return true;
    default: return false;
  }
}

}  // namespace

uint32_t taint_of(const Warp& w, uint32_t slot) {
  const auto found = w.taint.find(slot);
  return found == w.taint.end() ? 0 : found->second & w.mask;
}

void set_taint(Warp& w, uint32_t slot, uint32_t lanes) {
  uint32_t& tainted = w.taint[slot];
  tainted = (tainted & ~w.mask) | lanes;
  if (!tainted) w.taint.erase(slot);
}

void track_taint(Warp& w, const Op& op) {
  const Program& program = *w.fragment->frame->program;
  const OperandSlots& slots = program.operands[size_t(&op - program.ops.data())];
  if (op.kind == InstructionClass::mma && taint_mma(w, op)) return;
  uint32_t lanes = 0;
  for (uint32_t slot : slots.reads) lanes |= taint_of(w, slot);
  if (op.guard != Op::kNone) lanes |= taint_of(w, op.guard);
  if (lanes && (op.kind == InstructionClass::warp || op.kind == InstructionClass::mma))
    lanes = w.mask;  // values change lanes
  if (lanes && matters(op.kind)) {
    finding(w, op, Report::Kind::unwritten_read, lanes,
            "uses a value that comes from memory nothing wrote");
    lanes = 0;  // once is enough
  }
  for (uint32_t slot : slots.writes) set_taint(w, slot, lanes);
}

}  // namespace ptxsim
