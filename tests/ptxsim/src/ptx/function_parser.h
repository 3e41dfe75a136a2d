// SPDX-License-Identifier: Apache-2.0
// The body of one function.
#pragma once

#include <string_view>
#include <unordered_map>
#include <vector>

#include "ptx/lexer.h"
#include "ptx/names.h"

namespace ptxsim::ptx {

// Uses of what a module may declare after the function: checked when all of it has been read. Each
// maps to the line of its first use.
struct LateUses {
  std::unordered_map<uint32_t, uint32_t> files;                 // of .loc
  std::unordered_map<std::string_view, uint32_t> info_strings;  // .loc's function_name
};

// .pragma "...", "...";
void parse_pragma(Lexer& lexer, std::vector<std::string>* pragmas);

class FunctionParser {
 public:
  // The names are those of the formal parameters and results, in order.
  FunctionParser(Lexer& lexer, const ModuleNames& module, LateUses& late, Function& function);
  void declare_formals(const std::vector<std::string_view>& results,
                       const std::vector<std::string_view>& parameters);
  void parse_body();  // from '{' to '}'

 private:
  // A name that nothing in an open scope declares yet: a label further on, or else the module's.
  struct OpenName {
    std::string_view name;
    uint32_t line;
    uint32_t index;  // in meanings_
  };
  struct Meaning {
    Operand::Kind kind = Operand::Kind::label;
    bool local_scope = false;
    uint32_t id = 0;
  };

  void parse_scope();
  void parse_statement();
  void parse_directive();
  void parse_location();
  void parse_registers();
  void declare_registers(std::string_view name, Type type, uint8_t lanes, uint32_t line);
  void parse_variables(Space space);
  void parse_label(const Token& name);
  void parse_branch_targets(const Token& name);
  void parse_call_targets(const Token& name);
  void parse_prototype(const Token& name);
  void parse_instruction();

  Operand parse_operand();
  Operand parse_simple_operand();
  Operand parse_number();
  Operand parse_name();
  Operand parse_vector_element(std::string_view name, const Symbol& symbol);
  Operand parse_special(const Token& name);
  Operand parse_address();
  Operand parse_group(Operand::Kind kind, char close);
  int64_t parse_offset();

  uint32_t open_name(std::string_view name, uint32_t line);
  void close_names();          // at the end of a scope: labels that it declares
  void resolve_from_module();  // at the end of the body: the rest
  void apply_meanings();
  void apply_meaning(Operand& operand, uint32_t line);

  Lexer& lexer_;
  const ModuleNames& module_;
  LateUses& late_;
  Function& function_;
  Names names_;
  Source source_;
  std::vector<OpenName> open_;
  std::vector<size_t> scope_starts_;  // in open_
  std::vector<Meaning> meanings_;
};

}  // namespace ptxsim::ptx
