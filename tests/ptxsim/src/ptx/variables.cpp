// SPDX-License-Identifier: Apache-2.0
#include "ptx/variables.h"

#include <algorithm>
#include <cstring>

namespace ptxsim::ptx {

namespace {

bool is_float(Type type) {
  return type == Type::f16 || type == Type::bf16 || type == Type::f32 || type == Type::f64;
}

uint32_t parse_align(Lexer& lexer) {
  const Token& token = lexer.peek();
  const uint64_t align = token.kind == Token::Kind::integer ? token.value : 0;
  if (align == 0 || (align & (align - 1)) || align > 4096)
    lexer.fail_expected("an alignment, a power of two");
  lexer.take();
  return uint32_t(align);
}

// The initial bytes of one variable.
class Initializer {
 public:
  Initializer(Lexer& lexer, Variable& variable, std::vector<uint64_t> dims)
      : lexer_(lexer),
        variable_(variable),
        dims_(std::move(dims)),
        width_(uint64_t(size_of(variable.type))) {
    if (width_ > 8) lexer.fail("an initial value of 128 bits is not supported");
  }

  void parse() {
    variable_.initial.assign(variable_.bytes, 0);
    if (dims_.empty())
      element(0);
    else
      level(0, 0);
    if (mask_bytes_ != 0) lexer_.fail("an address of which not every byte is stored");
    auto& bytes = variable_.initial;
    const bool zeros = std::all_of(bytes.begin(), bytes.end(), [](uint8_t b) { return b == 0; });
    if (zeros && variable_.relocations.empty()) bytes.clear();
  }

 private:
  // One level of braces; rows that are short are filled with zeros.
  void level(size_t dim, uint64_t offset) {
    lexer_.expect('{');
    uint64_t stride = width_;
    for (size_t i = dim + 1; i < dims_.size(); ++i) stride *= dims_[i];
    const bool grows = dims_[dim] == 0;  // name[] = {...}
    for (uint64_t i = 0; !lexer_.peek().is('}'); ++i) {
      if (i > 0) lexer_.expect(',');
      if (grows)
        variable_.initial.resize(variable_.bytes += stride);
      else if (i == dims_[dim])
        lexer_.fail("more initial values than elements");
      if (dim + 1 < dims_.size())
        level(dim + 1, offset + i * stride);
      else
        element(offset + i * stride);
    }
    lexer_.expect('}');
  }

  void element(uint64_t offset) {
    const Token& token = lexer_.peek();
    if (token.kind == Token::Kind::identifier) return address(offset, 0);
    const bool minus = lexer_.accept('-');
    const uint32_t line = token.line;
    switch (token.kind) {
      case Token::Kind::integer: {
        const uint64_t value = lexer_.take().value;
        if (!minus && lexer_.peek().is('(')) return masked_address(offset, value);
        if (is_float(variable_.type))
          throw Error(line, "an integer as the initial value of a float");
        const uint64_t most = ~uint64_t(0) >> (64 - 8 * width_);
        if (value > (minus ? most / 2 + 1 : most))
          throw Error(line, "an initial value that does not fit its element");
        return store(offset, minus ? -value : value);
      }
      case Token::Kind::float32:
        if (width_ != 4) lexer_.fail("a 32-bit float as the initial value of another size");
        return store(offset, lexer_.take().value ^ uint64_t(minus) << 31);
      case Token::Kind::float64: {
        const uint64_t bits = lexer_.take().value ^ uint64_t(minus) << 63;
        if (width_ == 8) return store(offset, bits);
        if (variable_.type != Type::f32)
          throw Error(line, "a 64-bit float as the initial value of another size");
        double wide;
        memcpy(&wide, &bits, sizeof wide);
        const float narrow = float(wide);
        uint32_t narrow_bits;
        memcpy(&narrow_bits, &narrow, sizeof narrow);
        return store(offset, narrow_bits);
      }
      default: lexer_.fail_expected("an initial value");
    }
  }

  void store(uint64_t offset, uint64_t bits) {
    if (mask_bytes_ != 0) lexer_.fail("an address of which not every byte is stored");
    memcpy(&variable_.initial[offset], &bits, width_);
  }

  // symbol, generic(symbol), each with + or - a constant. Of a masked address only the first byte
  // makes the relocation, the other seven must agree with it.
  void address(uint64_t offset, int byte) {
    if (byte == 0 && width_ != 8 && mask_bytes_ == 0)
      lexer_.fail("an address in an element that is not 64 bits wide");
    Variable::Relocation made{offset, "", 0, false};
    made.symbol = lexer_.expect_identifier("a symbol");
    if (made.symbol == "generic" && lexer_.accept('(')) {
      made.symbol = lexer_.expect_identifier("a symbol");
      made.is_generic = true;
      lexer_.expect(')');
    }
    if (lexer_.accept('+'))
      made.addend = lexer_.expect_integer("an offset");
    else if (lexer_.peek().is('-'))
      made.addend = lexer_.expect_integer("an offset");
    if (byte == 0) {
      variable_.relocations.push_back(std::move(made));
      return;
    }
    const Variable::Relocation& first = variable_.relocations.back();
    if (made.symbol != first.symbol || made.addend != first.addend ||
        made.is_generic != first.is_generic || offset != first.offset + uint64_t(byte))
      lexer_.fail("the bytes of an address do not follow each other");
  }

  // 0xFF00(generic(symbol)+8): byte 1 of the address.
  void masked_address(uint64_t offset, uint64_t mask) {
    if (width_ != 1) lexer_.fail("a byte of an address in an element that is no byte");
    if (mask != uint64_t(0xff) << (8 * mask_bytes_))
      lexer_.fail("the bytes of an address do not follow each other");
    const int byte = mask_bytes_;
    mask_bytes_ = (mask_bytes_ + 1) % 8;
    lexer_.expect('(');
    address(offset, byte);
    lexer_.expect(')');
  }

  Lexer& lexer_;
  Variable& variable_;
  const std::vector<uint64_t> dims_;
  const uint64_t width_;
  int mask_bytes_ = 0;  // of the address that is being stored byte by byte
};

}  // namespace

bool parse_space(std::string_view directive, Space* space) {
  if (directive == "global")
    *space = Space::global;
  else if (directive == "const")
    *space = Space::constant;
  else if (directive == "shared")
    *space = Space::shared;
  else if (directive == "local")
    *space = Space::local;
  else if (directive == "param")
    *space = Space::param;
  else
    return false;
  return true;
}

VariableHead parse_variable_head(Lexer& lexer, Space space) {
  VariableHead head;
  Variable& v = head.variable;
  v.space = space;
  v.type = Type::none;
  uint32_t align = 0;
  while (lexer.peek().kind == Token::Kind::directive) {
    if (lexer.accept_directive("align")) {
      align = parse_align(lexer);
    } else if (lexer.accept_directive("attribute")) {
      // The other attribute, .unified, is for processes of several devices.
      lexer.expect('(');
      if (!lexer.accept_directive("managed")) lexer.fail_expected("'.managed'");
      lexer.expect(')');
      v.is_managed = true;
    } else if (lexer.accept_directive("v2")) {
      head.lanes = 2;
    } else if (lexer.accept_directive("v4")) {
      head.lanes = 4;
    } else if (v.type == Type::none) {
      if (!parse_type(lexer.peek().text, &v.type))
        lexer.fail("unknown type " + lexer.peek().describe());
      if (v.type == Type::pred) lexer.fail("a variable of type .pred");
      lexer.take();
    } else if (space == Space::param && lexer.accept_directive("ptr")) {
      // The state space says where the pointer leads; generic addresses do not need it.
      Space ignored;
      if (lexer.peek().kind == Token::Kind::directive && parse_space(lexer.peek().text, &ignored))
        lexer.take();
      v.pointer_align = lexer.accept_directive("align") ? parse_align(lexer) : 4;
    } else {
      lexer.fail_expected("a name");
    }
  }
  if (v.type == Type::none) lexer.fail_expected("a type");
  v.align = align ? align : uint32_t(uint64_t(size_of(v.type)) * head.lanes);
  return head;
}

Variable parse_declarator(Lexer& lexer, const VariableHead& head, std::string_view* name) {
  Variable v = head.variable;
  v.line = lexer.peek().line;
  *name = lexer.expect_identifier("the name of a variable");
  v.name = *name;

  std::vector<uint64_t> dims;
  bool is_open = false;  // name[]
  while (lexer.accept('[')) {
    if (dims.empty() && lexer.peek().is(']')) {
      is_open = true;
      dims.push_back(0);
    } else {
      dims.push_back(lexer.expect_unsigned("the size of an array", uint64_t(1) << 40));
      if (dims.back() == 0) lexer.fail("an array of no elements");
    }
    lexer.expect(']');
  }
  if (head.lanes > 1) dims.push_back(head.lanes);
  v.bytes = uint64_t(size_of(v.type));
  for (uint64_t dim : dims)
    if (__builtin_mul_overflow(v.bytes, dim, &v.bytes)) lexer.fail("an array that is too large");

  if (lexer.accept('=')) {
    if (v.space != Space::global && v.space != Space::constant)
      lexer.fail("an initial value in a state space that has none");
    if (v.is_extern) lexer.fail("an initial value of an .extern variable");
    Initializer(lexer, v, std::move(dims)).parse();
  } else if (is_open && !v.is_extern) {
    lexer.fail("an array without a size or initial values");
  }
  return v;
}

std::vector<Variable> parse_parameters(Lexer& lexer, std::vector<std::string_view>* names) {
  std::vector<Variable> parameters;
  if (!lexer.accept('(')) return parameters;
  while (!lexer.accept(')')) {
    if (!parameters.empty()) lexer.expect(',');
    if (!lexer.accept_directive("param")) lexer.fail_expected("'.param'");
    std::string_view name;
    parameters.push_back(parse_declarator(lexer, parse_variable_head(lexer, Space::param), &name));
    if (names) names->push_back(name);
  }
  return parameters;
}

}  // namespace ptxsim::ptx
