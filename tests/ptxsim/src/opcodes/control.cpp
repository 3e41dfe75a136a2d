// SPDX-License-Identifier: Apache-2.0
// Branches, calls, exits and traps: PTX ISA 9.7.12 and 9.7.19; vprintf and assertions, which are
// calls.
#include <cstdio>

#include "engine/calls.h"
#include "engine/lanes.h"
#include "engine/launch.h"
#include "engine/memory.h"

namespace ptxsim {
namespace {

using ptx::Operand;

void decode_bra(Decode& d) {
  d.mods.take("uni");  // a promise of the compiler that execution does not depend on
  d.expect_operands(1, 1);
  if (d.operand(0).kind != Operand::Kind::label) d.fail("takes a label");
  d.op.immediate = d.program.function->labels[d.operand(0).id].instruction;
  d.op.kind = InstructionClass::control;
  d.op.run = [](Warp& w, const Op& op) { return branch(w, w.mask, uint32_t(op.immediate)); };
}

void decode_brx(Decode& d) {
  d.mods.require_one_of({"idx"});
  d.mods.take("uni");
  d.expect_operands(2, 2);
  d.op.slot[1] = d.in(0, 4);
  if (d.operand(1).kind != Operand::Kind::branch_targets)
    d.fail("takes the label of .branchtargets");
  const ptx::BranchTargets* targets = &d.program.function->branch_targets[d.operand(1).id];
  auto& pcs = d.form<std::vector<uint32_t>>();
  for (uint32_t label : targets->labels)
    pcs.push_back(d.program.function->labels[label].instruction);
  d.op.kind = InstructionClass::control;
  d.op.run = [](Warp& w, const Op& op) {
    const auto& pcs = *static_cast<const std::vector<uint32_t>*>(op.form);
    const uint32_t* index = w.lanes<uint32_t>(op.slot[1]);
    const int first = std::countr_zero(w.mask);
    if (index[first] >= pcs.size())
      fault(w, op, Report::Kind::illegal_instruction, 1u << first,
            "brx.idx with index " + std::to_string(index[first]) + " of " +
                std::to_string(pcs.size()) + " targets");
    uint32_t same = 0;  // the lanes that go where the first one goes; the rest comes here again
    for_active(w.mask, [&](int l) { same |= uint32_t(index[l] == index[first]) << l; });
    if (same == w.fragment->mask) {
      w.fragment->pc = pcs[index[first]];
      return Flow::jump;
    }
    Fragment other = *w.fragment;
    other.mask = same, other.pc = pcs[index[first]];
    w.fragment->mask &= ~same;
    w.fragments.push_back(std::move(other));
    w.fragment = nullptr;
    return Flow::jump;
  };
}

// --- Calls ---

struct CallForm {
  const Program* callee = nullptr;                                // null: through a pointer
  uint32_t pointer = 0;                                           // slot of the address
  std::vector<std::pair<uint32_t, uint32_t>> arguments, results;  // offset in the caller, bytes
  std::map<uint64_t, const Program*> by_address;
};

void copy_params(std::vector<uint8_t>& to, uint32_t to_lane, uint32_t to_offset,
                 const std::vector<uint8_t>& from, uint32_t from_lane, uint32_t from_offset,
                 uint32_t bytes, uint32_t mask) {
  for_active(mask, [&](int l) {
    memcpy(&to[uint32_t(l) * to_lane + to_offset], &from[uint32_t(l) * from_lane + from_offset],
           bytes);
  });
}

Flow enter(Warp& w, const Op& op, const CallForm& form, const Program& callee, uint32_t mask) {
  if (callee.function->is_declaration)
    fault(w, op, Report::Kind::illegal_instruction, mask,
          "calls '" + callee.function->name + "', which the module only declares");
  Fragment* f = w.fragment;
  const uint32_t return_pc = f->pc + 1;
  auto frame = make_frame(w, callee, f->frame);
  frame->return_pc = return_pc;
  frame->call = &op;
  const Frame& caller = *f->frame;
  for (size_t i = 0; i < form.arguments.size(); ++i) {
    const ptx::Variable& formal = callee.function->parameters[i];
    copy_params(frame->params, callee.param_bytes, callee.param_offset(formal), caller.params,
                caller.program->param_bytes, form.arguments[i].first,
                std::min(form.arguments[i].second, uint32_t(formal.bytes)), mask);
  }
  if (mask == f->mask) {
    f->frame = std::move(frame);
    f->pc = 0;
    bind(w, *f);
    return Flow::jump;
  }
  Fragment inside = *f;
  inside.mask = mask, inside.pc = 0, inside.frame = std::move(frame);
  f->mask &= ~mask;
  w.fragments.push_back(std::move(inside));
  w.fragment = nullptr;
  return Flow::jump;
}

Flow run_call(Warp& w, const Op& op) {
  const auto& form = *static_cast<const CallForm*>(op.form);
  if (form.callee) {
    // Lanes that the guard switches off go on behind the call.
    const uint32_t off = w.fragment->mask & ~w.mask;
    if (off) {
      Fragment rest = *w.fragment;
      rest.mask = off, ++rest.pc;
      w.fragment->mask = w.mask;
      const ptrdiff_t at = w.fragment - w.fragments.data();
      w.fragments.push_back(std::move(rest));
      bind(w, w.fragments[size_t(at)]);
    }
    return enter(w, op, form, *form.callee, w.mask);
  }
  const uint64_t* address = w.lanes<uint64_t>(form.pointer);
  const uint64_t target = address[std::countr_zero(w.mask)];
  const auto found = form.by_address.find(target);
  if (found == form.by_address.end())
    fault(w, op, Report::Kind::illegal_instruction, w.mask, "calls an address that is no function");
  uint32_t same = 0;
  for_active(w.mask, [&](int l) { same |= uint32_t(address[l] == target) << l; });
  return enter(w, op, form, *found->second, same);
}

// vprintf(format, arguments): both are generic addresses.
Flow run_print(Warp& w, const Op& op) {
  const auto& form = *static_cast<const CallForm*>(op.form);
  const Frame& frame = *w.fragment->frame;
  for_active(w.mask, [&](int l) {
    const uint8_t* params = &frame.params[uint32_t(l) * frame.program->param_bytes];
    uint64_t format, arguments;
    memcpy(&format, params + form.arguments[0].first, 8);
    memcpy(&arguments, params + form.arguments[1].first, 8);
    *w.launch().printed += format_print(w, op, l, format, arguments);
  });
  return Flow::next;
}

// __assertfail(message, file, line, function, charsize)
Flow run_assertion(Warp& w, const Op& op) {
  const auto& form = *static_cast<const CallForm*>(op.form);
  const Frame& frame = *w.fragment->frame;
  const int l = std::countr_zero(w.mask);
  const uint8_t* params = &frame.params[uint32_t(l) * frame.program->param_bytes];
  uint64_t message, file, function;
  uint32_t line;
  memcpy(&message, params + form.arguments[0].first, 8);
  memcpy(&file, params + form.arguments[1].first, 8);
  memcpy(&line, params + form.arguments[2].first, 4);
  memcpy(&function, params + form.arguments[3].first, 8);
  fault(w, op, Report::Kind::assertion, w.mask,
        "assertion '" + read_string(w, op, l, message) + "' failed at " +
            read_string(w, op, l, file) + ":" + std::to_string(line) + " in " +
            read_string(w, op, l, function));
}

void decode_call(Decode& d) {
  d.mods.take("uni");
  CallForm& form = d.form<CallForm>();
  const auto& operands = d.instruction.operands;
  size_t at = 0;
  const Operand* results = nullptr;
  if (operands.size() > 1 && operands[0].kind == Operand::Kind::list) results = &operands[at++];
  const Operand& target = operands.at(at++);
  const Operand* arguments =
      at < operands.size() && operands[at].kind == Operand::Kind::list ? &operands[at++] : nullptr;
  auto variables = [&](const Operand* list, auto& out) {
    for (size_t i = 0; list && i < list->items.size(); ++i) {
      const Operand& item = list->items[i];
      if (item.kind != Operand::Kind::variable || !item.local_scope)
        d.fail("takes .param variables as arguments and results");
      const ptx::Variable& v = d.program.function->variables[item.id];
      out.push_back({d.program.param_offset(v), uint32_t(v.bytes)});
    }
  };
  variables(results, form.results);
  variables(arguments, form.arguments);
  d.op.kind = InstructionClass::control;
  d.op.run = run_call;
  if (target.kind == Operand::Kind::function) {
    const ptx::Function& callee = d.program.module->functions[target.id];
    if (callee.is_declaration && callee.name == "vprintf") {
      d.op.run = run_print;
      return;
    }
    if (callee.is_declaration && callee.name == "__assertfail") {
      d.op.run = run_assertion;
      return;
    }
    if (callee.is_declaration)
      d.fail("calls '" + callee.name + "', which is not defined and not known to the simulator");
    form.callee = d.layout.callees.at(&callee);
    return;
  }
  form.pointer = d.in(target, 8);
  for (size_t i = 0; i < d.program.module->functions.size(); ++i) {
    const auto found = d.layout.callees.find(&d.program.module->functions[i]);
    if (found != d.layout.callees.end()) form.by_address[kFunctionWindow + i] = found->second;
  }
}

void decode_ret(Decode& d) {
  d.mods.take("uni");
  d.op.kind = InstructionClass::control;
  d.op.run = d.program.function->is_entry ? run_exit : run_return;
}

void decode_exit(Decode& d) {
  d.op.kind = InstructionClass::control;
  d.op.run = run_exit;
}

void decode_trap(Decode& d) {
  d.op.kind = InstructionClass::control;
  d.op.run = [](Warp& w, const Op& op) -> Flow {
    fault(w, op, Report::Kind::trap, w.mask, "the kernel stops itself");
  };
}

void decode_no_action(Decode& d) {
  d.op.kind = InstructionClass::no_action;
  d.op.run = [](Warp&, const Op&) { return Flow::next; };
}

void decode_nanosleep(Decode& d) {  // a hint that time may pass: other warps get their turn
  d.mods.type({ptx::Type::u32});
  d.expect_operands(1, 1);
  d.op.slot[1] = d.in(0, 4);
  decode_no_action(d);
}

}  // namespace

Flow run_return(Warp& w, const Op& op) {
  Fragment& f = *w.fragment;
  if (w.mask != f.mask) {  // guarded: the others stay
    Fragment stay = f;
    stay.mask &= ~w.mask, ++stay.pc;
    f.mask = w.mask;
    const ptrdiff_t at = &f - w.fragments.data();
    w.fragments.push_back(std::move(stay));
    bind(w, w.fragments[size_t(at)]);
    return run_return(w, op);
  }
  const std::shared_ptr<Frame> inner = f.frame, outer = inner->caller;
  const auto& form = *static_cast<const CallForm*>(inner->call->form);
  for (size_t i = 0; i < form.results.size(); ++i) {
    const ptx::Variable& formal = inner->program->function->results[i];
    copy_params(outer->params, outer->program->param_bytes, form.results[i].first, inner->params,
                inner->program->param_bytes, inner->program->param_offset(formal),
                std::min(form.results[i].second, uint32_t(formal.bytes)), f.mask);
  }
  f.frame = outer;
  f.pc = inner->return_pc;
  bind(w, f);
  // Lanes that returned earlier wait behind the call, or run on: they merge at the next label.
  return Flow::jump;
}

Flow run_exit(Warp& w, const Op&) { return end_lanes(w, w.mask); }

bool is_indirect_call(const ptx::Instruction& call) {
  for (const Operand& operand : call.operands)
    if (operand.kind != Operand::Kind::list) return operand.kind != Operand::Kind::function;
  return false;
}

std::initializer_list<DecodeEntry> control_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {
      {"bra", decode_bra},    {"brx", decode_brx},
      {"call", decode_call},  {"ret", decode_ret},
      {"exit", decode_exit},  {"trap", decode_trap},
      {"brkpt", decode_trap}, {"nanosleep", decode_nanosleep}};
  return all;
}

}  // namespace ptxsim
