// SPDX-License-Identifier: Apache-2.0
// JSON text, written field by field.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace ptxsim {

inline std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", unsigned(c));
      out += code;
    } else {
      out += c;
    }
  }
  return out + '"';
}

class JsonObject {
 public:
  JsonObject& add(const char* key, std::string_view text) { return raw(key, quoted(text)); }
  JsonObject& add(const char* key, const char* text) { return raw(key, quoted(text)); }
  JsonObject& add(const char* key, bool value) { return raw(key, value ? "true" : "false"); }
  JsonObject& add(const char* key, int value) { return raw(key, std::to_string(value)); }
  JsonObject& add(const char* key, uint32_t value) { return raw(key, std::to_string(value)); }
  JsonObject& add(const char* key, uint64_t value) { return raw(key, std::to_string(value)); }
  JsonObject& add(const char* key, double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.17g", value);
    return raw(key, text);
  }
  JsonObject& raw(const char* key, const std::string& json) {
    text_ += (text_.empty() ? "" : ", ") + quoted(key) + ": " + json;
    return *this;
  }
  std::string str() const { return "{" + text_ + "}"; }

 private:
  std::string text_;
};

class JsonArray {
 public:
  void add(const std::string& json) { text_ += (text_.empty() ? "" : ", ") + json; }
  std::string str() const { return "[" + text_ + "]"; }

 private:
  std::string text_;
};

}  // namespace ptxsim
