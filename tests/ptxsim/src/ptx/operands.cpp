// SPDX-License-Identifier: Apache-2.0
// Instructions and their operands.
#include "ptx/function_parser.h"

namespace ptxsim::ptx {

namespace {

Operand make(Operand::Kind kind, uint32_t id = 0, int64_t value = 0) {
  Operand operand{};
  operand.kind = kind;
  operand.id = id;
  operand.value = value;
  return operand;
}

}  // namespace

// A label as well: both begin with a name.
void FunctionParser::parse_instruction() {
  Instruction made;
  if (lexer_.accept('@')) {
    made.guard_negated = lexer_.accept('!');
    const uint32_t line = lexer_.peek().line;
    const std::string_view name = lexer_.expect_identifier("a predicate");
    const Symbol* symbol = names_.find(name);
    if (!symbol || symbol->kind != Symbol::Kind::reg)
      throw Error(line, "undeclared register '" + std::string(name) + "'");
    if (function_.registers[symbol->id].type != Type::pred)
      throw Error(line, "'" + std::string(name) + "' guards but is no predicate");
    made.guard = int32_t(symbol->id);
  }
  if (lexer_.peek().kind != Token::Kind::identifier) lexer_.fail_expected("an instruction");
  const Token name = lexer_.take();
  if (made.guard < 0 && lexer_.accept(':')) return parse_label(name);

  made.opcode = name.text;
  made.line = name.line;
  made.source = source_;
  while (lexer_.peek().kind == Token::Kind::directive)
    made.modifiers.emplace_back(lexer_.take().text);
  if (!lexer_.accept(';')) {
    do made.operands.push_back(parse_operand());
    while (lexer_.accept(','));
    lexer_.expect(';');
  }
  function_.body.push_back(std::move(made));
}

Operand FunctionParser::parse_operand() {
  Operand first = parse_simple_operand();
  if (!lexer_.accept('|')) return first;
  Operand pair = make(Operand::Kind::pair);
  pair.items.push_back(std::move(first));
  pair.items.push_back(parse_simple_operand());
  for (const Operand& item : pair.items)
    if ((item.kind != Operand::Kind::reg || item.negated) && item.kind != Operand::Kind::sink)
      lexer_.fail("a pair of something else than registers");
  return pair;
}

Operand FunctionParser::parse_simple_operand() {
  const Token& token = lexer_.peek();
  switch (token.kind) {
    case Token::Kind::identifier: return parse_name();
    case Token::Kind::integer:
    case Token::Kind::float32:
    case Token::Kind::float64: return parse_number();
    case Token::Kind::punctuation: break;
    default: lexer_.fail_expected("an operand");
  }
  if (token.is('-')) return parse_number();
  if (token.is('[')) return parse_address();
  if (lexer_.accept('{')) return parse_group(Operand::Kind::vector, '}');
  if (lexer_.accept('(')) return parse_group(Operand::Kind::list, ')');
  if (!lexer_.accept('!')) lexer_.fail_expected("an operand");
  if (lexer_.peek().kind != Token::Kind::identifier) lexer_.fail_expected("a predicate");
  Operand operand = parse_name();
  if (operand.kind != Operand::Kind::reg || function_.registers[operand.id].type != Type::pred)
    lexer_.fail("'!' before something that is no predicate");
  operand.negated = true;
  return operand;
}

Operand FunctionParser::parse_number() {
  const bool minus = lexer_.accept('-');
  switch (lexer_.peek().kind) {
    case Token::Kind::float32:
      return make(Operand::Kind::float32, 0, int64_t(lexer_.take().value ^ uint64_t(minus) << 31));
    case Token::Kind::float64:
      return make(Operand::Kind::float64, 0, int64_t(lexer_.take().value ^ uint64_t(minus) << 63));
    default: return make(Operand::Kind::integer, 0, lexer_.expect_integer("a number", minus));
  }
}

Operand FunctionParser::parse_name() {
  const Token name = lexer_.take();
  if (name.text == "_") return make(Operand::Kind::sink);
  const Symbol* symbol = names_.find(name.text);
  Operand operand{};
  if (!symbol) {
    Special special;
    if (lexer_.peek().kind == Token::Kind::directive) return parse_special(name);
    if (ptx::parse_special(name.text, &special))
      return make(Operand::Kind::special, uint32_t(special));
    operand = make(Operand::Kind::label, open_name(name.text, name.line));
  } else {
    switch (symbol->kind) {
      case Symbol::Kind::reg: return make(Operand::Kind::reg, symbol->id);
      case Symbol::Kind::vector: return parse_vector_element(name.text, *symbol);
      case Symbol::Kind::variable:
        operand = make(Operand::Kind::variable, symbol->id);
        operand.local_scope = true;
        break;
      case Symbol::Kind::parameter: operand = make(Operand::Kind::parameter, symbol->id); break;
      case Symbol::Kind::result: operand = make(Operand::Kind::result, symbol->id); break;
      default: operand = make(Operand::Kind::label, open_name(name.text, name.line));
    }
  }
  operand.value = parse_offset();
  return operand;
}

// v.x, or all of v.
Operand FunctionParser::parse_vector_element(std::string_view name, const Symbol& symbol) {
  if (lexer_.peek().kind == Token::Kind::directive) {
    const std::string_view text = lexer_.peek().text;
    const size_t at = std::string_view("xyzwrgba").find(text);
    if (text.size() != 1 || at == std::string_view::npos || at % 4 >= symbol.lanes)
      lexer_.fail("'" + std::string(name) + "' has no element " + lexer_.peek().describe());
    lexer_.take();
    return make(Operand::Kind::reg, symbol.id + uint32_t(at % 4));
  }
  Operand vector = make(Operand::Kind::vector);
  for (uint32_t lane = 0; lane < symbol.lanes; ++lane)
    vector.items.push_back(make(Operand::Kind::reg, symbol.id + lane));
  return vector;
}

// %tid.x: two tokens.
Operand FunctionParser::parse_special(const Token& name) {
  const std::string full = std::string(name.text) + "." + std::string(lexer_.take().text);
  Special special;
  if (!ptx::parse_special(full, &special))
    throw Error(
        name.line,
        (name.text[0] == '%' ? "unknown special register '" : "undeclared name '") + full + "'");
  return make(Operand::Kind::special, uint32_t(special));
}

// Any number of "+ 4", "- 4" and "+-4".
int64_t FunctionParser::parse_offset() {
  uint64_t offset = 0;
  while (lexer_.accept('+') || lexer_.peek().is('-'))
    offset += uint64_t(lexer_.expect_integer("an offset"));
  return int64_t(offset);
}

// [base + offset], and for tensors [base, {coordinates}] and the like.
Operand FunctionParser::parse_address() {
  const uint32_t line = lexer_.peek().line;
  lexer_.expect('[');
  Operand address = make(Operand::Kind::address);
  Operand base = parse_simple_operand();
  if (base.kind == Operand::Kind::integer) {
    base.value = int64_t(uint64_t(base.value) + uint64_t(parse_offset()));
  } else if (base.kind == Operand::Kind::reg && !base.negated) {
    address.value = parse_offset();
  } else if (base.kind == Operand::Kind::label || base.kind == Operand::Kind::variable ||
             base.kind == Operand::Kind::parameter || base.kind == Operand::Kind::result) {
    address.value = base.value;  // a name's own offset
    base.value = 0;
  } else {
    throw Error(line, "an address of something that is no variable");
  }
  address.items.push_back(std::move(base));
  while (lexer_.accept(',')) address.items.push_back(parse_simple_operand());
  lexer_.expect(']');
  return address;
}

Operand FunctionParser::parse_group(Operand::Kind kind, char close) {
  Operand group = make(kind);
  while (!lexer_.accept(close)) {
    if (!group.items.empty()) lexer_.expect(',');
    group.items.push_back(parse_simple_operand());
  }
  return group;
}

}  // namespace ptxsim::ptx
