// SPDX-License-Identifier: Apache-2.0
// A module as text. Registers, variables and labels of nested scopes have unique names, so that a
// body is printed as one scope; sections of debug information are not part of a module.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "ptx/ir.h"

namespace ptxsim::ptx {

namespace {

std::string hex(uint64_t bits, int digits) {
  char text[32];
  snprintf(text, sizeof text, "%0*" PRIX64, digits, bits);
  return text;
}

const char* name_of(Space space) {
  switch (space) {
    case Space::global: return "global";
    case Space::constant: return "const";
    case Space::shared: return "shared";
    case Space::local: return "local";
    case Space::param: break;
  }
  return "param";
}

class Printer {
 public:
  explicit Printer(const Module& module) : module_(module) {}
  std::string print();

 private:
  void print_variable(const Variable& v);
  void print_initial(const Variable& v);
  void print_relocation(const Variable::Relocation& relocation);
  void print_parameters(const std::vector<Variable>& parameters);
  void print_head(const Function& f, bool is_definition);
  void print_function(const Function& f);
  void print_registers(const Function& f);
  void print_tables(const Function& f);
  void print_instruction(const Function& f, const Instruction& instruction);
  void print_operand(const Function& f, const Operand& operand);
  void print_items(const Function& f, const Operand& operand, size_t first, const char* between);
  void print_offset(int64_t offset);
  size_t declarations_needed() const;

  template <typename... Parts>
  void put(const Parts&... parts) {
    ((out_ += parts), ...);
  }
  void put_number(int64_t value) { out_ += std::to_string(value); }

  const Module& module_;
  std::string out_;
};

std::string Printer::print() {
  put(".version ", std::to_string(module_.version_major), ".",
      std::to_string(module_.version_minor), "\n.target ", module_.target);
  for (const std::string& option : module_.target_options) put(", ", option);
  put("\n.address_size ", std::to_string(module_.address_size), "\n\n");

  const size_t declared = declarations_needed();
  for (size_t i = 0; i < declared; ++i) {
    print_head(module_.functions[i], false);
    put(";\n");
  }
  for (const Variable& v : module_.variables) {
    print_variable(v);
    put(";\n");
  }
  for (size_t i = 0; i < module_.functions.size(); ++i) {
    const Function& f = module_.functions[i];
    if (!f.is_declaration) {
      print_function(f);
    } else if (i >= declared) {
      print_head(f, false);
      put(";\n");
    }
  }
  put("\n");
  for (size_t i = 1; i < module_.files.size(); ++i)
    if (!module_.files[i].empty())
      put("\t.file\t", std::to_string(i), " \"", module_.files[i], "\"\n");
  return std::move(out_);
}

// How many functions, from the first on, must be declared before variables and bodies, so that
// every name is declared before its use and every function keeps its number.
size_t Printer::declarations_needed() const {
  size_t needed = 0;
  auto use = [&](size_t function) { needed = std::max(needed, function + 1); };
  for (const Variable& v : module_.variables) {
    for (const Variable::Relocation& relocation : v.relocations) {
      const Function* f = module_.find(relocation.symbol);
      if (f) use(size_t(f - module_.functions.data()));
    }
  }
  size_t body = 0;
  auto visit = [&](auto&& self, const Operand& operand) -> void {
    if (operand.kind == Operand::Kind::function && operand.id > body) use(operand.id);
    for (const Operand& item : operand.items) self(self, item);
  };
  for (; body < module_.functions.size(); ++body) {
    const Function& f = module_.functions[body];
    for (const Instruction& instruction : f.body)
      for (const Operand& operand : instruction.operands) visit(visit, operand);
    for (const CallTargets& table : f.call_targets)
      for (uint32_t target : table.functions)
        if (target > body) use(target);
  }
  return needed;
}

// --- Variables ---

void Printer::print_variable(const Variable& v) {
  if (v.is_extern) put(".extern ");
  if (v.is_visible) put(".visible ");
  if (v.is_weak) put(".weak ");
  put(".", name_of(v.space));
  if (v.is_managed) put(" .attribute(.managed)");
  const uint64_t width = uint64_t(size_of(v.type));
  if (v.align != width) put(" .align ", std::to_string(v.align));
  put(" .", name_of(v.type));
  if (v.pointer_align != 0) put(" .ptr .align ", std::to_string(v.pointer_align));
  put(" ", v.name);
  if (v.bytes == 0)
    put("[]");
  else if (v.bytes != width)
    put("[", std::to_string(v.bytes / width), "]");
  if (!v.initial.empty()) print_initial(v);
}

void Printer::print_relocation(const Variable::Relocation& relocation) {
  if (relocation.is_generic)
    put("generic(", relocation.symbol, ")");
  else
    put(relocation.symbol);
  print_offset(relocation.addend);
}

void Printer::print_initial(const Variable& v) {
  const size_t width = size_t(size_of(v.type));
  size_t used = v.initial.size();  // zeros at the end are left out
  while (used > 0 && v.initial[used - 1] == 0) --used;
  for (const Variable::Relocation& relocation : v.relocations)
    used = std::max(used, size_t(relocation.offset) + 8);

  const bool is_scalar = v.bytes == width;
  put(is_scalar ? " = " : " = {");
  size_t next = 0;  // relocation
  for (size_t at = 0; at < used; at += width) {
    if (at > 0) put(", ");
    while (next < v.relocations.size() && v.relocations[next].offset + 8 <= at) ++next;
    const Variable::Relocation* relocation =
        next < v.relocations.size() && v.relocations[next].offset <= at ? &v.relocations[next]
                                                                        : nullptr;
    if (relocation && width == 8) {
      print_relocation(*relocation);
      continue;
    }
    if (relocation) {
      put("0x", hex(uint64_t(0xff) << 8 * (at - relocation->offset), 0), "(");
      print_relocation(*relocation);
      put(")");
      continue;
    }
    uint64_t bits = 0;
    memcpy(&bits, &v.initial[at], width);
    if (v.type == Type::f32)
      put("0f", hex(bits, 8));
    else if (v.type == Type::f64)
      put("0d", hex(bits, 16));
    else
      put(std::to_string(bits));
  }
  if (!is_scalar) put("}");
}

// --- Functions ---

void Printer::print_parameters(const std::vector<Variable>& parameters) {
  put("(");
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (i > 0) put(", ");
    print_variable(parameters[i]);
  }
  put(")");
}

void Printer::print_head(const Function& f, bool is_definition) {
  if (f.is_extern) put(".extern ");
  if (f.is_visible) put(".visible ");
  if (f.is_weak) put(".weak ");
  put(f.is_entry ? ".entry " : ".func ");
  if (!f.results.empty()) {
    print_parameters(f.results);
    put(" ");
  }
  put(f.name);
  print_parameters(f.parameters);
  if (f.is_noreturn) put("\n.noreturn");
  if (!is_definition && !f.is_declaration) return;
  auto dimensions = [&](const char* name, const uint32_t (&sizes)[3]) {
    if (sizes[0] == 0) return;
    put("\n.", name, " ", std::to_string(sizes[0]), ", ", std::to_string(sizes[1]), ", ",
        std::to_string(sizes[2]));
  };
  auto number = [&](const char* name, uint32_t value) {
    if (value != 0) put("\n.", name, " ", std::to_string(value));
  };
  dimensions("maxntid", f.maxntid);
  dimensions("reqntid", f.reqntid);
  number("minnctapersm", f.minnctapersm);
  number("maxnreg", f.maxnreg);
  if (f.explicit_cluster) put("\n.explicitcluster");
  dimensions("reqnctapercluster", f.reqnctapercluster);
  number("maxclusterrank", f.maxclusterrank);
}

// Runs of %r0, %r1, ... as %r<n>; not those of x10, x11, ..., which ptxas does not find in x1<n>.
void Printer::print_registers(const Function& f) {
  for (size_t i = 0; i < f.registers.size();) {
    const Register& first = f.registers[i];
    std::string_view stem = first.name;
    size_t count = 0;
    const char before = stem.size() > 1 ? stem[stem.size() - 2] : '0';
    if (stem.back() == '0' && (before < '0' || before > '9')) {
      stem.remove_suffix(1);
      while (i + count < f.registers.size()) {
        const Register& next = f.registers[i + count];
        if (next.type != first.type || next.name.compare(0, stem.size(), stem) != 0 ||
            next.name.compare(stem.size(), std::string::npos, std::to_string(count)) != 0)
          break;
        ++count;
      }
    }
    put("\t.reg .", ptx::name_of(first.type), " ");
    if (count > 1)
      put(stem, "<", std::to_string(count), ">;\n");
    else
      put(first.name, ";\n");
    i += std::max<size_t>(count, 1);
  }
}

void Printer::print_tables(const Function& f) {
  auto list = [&](const std::string& name, const char* directive, const auto& items, auto name_of) {
    put(name, ": .", directive, " ");
    for (size_t i = 0; i < items.size(); ++i) put(i > 0 ? ", " : "", name_of(items[i]));
    put(";\n");
  };
  for (const BranchTargets& table : f.branch_targets)
    list(table.name, "branchtargets", table.labels, [&](uint32_t id) { return f.labels[id].name; });
  for (const CallTargets& table : f.call_targets)
    list(table.name, "calltargets", table.functions,
         [&](uint32_t id) { return module_.functions[id].name; });
  for (const CallPrototype& prototype : f.prototypes) {
    put(prototype.name, ": .callprototype ");
    if (!prototype.results.empty()) {
      print_parameters(prototype.results);
      put(" ");
    }
    put("_ ");
    print_parameters(prototype.parameters);
    put(";\n");
  }
}

void Printer::print_function(const Function& f) {
  put("\n");
  print_head(f, true);
  put("\n{\n");
  for (const std::string& pragma : f.pragmas) put("\t.pragma \"", pragma, "\";\n");
  print_registers(f);
  for (const Variable& v : f.variables) {
    put("\t");
    print_variable(v);
    put(";\n");
  }
  print_tables(f);

  size_t next = 0;
  auto labels_at = [&](size_t place) {
    for (; next < f.labels.size() && f.labels[next].instruction == place; ++next)
      put(f.labels[next].name, ":\n");
  };
  Source source;
  for (size_t i = 0; i < f.body.size(); ++i) {
    labels_at(i);
    const Instruction& instruction = f.body[i];
    if (instruction.source.file != source.file || instruction.source.line != source.line) {
      source = instruction.source;
      put("\t.loc\t", std::to_string(source.file), " ", std::to_string(source.line), " 0\n");
    }
    print_instruction(f, instruction);
  }
  labels_at(f.body.size());
  put("}\n");
}

// --- Instructions ---

void Printer::print_instruction(const Function& f, const Instruction& instruction) {
  put("\t");
  if (instruction.guard >= 0)
    put(instruction.guard_negated ? "@!" : "@", f.registers[size_t(instruction.guard)].name, " ");
  put(instruction.opcode);
  for (const std::string& modifier : instruction.modifiers) put(".", modifier);
  for (size_t i = 0; i < instruction.operands.size(); ++i) {
    put(i == 0 ? " " : ", ");
    print_operand(f, instruction.operands[i]);
  }
  put(";\n");
}

void Printer::print_offset(int64_t offset) {
  if (offset == 0) return;
  put("+");
  put_number(offset);
}

void Printer::print_items(const Function& f, const Operand& operand, size_t first,
                          const char* between) {
  for (size_t i = first; i < operand.items.size(); ++i) {
    if (i > first) put(between);
    print_operand(f, operand.items[i]);
  }
}

void Printer::print_operand(const Function& f, const Operand& operand) {
  using Kind = Operand::Kind;
  switch (operand.kind) {
    case Kind::reg: put(operand.negated ? "!" : "", f.registers[operand.id].name); break;
    case Kind::integer: put_number(operand.value); break;
    case Kind::float32: put("0f", hex(uint64_t(operand.value), 8)); break;
    case Kind::float64: put("0d", hex(uint64_t(operand.value), 16)); break;
    case Kind::special: put(ptx::name_of(Special(operand.id))); break;
    case Kind::variable:
      put((operand.local_scope ? f.variables : module_.variables)[operand.id].name);
      print_offset(operand.value);
      break;
    case Kind::parameter:
      put(f.parameters[operand.id].name);
      print_offset(operand.value);
      break;
    case Kind::result:
      put(f.results[operand.id].name);
      print_offset(operand.value);
      break;
    case Kind::function: put(module_.functions[operand.id].name); break;
    case Kind::label: put(f.labels[operand.id].name); break;
    case Kind::branch_targets: put(f.branch_targets[operand.id].name); break;
    case Kind::call_targets: put(f.call_targets[operand.id].name); break;
    case Kind::prototype: put(f.prototypes[operand.id].name); break;
    case Kind::sink: put("_"); break;
    case Kind::address:
      put("[");
      print_operand(f, operand.items[0]);
      print_offset(operand.value);
      if (operand.items.size() > 1) put(", ");
      print_items(f, operand, 1, ", ");
      put("]");
      break;
    case Kind::vector:
      put("{");
      print_items(f, operand, 0, ", ");
      put("}");
      break;
    case Kind::pair: print_items(f, operand, 0, "|"); break;
    case Kind::list:
      put("(");
      print_items(f, operand, 0, ", ");
      put(")");
      break;
  }
}

}  // namespace

std::string print(const Module& module) { return Printer(module).print(); }

}  // namespace ptxsim::ptx
