// SPDX-License-Identifier: Apache-2.0
#include "checks/wgmma_registers.h"

#include <set>

#include "engine/launch.h"

namespace ptxsim {
namespace {

constexpr uint32_t kSlotUnit = 64;  // registers start at multiples of it

WgmmaUse& use_of(Warp& w, uint32_t slot) {
  Frame& frame = *w.fragment->frame;
  if (frame.wgmma.empty()) frame.wgmma.resize(frame.registers.size() / kSlotUnit);
  return frame.wgmma[slot / kSlotUnit];
}

void hazard(Warp& w, const Op& op, const char* text) {
  finding(w, op, Report::Kind::async_hazard, w.mask, text);
}

}  // namespace

void find_wgmma_registers(Program& program) {
  std::set<uint32_t> used;
  for (size_t i = 0; i < program.ops.size(); ++i) {
    if (program.ops[i].kind != InstructionClass::wgmma) continue;
    used.insert(program.operands[i].reads.begin(), program.operands[i].reads.end());
    used.insert(program.operands[i].writes.begin(), program.operands[i].writes.end());
  }
  if (used.empty()) return;
  for (size_t i = 0; i < program.ops.size(); ++i) {
    Op& op = program.ops[i];
    if (op.kind == InstructionClass::wgmma) continue;
    for (uint32_t slot : program.operands[i].reads) op.touches_wgmma |= used.contains(slot);
    for (uint32_t slot : program.operands[i].writes) op.touches_wgmma |= used.contains(slot);
  }
}

void check_wgmma_registers(Warp& w, const Op& op) {
  const Program& program = *w.fragment->frame->program;
  const OperandSlots& slots = program.operands[size_t(&op - program.ops.data())];
  for (uint32_t slot : slots.reads)
    if (use_of(w, slot).group > w.wgmma_waited)
      hazard(w, op, "reads a register of a wgmma that no wgmma.wait_group has waited for");
  for (uint32_t slot : slots.writes) {
    WgmmaUse& use = use_of(w, slot);
    if (use.group > w.wgmma_waited)
      hazard(w, op, "writes a register of a wgmma that no wgmma.wait_group has waited for");
    use.written = w.wgmma_fences;
  }
}

void issue_wgmma_registers(Warp& w, const Op& op, const std::vector<uint32_t>& d, const uint32_t* a,
                           size_t a_count, uint32_t shape) {
  if (w.wgmma_fences == 0) hazard(w, op, "no wgmma.fence comes before the kernel's first wgmma");
  bool unfenced = false, in_flight = false;
  auto take = [&](uint32_t slot, bool accumulates) {
    WgmmaUse& use = use_of(w, slot);
    unfenced |= use.written == w.wgmma_fences;
    const bool one_chain = accumulates && use.accumulates && use.shape == shape;
    in_flight |= use.group > w.wgmma_waited && (accumulates || use.accumulates) && !one_chain;
    use.group = w.wgmma_group, use.accumulates = accumulates, use.shape = shape;
  };
  for (uint32_t slot : d) take(slot, true);
  for (size_t i = 0; i < a_count; ++i) take(a[i], false);
  if (unfenced) hazard(w, op, "uses registers that were written after the last wgmma.fence");
  if (in_flight)
    hazard(w, op, "uses registers of another wgmma that no wgmma.wait_group has waited for");
}

}  // namespace ptxsim
