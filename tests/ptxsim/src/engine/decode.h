// SPDX-License-Identifier: Apache-2.0
// From a parsed function to a Program. Strict: a form is decoded by consuming its modifiers in the
// order of the PTX ISA, and what is left over is an error with the opcode and its line.
#pragma once

#include <initializer_list>
#include <map>
#include <string_view>

#include "engine/op.h"

namespace ptxsim {

class Modifiers {
 public:
  explicit Modifiers(const ptx::Instruction& instruction) : instruction_(instruction) {}

  bool take(std::string_view name);
  // Index of the one that is next, or -1.
  int take_one_of(std::initializer_list<std::string_view> names);
  int require_one_of(std::initializer_list<std::string_view> names);
  ptx::Type type(std::initializer_list<ptx::Type> allowed);
  std::string_view peek() const;          // the next one, "" at the end
  bool has(std::string_view name) const;  // anywhere
  void done() const;                      // throws unless all are consumed
  [[noreturn]] void fail(const std::string& what) const;

 private:
  const ptx::Instruction& instruction_;
  size_t next_ = 0;
};

// Addresses of a module's variables and of the functions that a kernel calls.
struct Layout {
  std::map<const ptx::Variable*, uint64_t> addresses;  // global and constant: host; shared: 32-bit
  std::map<const ptx::Function*, Program*> callees;
};

// [base + offset] with what is known of the base.
struct Address {
  enum class Base : uint8_t { register32, register64, constant };
  Base base;
  uint32_t slot = 0;                      // of the register
  int64_t offset = 0;                     // or the whole address
  ptx::Space space = ptx::Space::global;  // of a constant base: the variable's
  bool is_kernel_param = false, is_local_param = false;
};

class Decode {
 public:
  Decode(Program& program, const Layout& layout, const ptx::Instruction& instruction, Op& op);

  const ptx::Instruction& instruction;
  Modifiers mods;
  Op& op;
  Program& program;
  const Layout& layout;

  int operands() const { return int(instruction.operands.size()); }
  const ptx::Operand& operand(int i) const;
  void expect_operands(int least, int most) const;

  // Slots of `bytes` a lane (4 lanes of predicate make one 32-bit mask). Registers must have that
  // size.
  uint32_t in(int i, int bytes) { return in(operand(i), bytes); }
  uint32_t in(const ptx::Operand& operand, int bytes);
  uint32_t out(int i, int bytes) { return out(operand(i), bytes); }
  uint32_t out(const ptx::Operand& operand, int bytes);
  uint32_t predicate_in(const ptx::Operand& operand, bool* negated);
  uint32_t predicate_out(const ptx::Operand& operand);
  // Any register of at least `bytes`: loads, stores and conversions may take wider ones.
  uint32_t wide(const ptx::Operand& operand, int bytes, int* register_bytes);
  uint32_t wide_out(const ptx::Operand& operand, int bytes, int* register_bytes);
  uint32_t constant(uint64_t bits, int bytes);
  uint32_t scratch_predicate();  // the condition code of add.cc, one a frame
  Address address(const ptx::Operand& operand);
  int64_t integer(int i) const;  // an immediate
  bool is_register(const ptx::Operand& operand) const;
  int register_bytes(const ptx::Operand& operand) const;

  template <typename Form>
  Form& form() {
    auto owned = std::make_shared<Form>();
    Form& made = *owned;
    op.form = owned.get();
    program.forms.push_back(std::move(owned));
    return made;
  }
  const ptx::Variable* variable(const ptx::Operand& operand) const;  // null if it is none
  [[noreturn]] void fail(const std::string& what) const;

 private:
  uint32_t special(ptx::Special special, int bytes);
  uint32_t add_slot(int bytes_per_lane);
  uint32_t read(uint32_t slot);  // remembers what the instruction reads and writes
  uint32_t write(uint32_t slot);
  OperandSlots& slots();
};

using DecodeFn = void (*)(Decode&);
struct DecodeEntry {
  const char* opcode;
  DecodeFn decode;
};
// One table for each file of opcodes/.
std::initializer_list<DecodeEntry> integer_opcodes();
std::initializer_list<DecodeEntry> carry_opcodes();
std::initializer_list<DecodeEntry> bit_opcodes();
std::initializer_list<DecodeEntry> float_opcodes();
std::initializer_list<DecodeEntry> function_opcodes();
std::initializer_list<DecodeEntry> sign_opcodes();
std::initializer_list<DecodeEntry> convert_opcodes();
std::initializer_list<DecodeEntry> logic_opcodes();
std::initializer_list<DecodeEntry> compare_opcodes();
std::initializer_list<DecodeEntry> control_opcodes();
std::initializer_list<DecodeEntry> memory_opcodes();
std::initializer_list<DecodeEntry> address_opcodes();
std::initializer_list<DecodeEntry> atomic_opcodes();
std::initializer_list<DecodeEntry> warp_opcodes();
std::initializer_list<DecodeEntry> barrier_opcodes();
std::initializer_list<DecodeEntry> mbarrier_opcodes();
std::initializer_list<DecodeEntry> async_opcodes();
std::initializer_list<DecodeEntry> tensor_opcodes();
std::initializer_list<DecodeEntry> wgmma_opcodes();
std::initializer_list<DecodeEntry> wmma_opcodes();
std::initializer_list<DecodeEntry> stack_opcodes();
std::initializer_list<DecodeEntry> tma_opcodes();
std::initializer_list<DecodeEntry> cluster_launch_opcodes();

void decode_bulk(Decode& d);             // cp.async.bulk, behind these words
void decode_bulk_reduction(Decode& d);
void decode_async_store(Decode& d);      // st.async, behind these words
void decode_async_reduction(Decode& d);  // red.async
void decode_bulk_tensor(Decode& d);      // cp.async.bulk.tensor and cp.reduce.async.bulk.tensor
void decode_tensor_prefetch(Decode& d);

// Everything that a kernel may run, decoded together since they share the layout of shared memory.
class KernelPrograms {
 public:
  // `globals` are the addresses of the module's .global and .const variables.
  KernelPrograms(const ptx::Module& module, const ptx::Function& kernel,
                 const std::map<const ptx::Variable*, uint64_t>& globals);
  const Program& entry() const { return *programs_.at(&kernel_); }
  const Program* find(const ptx::Function* function) const;
  const ptx::Instruction* at_line(uint32_t line) const;  // of the PTX; null if none is there
  // No block notices another while both run, unless they race.
  bool blocks_are_independent() const { return independent_; }
  const Program* owner(const Op& op) const;  // null: it stands at the end of a function

 private:
  const ptx::Function& kernel_;
  Layout layout_;
  std::map<const ptx::Function*, std::unique_ptr<Program>> programs_;
  bool independent_ = true;
};

}  // namespace ptxsim
