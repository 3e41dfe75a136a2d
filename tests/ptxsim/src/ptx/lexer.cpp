// SPDX-License-Identifier: Apache-2.0
#include "ptx/lexer.h"

#include <array>
#include <charconv>
#include <cstring>

namespace ptxsim::ptx {

namespace {

constexpr uint8_t kNameStart = 1, kNamePart = 2, kWord = 4, kDigit = 8;

constexpr std::array<uint8_t, 256> kClass = [] {
  std::array<uint8_t, 256> table{};
  for (int c = 'a'; c <= 'z'; ++c) table[size_t(c)] = kNameStart | kNamePart | kWord;
  for (int c = 'A'; c <= 'Z'; ++c) table[size_t(c)] = kNameStart | kNamePart | kWord;
  for (int c = '0'; c <= '9'; ++c) table[size_t(c)] = kNamePart | kWord | kDigit;
  table['_'] = kNameStart | kNamePart | kWord;
  table['$'] = kNameStart | kNamePart;
  table['%'] = kNameStart;
  return table;
}();

bool is_class(char c, uint8_t classes) { return kClass[uint8_t(c)] & classes; }

}  // namespace

std::string Token::describe() const {
  switch (kind) {
    case Kind::end: return "the end of the text";
    case Kind::directive: return "'." + std::string(text) + "'";
    case Kind::string: return "\"" + std::string(text) + "\"";
    default: return "'" + std::string(text) + "'";
  }
}

Lexer::Lexer(std::string_view text) {
  while (!text.empty() && text.back() == '\0') text.remove_suffix(1);  // images end with them
  at_ = text.data();
  end_ = at_ + text.size();
  advance();
}

Token Lexer::take() {
  const Token token = next_;
  advance();
  return token;
}

bool Lexer::accept(char c) {
  if (!next_.is(c)) return false;
  advance();
  return true;
}

bool Lexer::accept_directive(std::string_view name) {
  if (!next_.is_directive(name)) return false;
  advance();
  return true;
}

void Lexer::expect(char c) {
  if (!accept(c)) fail_expected(std::string("'") + c + "'");
}

std::string_view Lexer::expect_identifier(const char* what) {
  if (next_.kind != Token::Kind::identifier) fail_expected(what);
  return take().text;
}

uint64_t Lexer::expect_unsigned(const char* what, uint64_t most) {
  if (next_.kind != Token::Kind::integer) fail_expected(what);
  if (next_.value > most) fail(std::string(what) + " is too large: " + std::string(next_.text));
  return take().value;
}

int64_t Lexer::expect_integer(const char* what) { return expect_integer(what, accept('-')); }

int64_t Lexer::expect_integer(const char* what, bool minus) {
  if (next_.kind != Token::Kind::integer) fail_expected(what);
  if (minus && next_.value > uint64_t(1) << 63)
    fail("-" + std::string(next_.text) + " does not fit 64 bits");
  const uint64_t bits = take().value;
  return int64_t(minus ? -bits : bits);
}

void Lexer::fail_expected(const std::string& what) const {
  fail("expected " + what + " but found " + next_.describe());
}

void Lexer::finish(Token::Kind kind, const char* begin, const char* end) {
  next_.kind = kind;
  next_.text = std::string_view(begin, size_t(end - begin));
}

void Lexer::skip_blanks() {
  while (at_ < end_) {
    const char c = *at_;
    if (c == '\n') {
      ++line_, ++at_;
    } else if (c == ' ' || c == '\t' || c == '\r') {
      ++at_;
    } else if (c == '/' && at_ + 1 < end_ && at_[1] == '/') {
      const void* found = memchr(at_, '\n', size_t(end_ - at_));
      at_ = found ? static_cast<const char*>(found) : end_;
    } else if (c == '/' && at_ + 1 < end_ && at_[1] == '*') {
      const uint32_t line = line_;
      for (at_ += 2;; ++at_) {
        if (end_ - at_ < 2) throw Error(line, "comment that does not end");
        if (*at_ == '\n') ++line_;
        if (at_[0] == '*' && at_[1] == '/') break;
      }
      at_ += 2;
    } else {
      return;
    }
  }
}

void Lexer::advance() {
  skip_blanks();
  next_.line = line_;
  if (at_ >= end_) return finish(Token::Kind::end, end_, end_);
  const char c = *at_;
  if (is_class(c, kNameStart)) return scan_name();
  if (is_class(c, kDigit)) return scan_number();
  if (c == '.') return scan_directive();
  if (c == '"') return scan_string();
  if (!strchr("{}()[]<>,;:+-!@|=", c) || c == '\0') {
    const bool printable = c > ' ' && c < 127;
    throw Error(line_, printable ? std::string("unexpected character '") + c + "'"
                                 : "unexpected character of code " + std::to_string(uint8_t(c)));
  }
  finish(Token::Kind::punctuation, at_, at_ + 1);
  ++at_;
}

void Lexer::scan_name() {
  const char* begin = at_++;
  while (at_ < end_ && is_class(*at_, kNamePart)) ++at_;
  if (at_ - begin == 1 && (*begin == '%' || *begin == '$'))
    throw Error(line_, std::string("'") + *begin + "' without a name");
  finish(Token::Kind::identifier, begin, at_);
}

void Lexer::scan_directive() {
  const char* begin = ++at_;
  for (;;) {
    const char* part = at_;
    while (at_ < end_ && is_class(*at_, kWord)) ++at_;
    if (at_ == part) throw Error(line_, "'.' or '::' without a name");
    if (end_ - at_ < 2 || at_[0] != ':' || at_[1] != ':') break;
    at_ += 2;
  }
  finish(Token::Kind::directive, begin, at_);
}

// Decimal, 0x, 0b and octal integers, all with or without U; 0f and 0d with the bits of a float;
// floats with a point or an exponent, which are of 64 bits.
void Lexer::scan_number() {
  const char* begin = at_;
  while (at_ < end_ && is_class(*at_, kWord)) ++at_;
  const std::string_view word(begin, size_t(at_ - begin));
  finish(Token::Kind::integer, begin, at_);

  const char letter = word.size() > 2 && word[0] == '0' ? char(word[1] | 0x20) : '\0';
  std::string_view digits = word;
  int base = 10;
  if (letter == 'f' || letter == 'd') {
    next_.kind = letter == 'f' ? Token::Kind::float32 : Token::Kind::float64;
    digits.remove_prefix(2);
    base = 16;
    if (digits.size() != (letter == 'f' ? 8u : 16u))
      throw Error(line_, "'" + std::string(word) + "' has the wrong number of digits");
  } else {
    if (letter == 'x' || letter == 'b') {
      digits.remove_prefix(2);
      base = letter == 'x' ? 16 : 2;
    } else {
      const size_t other = word.find_first_not_of("0123456789");
      const bool point =
          other == word.npos && end_ - at_ >= 2 && *at_ == '.' && is_class(at_[1], kDigit);
      if (point || (other != word.npos && (word[other] | 0x20) == 'e')) {
        at_ = begin;
        return scan_decimal_float();
      }
      if (word[0] == '0') base = 8;
    }
    if (digits.size() > 1 && digits.back() == 'U') digits.remove_suffix(1);
  }
  const char* last = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), last, next_.value, base);
  if (error == std::errc::result_out_of_range)
    throw Error(line_, "'" + std::string(word) + "' does not fit 64 bits");
  if (error != std::errc() || stop != last)
    throw Error(line_, "'" + std::string(word) + "' is no number");
}

void Lexer::scan_decimal_float() {
  const char* begin = at_;
  double value;
  const auto [stop, error] = std::from_chars(at_, end_, value);
  if (error != std::errc() || (stop < end_ && is_class(*stop, kWord)))
    throw Error(line_, "malformed or unrepresentable floating-point number");
  at_ = stop;
  finish(Token::Kind::float64, begin, stop);
  memcpy(&next_.value, &value, sizeof value);
}

void Lexer::scan_string() {
  const char* begin = ++at_;
  for (; at_ < end_ && *at_ != '"' && *at_ != '\n'; ++at_)
    if (*at_ == '\\' && at_ + 1 < end_ && at_[1] != '\n') ++at_;
  if (at_ >= end_ || *at_ != '"') throw Error(line_, "string that does not end");
  finish(Token::Kind::string, begin, at_);
  ++at_;
}

}  // namespace ptxsim::ptx
