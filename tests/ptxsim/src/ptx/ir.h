// SPDX-License-Identifier: Apache-2.0
// PTX as data: what parse() makes of a module and print() turns back into text.
//
// The parser knows the language (directives, types, registers, scopes, operand syntax) and resolves
// every name; it does not know what an opcode means. Opcodes and their modifiers are checked when a
// kernel is decoded (engine/decode.h), where each modifier must be consumed by the form that
// implements it. Source: PTX ISA 9.0, as nvcc 13.0 emits it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace ptxsim::ptx {

// Types of registers and variables. What else stands where a type does (.tf32, .e4m3x2, ...) is a
// modifier of the instruction.
enum class Type : uint8_t {
  none,
  pred,
  b8,
  b16,
  b32,
  b64,
  b128,
  u8,
  u16,
  u32,
  u64,
  s8,
  s16,
  s32,
  s64,
  f16,
  f16x2,
  bf16,
  bf16x2,
  f32,
  f32x2,
  f64
};
int size_of(Type type);                              // bytes; 0 for none and pred
const char* name_of(Type type);
bool parse_type(std::string_view text, Type* type);  // "u32", without the dot

enum class Space : uint8_t { global, constant, shared, local, param };

// Special registers, %tid.x and so on; the list is closed: an unknown one does not parse.
enum class Special : uint8_t {
  tid_x,
  tid_y,
  tid_z,
  ntid_x,
  ntid_y,
  ntid_z,
  ctaid_x,
  ctaid_y,
  ctaid_z,
  nctaid_x,
  nctaid_y,
  nctaid_z,
  laneid,
  warpid,
  nwarpid,
  smid,
  nsmid,
  gridid,
  lanemask_eq,
  lanemask_le,
  lanemask_lt,
  lanemask_ge,
  lanemask_gt,
  clock,
  clock_hi,
  clock64,
  globaltimer,
  globaltimer_lo,
  globaltimer_hi,
  is_explicit_cluster,
  clusterid_x,
  clusterid_y,
  clusterid_z,
  nclusterid_x,
  nclusterid_y,
  nclusterid_z,
  cluster_ctaid_x,
  cluster_ctaid_y,
  cluster_ctaid_z,
  cluster_nctaid_x,
  cluster_nctaid_y,
  cluster_nctaid_z,
  cluster_ctarank,
  cluster_nctarank,
  total_smem_size,
  aggr_smem_size,
  dynamic_smem_size,
  current_graph_exec,
  envreg1,
  envreg2,  // high and low half of the address of the grid barrier of cooperative launches
  reserved_smem_offset_1,              // shared memory that the system keeps for cooperative groups
  warp_sz
};
const char* name_of(Special special);  // "%tid.x"; "WARP_SZ"
bool parse_special(std::string_view text, Special* special);

struct Source {                        // of .loc; file indexes Module::files, line 0 is unknown
  uint32_t file = 0, line = 0;
};

struct Operand {
  enum class Kind : uint8_t {
    reg,             // id: Function::registers; negated for !%p
    integer,         // value
    float32,         // value: the bits of 0f...
    float64,         // value: the bits of 0d...
    special,         // id: Special
    variable,        // id: its address: Module::variables, or Function::variables if local_scope
    parameter,       // id: Function::parameters, formal ones
    result,          // id: Function::results, formal ones
    function,        // id: Module::functions
    label,           // id: Function::labels
    branch_targets,  // id: Function::branch_targets, the last operand of brx.idx
    call_targets,    // id: Function::call_targets, the same of an indirect call
    prototype,       // id: Function::prototypes, the last operand of an indirect call
    sink,            // _
    address,         // [items[0] + value]; items[1..] are the further elements of TMA operands
    vector,          // {items...}
    pair,            // items[0]|items[1], a result and its predicate
    list,            // (items...), arguments and results of a call
  };
  Kind kind;
  bool negated = false;      // !%p
  bool local_scope = false;  // variable: of the function, not the module
  uint32_t id = 0;
  int64_t value = 0;         // integer; address, variable, parameter, result: offset in bytes
  std::vector<Operand> items;
};

struct Instruction {
  std::string opcode;            // "ld"
  std::vector<std::string>
      modifiers;                 // {"global", "v4", "f32"}: everything after it, at dots and ::
                                 // kept together ("shared::cta", "L2::128B")
  int32_t guard = -1;            // register of @%p, or -1
  bool guard_negated = false;
  std::vector<Operand> operands;
  uint32_t line = 0;             // of the PTX text
  Source source;

  std::string spelling() const;  // "ld.global.v4.f32"
};

struct Register {
  std::string name;  // "%r1"; unique in a function: inner scopes that redeclare a name get a suffix
  Type type;
};

struct Variable {
  std::string name;
  Space space;
  Type type;
  uint32_t align = 1;
  uint64_t bytes = 0;  // 0 for an extern array of no size: dynamic shared memory
  bool is_extern = false, is_visible = false, is_weak = false;  // weak: .common as well
  bool is_managed = false;
  uint32_t pointer_align = 0;                                   // of .ptr parameters, else 0
  std::vector<uint8_t> initial;                                 // empty: zeros
  struct Relocation {  // an address stored in the initial bytes, 8 wide
    uint64_t offset;
    std::string symbol;
    int64_t addend;
    bool is_generic;  // generic(symbol)
  };
  std::vector<Relocation> relocations;
  uint32_t line = 0;
};

struct Label {
  std::string name;
  uint32_t instruction;  // index in Function::body; may be its size
};

struct BranchTargets {   // .branchtargets of a brx.idx, under a label
  std::string name;
  std::vector<uint32_t> labels;
};

struct CallTargets {  // .calltargets of an indirect call, under a label
  std::string name;
  std::vector<uint32_t> functions;
};

struct CallPrototype {  // .callprototype of an indirect call, under a label
  std::string name;
  std::vector<Variable> results, parameters;
};

struct Function {
  std::string name;
  bool is_entry = false, is_declaration = false;
  bool is_extern = false, is_visible = false, is_weak = false, is_noreturn = false;
  std::vector<Variable> results, parameters;
  std::vector<Register> registers;
  std::vector<Variable> variables;  // .local, .shared, .param declared in the body
  std::vector<Instruction> body;
  std::vector<Label> labels;
  std::vector<BranchTargets> branch_targets;
  std::vector<CallTargets> call_targets;
  std::vector<CallPrototype> prototypes;
  // Performance and launch directives; 0 where absent.
  uint32_t maxntid[3] = {}, reqntid[3] = {}, reqnctapercluster[3] = {};
  uint32_t minnctapersm = 0, maxnreg = 0, maxclusterrank = 0;
  bool explicit_cluster = false;
  std::vector<std::string> pragmas;
  uint32_t line = 0;
};

struct Module {
  int version_major = 0, version_minor = 0;
  std::string target;                       // "sm_90a"
  std::vector<std::string> target_options;  // "debug", "texmode_independent"
  int address_size = 64;
  std::vector<std::string> files;           // of .file, by number; entry 0 is empty
  std::vector<Variable> variables;          // .global, .const, .shared at module scope
  std::vector<Function> functions;

  const Function* find(std::string_view name) const;
};

// What does not parse or decode: "<what> at PTX line <line>".
struct Error : std::runtime_error {
  Error(uint32_t line, const std::string& what)
      : std::runtime_error(what + " at PTX line " + std::to_string(line)), line(line) {}
  uint32_t line;
};

Module parse(std::string_view text);      // throws Error
std::string print(const Module& module);  // parse(print(m)) equals m but for line numbers

}  // namespace ptxsim::ptx
