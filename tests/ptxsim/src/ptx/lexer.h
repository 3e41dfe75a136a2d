// SPDX-License-Identifier: Apache-2.0
// PTX text as tokens with their lines. Tokens are views of the text, which must outlive them.
#pragma once

#include <string>
#include <string_view>

#include "ptx/ir.h"

namespace ptxsim::ptx {

struct Token {
  enum class Kind : uint8_t {
    end,
    identifier,   // add, %r1, $L__BB0_2, _
    directive,    // .reg, .f32, .16x64b, .shared::cta: text is what follows the dot
    integer,      // value
    float32,      // 0f3F800000; value: the bits
    float64,      // 0d3FF0000000000000 or 1.5; value: the bits
    string,       // text is what is between the quotes, escapes as they are
    punctuation,  // one character
  };
  Kind kind = Kind::end;
  std::string_view text;
  uint64_t value = 0;
  uint32_t line = 1;

  bool is(char c) const { return kind == Kind::punctuation && text[0] == c; }
  bool is_directive(std::string_view name) const { return kind == Kind::directive && text == name; }
  std::string describe() const;  // for messages: "'add'", "the end of the text"
};

class Lexer {
 public:
  explicit Lexer(std::string_view text);

  const Token& peek() const { return next_; }
  Token take();

  bool accept(char c);
  bool accept_directive(std::string_view name);
  // These fail with what was expected and what is there.
  void expect(char c);
  std::string_view expect_identifier(const char* what);
  uint64_t expect_unsigned(const char* what, uint64_t most);
  int64_t expect_integer(const char* what);  // a minus sign may precede it; from 2^63 on it wraps
  int64_t expect_integer(const char* what, bool minus);  // the sign is already taken
  [[noreturn]] void fail_expected(const std::string& what) const;
  [[noreturn]] void fail(const std::string& what) const { throw Error(next_.line, what); }

 private:
  void advance();
  void skip_blanks();
  void scan_name();
  void scan_directive();
  void scan_number();
  void scan_decimal_float();
  void scan_string();
  void finish(Token::Kind kind, const char* begin, const char* end);

  const char* at_;
  const char* end_;
  uint32_t line_ = 1;
  Token next_;
};

}  // namespace ptxsim::ptx
