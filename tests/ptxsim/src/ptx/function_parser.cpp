// SPDX-License-Identifier: Apache-2.0
#include "ptx/function_parser.h"

#include <algorithm>

#include "ptx/variables.h"

namespace ptxsim::ptx {

// Registers of one .reg range: far more than any kernel has, so that a wrong count is found.
constexpr uint64_t kMaxRange = 1 << 20;

void parse_pragma(Lexer& lexer, std::vector<std::string>* pragmas) {
  // Of PTX ISA 9.0. All advise the code generator: none changes what a program computes.
  static constexpr std::string_view kKnown[] = {"nounroll", "used_bytes_mask",
                                                "enable_smem_spilling", "frequency"};
  do {
    if (lexer.peek().kind != Token::Kind::string) lexer.fail_expected("a string");
    const std::string_view text = lexer.peek().text;
    const std::string_view word = text.substr(0, text.find(' '));
    if (std::find(std::begin(kKnown), std::end(kKnown), word) == std::end(kKnown))
      lexer.fail("unknown pragma " + lexer.peek().describe());
    if (std::find(pragmas->begin(), pragmas->end(), text) == pragmas->end())
      pragmas->emplace_back(text);
    lexer.take();
  } while (lexer.accept(','));
  lexer.expect(';');
}

FunctionParser::FunctionParser(Lexer& lexer, const ModuleNames& module, LateUses& late,
                               Function& function)
    : lexer_(lexer), module_(module), late_(late), function_(function), names_(module) {}

void FunctionParser::declare_formals(const std::vector<std::string_view>& results,
                                     const std::vector<std::string_view>& parameters) {
  for (uint32_t i = 0; i < results.size(); ++i)
    names_.declare(results[i], {Symbol::Kind::result, 0, i, 0}, function_.line);
  for (uint32_t i = 0; i < parameters.size(); ++i)
    names_.declare(parameters[i], {Symbol::Kind::parameter, 0, i, 0}, function_.line);
}

// --- Scopes and what they declare ---

void FunctionParser::parse_body() {
  scope_starts_.push_back(0);
  parse_scope();
  resolve_from_module();
  apply_meanings();
}

void FunctionParser::parse_scope() {
  const uint32_t line = lexer_.peek().line;
  lexer_.expect('{');
  while (!lexer_.accept('}')) {
    if (lexer_.peek().kind == Token::Kind::end)
      lexer_.fail("the '{' of line " + std::to_string(line) + " is not closed");
    if (lexer_.peek().is('{')) {
      scope_starts_.push_back(open_.size());
      names_.open();
      parse_scope();
      names_.close();
    } else {
      parse_statement();
    }
  }
  close_names();
  scope_starts_.pop_back();
}

void FunctionParser::parse_statement() {
  switch (lexer_.peek().kind) {
    case Token::Kind::directive: return parse_directive();
    case Token::Kind::identifier: return parse_instruction();
    default:
      if (lexer_.peek().is('@')) return parse_instruction();
      if (lexer_.accept(';')) return;  // inline assembly often ends with one too many
      lexer_.fail_expected("a statement");
  }
}

void FunctionParser::parse_directive() {
  if (lexer_.accept_directive("loc")) return parse_location();
  if (lexer_.accept_directive("reg")) return parse_registers();
  if (lexer_.accept_directive("pragma")) return parse_pragma(lexer_, &function_.pragmas);
  Space space;
  if (!parse_space(lexer_.peek().text, &space))
    lexer_.fail("unknown directive " + lexer_.peek().describe());
  if (space == Space::global || space == Space::constant)
    lexer_.fail(lexer_.peek().describe() + " inside a function");
  lexer_.take();
  parse_variables(space);
}

// .loc file line column, function_name label + offset, inlined_at file line column
// The place itself is kept; the chain of callers that it was inlined into is not.
void FunctionParser::parse_location() {
  auto place = [&] {
    const uint32_t at = lexer_.peek().line;
    Source source;
    source.file = uint32_t(lexer_.expect_unsigned("a file number", 1 << 20));
    source.line = uint32_t(lexer_.expect_unsigned("a line number", UINT32_MAX));
    lexer_.expect_unsigned("a column", UINT32_MAX);
    late_.files.try_emplace(source.file, at);
    return source;
  };
  source_ = place();
  if (!lexer_.accept(',')) return;
  if (lexer_.expect_identifier("'function_name'") != "function_name")
    lexer_.fail("unknown attribute of .loc");
  const uint32_t line = lexer_.peek().line;
  late_.info_strings.try_emplace(lexer_.expect_identifier("the label of a function's name"), line);
  if (lexer_.accept('+')) lexer_.expect_unsigned("an offset", UINT32_MAX);
  lexer_.expect(',');
  if (lexer_.expect_identifier("'inlined_at'") != "inlined_at")
    lexer_.fail("unknown attribute of .loc");
  place();
}

// .reg .b32 %r<7>, %x; a vector register becomes that many scalar ones.
void FunctionParser::parse_registers() {
  uint8_t lanes = 1;
  if (lexer_.accept_directive("v2"))
    lanes = 2;
  else if (lexer_.accept_directive("v4"))
    lanes = 4;
  Type type = Type::none;
  if (lexer_.peek().kind != Token::Kind::directive) lexer_.fail_expected("a type");
  if (!parse_type(lexer_.peek().text, &type))
    lexer_.fail("unknown type " + lexer_.peek().describe());
  lexer_.take();
  do {
    const uint32_t line = lexer_.peek().line;
    const std::string_view name = lexer_.expect_identifier("the name of a register");
    if (!lexer_.accept('<')) {
      declare_registers(name, type, lanes, line);
      continue;
    }
    const uint64_t count = lexer_.expect_unsigned("a number of registers", kMaxRange);
    lexer_.expect('>');
    for (uint64_t i = 0; i < count; ++i)
      declare_registers(names_.keep(std::string(name) + std::to_string(i)), type, lanes, line);
  } while (lexer_.accept(','));
  lexer_.expect(';');
}

void FunctionParser::declare_registers(std::string_view name, Type type, uint8_t lanes,
                                       uint32_t line) {
  const uint32_t id = uint32_t(function_.registers.size());
  if (lanes == 1) {
    function_.registers.push_back(
        {names_.declare(name, {Symbol::Kind::reg, 0, id, 0}, line), type});
    return;
  }
  names_.declare(name, {Symbol::Kind::vector, lanes, id, 0}, line);
  for (int lane = 0; lane < lanes; ++lane) {
    const Symbol symbol{Symbol::Kind::reg, 0, id + uint32_t(lane), 0};
    const std::string_view part = names_.keep(std::string(name) + "$" + "xyzw"[lane]);
    function_.registers.push_back({names_.declare(part, symbol, line), type});
  }
}

void FunctionParser::parse_variables(Space space) {
  const VariableHead head = parse_variable_head(lexer_, space);
  do {
    std::string_view name;
    Variable v = parse_declarator(lexer_, head, &name);
    const uint32_t id = uint32_t(function_.variables.size());
    v.name = names_.declare(name, {Symbol::Kind::variable, 0, id, 0}, v.line);
    function_.variables.push_back(std::move(v));
  } while (lexer_.accept(','));
  lexer_.expect(';');
}

// --- Labels, and the tables that stand under one ---

void FunctionParser::parse_label(const Token& name) {
  if (lexer_.accept_directive("branchtargets")) return parse_branch_targets(name);
  if (lexer_.accept_directive("calltargets")) return parse_call_targets(name);
  if (lexer_.accept_directive("callprototype")) return parse_prototype(name);
  const Symbol symbol{Symbol::Kind::label, 0, uint32_t(function_.labels.size()), 0};
  function_.labels.push_back(
      {names_.declare(name.text, symbol, name.line), uint32_t(function_.body.size())});
}

void FunctionParser::parse_branch_targets(const Token& name) {
  const Symbol symbol{Symbol::Kind::branch_targets, 0, uint32_t(function_.branch_targets.size()),
                      0};
  BranchTargets table{names_.declare(name.text, symbol, name.line), {}};
  do {
    const uint32_t line = lexer_.peek().line;
    table.labels.push_back(open_name(lexer_.expect_identifier("a label"), line));
  } while (lexer_.accept(','));
  lexer_.expect(';');
  function_.branch_targets.push_back(std::move(table));
}

void FunctionParser::parse_call_targets(const Token& name) {
  const Symbol symbol{Symbol::Kind::call_targets, 0, uint32_t(function_.call_targets.size()), 0};
  CallTargets table{names_.declare(name.text, symbol, name.line), {}};
  do {
    const uint32_t line = lexer_.peek().line;
    const std::string_view target = lexer_.expect_identifier("a function");
    const auto found = module_.find(target);
    if (found == module_.end() || found->second.kind != Symbol::Kind::function)
      throw Error(line, "undeclared function '" + std::string(target) + "'");
    table.functions.push_back(found->second.id);
  } while (lexer_.accept(','));
  lexer_.expect(';');
  function_.call_targets.push_back(std::move(table));
}

// name: .callprototype (.param .b32 _) _ (.param .b64 _) .noreturn;
void FunctionParser::parse_prototype(const Token& name) {
  const Symbol symbol{Symbol::Kind::prototype, 0, uint32_t(function_.prototypes.size()), 0};
  CallPrototype prototype;
  prototype.name = names_.declare(name.text, symbol, name.line);
  prototype.results = parse_parameters(lexer_, nullptr);
  if (lexer_.expect_identifier("'_'") != "_") lexer_.fail("a prototype's function is called '_'");
  prototype.parameters = parse_parameters(lexer_, nullptr);
  lexer_.accept_directive(
      "noreturn");  // a promise to the compiler: what returns is undefined anyway
  lexer_.expect(';');
  function_.prototypes.push_back(std::move(prototype));
}

// --- Names that are used before it is known what they are ---

uint32_t FunctionParser::open_name(std::string_view name, uint32_t line) {
  const uint32_t index = uint32_t(meanings_.size());
  meanings_.emplace_back();
  open_.push_back({name, line, index});
  return index;
}

// A label hides the labels of that name of outer scopes even where it is used before it is
// declared, as ptxas has it; registers and variables count from their declaration on.
void FunctionParser::close_names() {
  size_t left = scope_starts_.back();
  for (size_t i = left; i < open_.size(); ++i) {
    const OpenName& use = open_[i];
    const Symbol* symbol = names_.find(use.name);
    if (!symbol || symbol->depth != names_.depth()) {
      open_[left++] = use;
      continue;
    }
    Meaning& meaning = meanings_[use.index];
    meaning.id = symbol->id;
    switch (symbol->kind) {
      case Symbol::Kind::label: meaning.kind = Operand::Kind::label; break;
      case Symbol::Kind::branch_targets: meaning.kind = Operand::Kind::branch_targets; break;
      case Symbol::Kind::call_targets: meaning.kind = Operand::Kind::call_targets; break;
      case Symbol::Kind::prototype: meaning.kind = Operand::Kind::prototype; break;
      default:
        throw Error(use.line, "'" + std::string(use.name) + "' is used before it is declared");
    }
  }
  open_.resize(left);
}

void FunctionParser::resolve_from_module() {
  for (const OpenName& use : open_) {
    const auto found = module_.find(use.name);
    if (found == module_.end())
      throw Error(use.line, (use.name[0] == '%' ? "undeclared register '" : "undeclared name '") +
                                std::string(use.name) + "'");
    Meaning& meaning = meanings_[use.index];
    meaning.id = found->second.id;
    meaning.kind = found->second.kind == Symbol::Kind::function ? Operand::Kind::function
                                                                : Operand::Kind::variable;
  }
}

void FunctionParser::apply_meanings() {
  for (BranchTargets& table : function_.branch_targets) {
    for (uint32_t& label : table.labels) {
      const Meaning& meaning = meanings_[label];
      if (meaning.kind != Operand::Kind::label)
        throw Error(function_.line, "'" + table.name + "' lists something that is no label");
      label = meaning.id;
    }
  }
  if (meanings_.empty()) return;
  for (Instruction& instruction : function_.body)
    for (Operand& operand : instruction.operands) apply_meaning(operand, instruction.line);
}

void FunctionParser::apply_meaning(Operand& operand, uint32_t line) {
  if (operand.kind == Operand::Kind::label) {  // all labels are open names until here
    const Meaning& meaning = meanings_[operand.id];
    operand.kind = meaning.kind;
    operand.id = meaning.id;
    if (operand.value != 0 && operand.kind != Operand::Kind::variable)
      throw Error(line, "an offset to something that is no variable");
    return;
  }
  for (Operand& item : operand.items) apply_meaning(item, line);
  if (operand.kind == Operand::Kind::address) {
    const Operand::Kind base = operand.items[0].kind;
    if (base != Operand::Kind::reg && base != Operand::Kind::integer &&
        base != Operand::Kind::variable && base != Operand::Kind::parameter &&
        base != Operand::Kind::result)
      throw Error(line, "an address of something that is no variable");
  }
}

}  // namespace ptxsim::ptx
