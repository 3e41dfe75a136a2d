// SPDX-License-Identifier: Apache-2.0
#include "engine/decode.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <unordered_map>

#include "checks/wgmma_registers.h"
#include "engine/calls.h"

namespace ptxsim {
namespace {

using ptx::Operand;
using ptx::Type;

constexpr uint32_t round_up(uint32_t v, uint32_t to) { return (v + to - 1) / to * to; }

const std::unordered_map<std::string_view, DecodeFn>& opcode_table() {
  static const auto table = [] {
    std::unordered_map<std::string_view, DecodeFn> all;
    for (auto part :
         {integer_opcodes(),  carry_opcodes(),   bit_opcodes(),           float_opcodes(),
          function_opcodes(), sign_opcodes(),    convert_opcodes(),       logic_opcodes(),
          compare_opcodes(),  control_opcodes(), memory_opcodes(),        address_opcodes(),
          atomic_opcodes(),   warp_opcodes(),    barrier_opcodes(),       mbarrier_opcodes(),
          async_opcodes(),    tensor_opcodes(),  wgmma_opcodes(),         wmma_opcodes(),
          stack_opcodes(),    tma_opcodes(),     cluster_launch_opcodes()})
      for (const DecodeEntry& entry : part) all.emplace(entry.opcode, entry.decode);
    return all;
  }();
  return table;
}

}  // namespace

bool Modifiers::take(std::string_view name) {
  if (peek() != name) return false;
  ++next_;
  return true;
}

int Modifiers::take_one_of(std::initializer_list<std::string_view> names) {
  int i = 0;
  for (std::string_view name : names) {
    if (take(name)) return i;
    ++i;
  }
  return -1;
}

int Modifiers::require_one_of(std::initializer_list<std::string_view> names) {
  const int found = take_one_of(names);
  if (found >= 0) return found;
  std::string list;
  for (std::string_view name : names) list += " ." + std::string(name);
  fail("expects one of" + list);
}

Type Modifiers::type(std::initializer_list<Type> allowed) {
  Type type;
  if (peek().empty() || !ptx::parse_type(peek(), &type)) fail("expects a type");
  if (std::find(allowed.begin(), allowed.end(), type) == allowed.end())
    fail("does not take type ." + std::string(peek()));
  ++next_;
  return type;
}

std::string_view Modifiers::peek() const {
  return next_ < instruction_.modifiers.size() ? instruction_.modifiers[next_] : std::string_view();
}

bool Modifiers::has(std::string_view name) const {
  const auto& all = instruction_.modifiers;
  return std::find(all.begin(), all.end(), name) != all.end();
}

void Modifiers::done() const {
  if (next_ < instruction_.modifiers.size())
    fail("has modifier ." + std::string(peek()) + ", which is not supported there");
}

void Modifiers::fail(const std::string& what) const {
  throw ptx::Error(instruction_.line, "'" + instruction_.spelling() + "' " + what);
}

Decode::Decode(Program& program, const Layout& layout, const ptx::Instruction& instruction, Op& op)
    : instruction(instruction), mods(instruction), op(op), program(program), layout(layout) {}

void Decode::fail(const std::string& what) const { mods.fail(what); }

const Operand& Decode::operand(int i) const {
  if (i >= operands()) fail("has too few operands");
  return instruction.operands[size_t(i)];
}

void Decode::expect_operands(int least, int most) const {
  if (operands() < least || operands() > most)
    fail("has " + std::to_string(operands()) + " operands");
}

const ptx::Variable* variable_of(const Program& program, const Operand& operand) {
  switch (operand.kind) {
    case Operand::Kind::variable:
      return operand.local_scope ? &program.function->variables[operand.id]
                                 : &program.module->variables[operand.id];
    case Operand::Kind::parameter: return &program.function->parameters[operand.id];
    case Operand::Kind::result: return &program.function->results[operand.id];
    default: return nullptr;
  }
}

const ptx::Variable* Decode::variable(const Operand& operand) const {
  return variable_of(program, operand);
}

uint32_t Decode::add_slot(int bytes_per_lane) {
  const uint32_t slot = uint32_t(program.image.size());
  program.image.resize(slot + round_up(uint32_t(bytes_per_lane) * kLanes, 64));
  return slot;
}

uint32_t Decode::constant(uint64_t bits, int bytes) {
  uint8_t lane[16] = {};
  memcpy(lane, &bits, 8);
  const uint32_t slot = add_slot(bytes);
  for (int l = 0; l < kLanes; ++l)
    memcpy(&program.image[slot + uint32_t(l * bytes)], lane, size_t(bytes));
  return slot;
}

uint32_t Decode::scratch_predicate() {
  // One condition code a frame: add.cc writes it for the addc that follows.
  if (program.condition_code_slot == Op::kNone) {
    program.condition_code_slot = uint32_t(program.image.size());
    program.image.resize(program.image.size() + 64);
  }
  return program.condition_code_slot;
}

bool Decode::is_register(const Operand& operand) const {
  return operand.kind == Operand::Kind::reg;
}

int Decode::register_bytes(const Operand& operand) const {
  return ptx::size_of(program.function->registers[operand.id].type);
}

uint32_t Decode::special(ptx::Special special, int bytes) {
  switch (special) {
    case ptx::Special::clock:
    case ptx::Special::clock_hi:
    case ptx::Special::clock64:
    case ptx::Special::globaltimer:
    case ptx::Special::globaltimer_lo:
    case ptx::Special::globaltimer_hi:
      fail(std::string("reads ") + ptx::name_of(special) + ", which only mov may");
    case ptx::Special::warp_sz: return constant(kLanes, bytes);
    case ptx::Special::gridid:
    case ptx::Special::current_graph_exec: break;
    default:
      if (bytes == 8)
        fail(std::string("takes 64 bits, which ") + ptx::name_of(special) + " has not");
  }
  const uint32_t slot = add_slot(std::max(bytes, 1));  // 0 bytes: a predicate
  program.specials.push_back({special, slot, bytes});
  return slot;
}

uint32_t Decode::in(const Operand& operand, int bytes) {
  switch (operand.kind) {
    case Operand::Kind::reg:
      if (register_bytes(operand) != bytes)
        fail("takes " + std::to_string(8 * bytes) + "-bit registers, but " +
             program.function->registers[operand.id].name + " is another size");
      return read(program.register_slots[operand.id]);
    case Operand::Kind::integer: return constant(uint64_t(operand.value), bytes);
    case Operand::Kind::float32:
      if (bytes == 4) return constant(uint64_t(operand.value), 4);
      if (bytes == 8) {
        const uint32_t bits = uint32_t(operand.value);
        float value;
        memcpy(&value, &bits, 4);
        const double wide = value;
        uint64_t wide_bits;
        memcpy(&wide_bits, &wide, 8);
        return constant(wide_bits, 8);
      }
      fail("does not take a 32-bit float literal");
    case Operand::Kind::float64:
      if (bytes != 8) fail("does not take a 64-bit float literal");
      return constant(uint64_t(operand.value), 8);
    case Operand::Kind::special: return special(ptx::Special(operand.id), bytes);
    case Operand::Kind::variable:
    case Operand::Kind::parameter:
    case Operand::Kind::result: {
      const ptx::Variable& v = *variable(operand);
      if (v.space == ptx::Space::param) {
        if (!program.function->is_entry || operand.kind != Operand::Kind::parameter)
          fail("takes the address of '" + v.name + "', which is no kernel parameter");
        return constant(program.param_offset(v) + uint64_t(operand.value), bytes);
      }
      if (v.space == ptx::Space::local) {
        if (operand.value != 0) fail("takes the address of a .local variable with an offset");
        return program.local_variable_slot(v, bytes);
      }
      const auto at = layout.addresses.find(&v);
      if (at == layout.addresses.end())
        fail("takes the address of '" + v.name + "', which has none");
      return constant(at->second + uint64_t(operand.value), bytes);
    }
    case Operand::Kind::function: {
      if (bytes != 8) fail("takes a function's address as something else than 64 bits");
      return constant(kFunctionWindow + operand.id, 8);
    }
    default: fail("has an operand of a kind that it does not take");
  }
}

uint32_t Decode::out(const Operand& operand, int bytes) {
  if (operand.kind == Operand::Kind::sink) return add_slot(bytes);
  if (!is_register(operand)) fail("writes to something that is no register");
  const uint32_t slot = in(operand, bytes);
  slots().reads.pop_back();
  return write(slot);
}

uint32_t Decode::predicate_in(const Operand& operand, bool* negated) {
  if (!is_register(operand) || program.function->registers[operand.id].type != Type::pred) {
    *negated = operand.negated;
    if (operand.kind == Operand::Kind::special &&
        ptx::Special(operand.id) == ptx::Special::is_explicit_cluster)
      return special(ptx::Special::is_explicit_cluster, 0);
    if (operand.kind == Operand::Kind::integer) {  // nvcc writes true as -1
      *negated = false;
      const uint32_t slot = uint32_t(program.image.size());
      program.image.resize(slot + 64);
      if (operand.value) memset(&program.image[slot], 0xff, 4);
      return slot;
    }
    fail("takes a predicate");
  }
  *negated = operand.negated;
  return read(program.register_slots[operand.id]);
}

uint32_t Decode::predicate_out(const Operand& operand) {
  if (operand.kind == Operand::Kind::sink) {
    const uint32_t slot = uint32_t(program.image.size());
    program.image.resize(slot + 64);
    return slot;
  }
  bool negated;
  const uint32_t slot = predicate_in(operand, &negated);
  if (negated || !is_register(operand)) fail("writes to something that is no predicate register");
  slots().reads.pop_back();
  return write(slot);
}

uint32_t Decode::wide_out(const Operand& operand, int bytes, int* register_size) {
  const uint32_t slot = wide(operand, bytes, register_size);
  if (is_register(operand)) slots().reads.pop_back();
  return write(slot);
}

uint32_t Decode::read(uint32_t slot) {
  slots().reads.push_back(slot);
  return slot;
}

uint32_t Decode::write(uint32_t slot) {
  slots().writes.push_back(slot);
  return slot;
}

OperandSlots& Decode::slots() { return program.operands[size_t(&op - program.ops.data())]; }

uint32_t Decode::wide(const Operand& operand, int bytes, int* register_size) {
  if (operand.kind == Operand::Kind::sink) {
    *register_size = bytes;
    return add_slot(bytes);
  }
  if (!is_register(operand)) {
    *register_size = bytes;
    return in(operand, bytes);
  }
  *register_size = register_bytes(operand);
  if (*register_size < bytes)
    fail("takes registers of at least " + std::to_string(8 * bytes) + " bits");
  return read(program.register_slots[operand.id]);
}

int64_t Decode::integer(int i) const {
  if (operand(i).kind != Operand::Kind::integer)
    fail("takes an integer constant as operand " + std::to_string(i));
  return operand(i).value;
}

Address Decode::address(const Operand& operand) {
  if (operand.kind != Operand::Kind::address) fail("takes an address");
  const Operand& base = operand.items.at(0);
  Address a;
  a.offset = operand.value;
  switch (base.kind) {
    case Operand::Kind::reg: {
      const int bytes = register_bytes(base);
      if (bytes != 4 && bytes != 8) fail("has an address that is neither 32 nor 64 bits");
      a.base = bytes == 4 ? Address::Base::register32 : Address::Base::register64;
      a.slot = read(program.register_slots[base.id]);
      return a;
    }
    case Operand::Kind::integer:
      a.base = Address::Base::constant;
      a.offset += base.value;
      return a;
    case Operand::Kind::variable:
    case Operand::Kind::parameter:
    case Operand::Kind::result: {
      const ptx::Variable& v = *variable(base);
      a.space = v.space;
      if (v.space == ptx::Space::local) {
        a.base = Address::Base::register64;
        a.slot = program.local_variable_slot(v, 8);
        return a;
      }
      a.base = Address::Base::constant;
      if (v.space == ptx::Space::param) {
        a.offset += program.param_offset(v);
        const bool kernel = program.function->is_entry && base.kind == Operand::Kind::parameter;
        (kernel ? a.is_kernel_param : a.is_local_param) = true;
        return a;
      }
      const auto at = layout.addresses.find(&v);
      if (at == layout.addresses.end()) fail("addresses '" + v.name + "', which has no address");
      a.offset += int64_t(at->second);
      return a;
    }
    default: fail("has an address of a kind that it does not take");
  }
}

// --- Programs ---

namespace {

void lay_out_registers(Program& program) {
  uint32_t used = 0;
  for (const ptx::Register& r : program.function->registers) {
    program.register_slots.push_back(used);
    used += r.type == Type::pred ? 64 : round_up(uint32_t(ptx::size_of(r.type)) * kLanes, 64);
  }
  program.image.assign(used, 0xcb);  // registers that nothing wrote hold a pattern
}

void lay_out_variables(Program& program) {
  auto place = [](uint32_t& used, const ptx::Variable& v) {
    const uint32_t at = round_up(used, v.align);
    used = at + uint32_t(v.bytes);
    return at;
  };
  const ptx::Function& f = *program.function;
  for (const ptx::Variable& v : f.parameters)
    program.variable_offsets[&v] = place(program.param_bytes, v);
  for (const ptx::Variable& v : f.results)
    program.variable_offsets[&v] = place(program.param_bytes, v);
  if (f.is_entry) program.kernel_param_bytes = program.param_bytes, program.param_bytes = 0;
  for (const ptx::Variable& v : f.variables) {
    if (v.space == ptx::Space::param) program.variable_offsets[&v] = place(program.param_bytes, v);
    if (v.space == ptx::Space::local) program.variable_offsets[&v] = place(program.local_bytes, v);
  }
  program.local_bytes = round_up(program.local_bytes, 16);
}

void decode_function(Program& program, const Layout& layout) {
  const ptx::Function& f = *program.function;
  program.ops.resize(f.body.size() + 1);
  program.operands.resize(f.body.size() + 1);
  for (size_t i = 0; i < f.body.size(); ++i) {
    const ptx::Instruction& ins = f.body[i];
    Op& op = program.ops[i];
    op.line = ins.line;
    Decode decode(program, layout, ins, op);
    const auto entry = opcode_table().find(ins.opcode);
    if (entry == opcode_table().end())
      throw ptx::Error(ins.line, "unknown instruction '" + ins.spelling() + "'");
    entry->second(decode);
    decode.mods.done();
    if (ins.guard >= 0) {
      op.guard = program.register_slots[size_t(ins.guard)];
      op.guard_negated = ins.guard_negated;
    }
  }
  Op& end = program.ops.back();  // falling off the end returns
  end.run = f.is_entry ? run_exit : run_return;
  for (const ptx::Label& label : f.labels) program.ops[label.instruction].is_label = true;
  find_wgmma_registers(program);
}

// What a kernel may call: direct callees, and through pointers anything whose address is taken.
void collect_callees(const ptx::Module& module, const ptx::Function& f,
                     std::set<const ptx::Function*>& seen) {
  if (!seen.insert(&f).second) return;
  auto visit = [&](auto&& self, const Operand& operand) -> void {
    if (operand.kind == Operand::Kind::function)
      collect_callees(module, module.functions[operand.id], seen);
    for (const Operand& item : operand.items) self(self, item);
  };
  for (const ptx::Instruction& ins : f.body) {
    for (const Operand& operand : ins.operands) visit(visit, operand);
    // An indirect call may reach every function of the module that is not a kernel.
    if (ins.opcode == "call" && is_indirect_call(ins))
      for (const ptx::Function& other : module.functions)
        if (!other.is_entry) collect_callees(module, other, seen);
  }
}

}  // namespace

uint32_t Program::local_variable_slot(const ptx::Variable& v, int bytes) {
  LocalSlot made{variable_offsets.at(&v), uint32_t(image.size()), bytes};
  image.resize(image.size() + round_up(uint32_t(bytes) * kLanes, 64));
  local_slots.push_back(made);
  return made.slot;
}

KernelPrograms::KernelPrograms(const ptx::Module& module, const ptx::Function& kernel,
                               const std::map<const ptx::Variable*, uint64_t>& globals)
    : kernel_(kernel) {
  layout_.addresses = globals;
  std::set<const ptx::Function*> functions;
  collect_callees(module, kernel, functions);

  std::set<const ptx::Variable*> shared;  // used by any of them
  auto visit = [&](auto&& self, const ptx::Function& f, const Operand& operand) -> void {
    if (operand.kind == Operand::Kind::variable) {
      const ptx::Variable& v =
          operand.local_scope ? f.variables[operand.id] : module.variables[operand.id];
      if (v.space == ptx::Space::shared) shared.insert(&v);
    }
    for (const Operand& item : operand.items) self(self, f, item);
  };
  for (const ptx::Function* f : functions)
    for (const ptx::Instruction& ins : f->body)
      for (const Operand& operand : ins.operands) visit(visit, *f, operand);

  uint32_t used = kSharedBase, dynamic_align = 16;
  for (const ptx::Variable* v : shared) {
    if (v->bytes == 0) {
      dynamic_align = std::max(dynamic_align, v->align);
      continue;
    }
    used = round_up(used, v->align);
    layout_.addresses[v] = used;
    used += uint32_t(v->bytes);
  }
  const uint32_t dynamic = round_up(used, dynamic_align);
  bool uses_dynamic = false;
  for (const ptx::Variable* v : shared)
    if (v->bytes == 0) layout_.addresses[v] = dynamic, uses_dynamic = true;

  for (const ptx::Function* f : functions) {
    auto& program = programs_[f] = std::make_unique<Program>();
    program->module = &module;
    program->function = f;
    layout_.callees[f] = program.get();
  }
  for (auto& [f, program] : programs_) {
    lay_out_registers(*program);
    lay_out_variables(*program);
    program->static_shared = uses_dynamic ? dynamic : used;
    if (!f->is_declaration) decode_function(*program, layout_);
    for (const Op& op : program->ops) independent_ &= !op.between_blocks;
  }
}

const Program* KernelPrograms::owner(const Op& op) const {
  for (const auto& [f, program] : programs_)
    if (&op >= program->ops.data() && &op < program->ops.data() + f->body.size())
      return program.get();
  return nullptr;
}

const Program* KernelPrograms::find(const ptx::Function* function) const {
  const auto found = programs_.find(function);
  return found == programs_.end() ? nullptr : found->second.get();
}

const ptx::Instruction* KernelPrograms::at_line(uint32_t line) const {
  for (const auto& [function, program] : programs_)
    for (const ptx::Instruction& instruction : function->body)
      if (instruction.line == line) return &instruction;
  return nullptr;
}

}  // namespace ptxsim
