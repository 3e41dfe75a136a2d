// SPDX-License-Identifier: Apache-2.0
#include "engine/kernel_name.h"

#include <cxxabi.h>

#include <cctype>
#include <cstdlib>
#include <memory>

namespace ptxsim {
namespace {

constexpr size_t kLong = 100;

// Where the bracket that the last character closes was opened.
size_t opening(const std::string& text, char open, char close) {
  int depth = 0;
  for (size_t i = text.size(); i-- > 0;) {
    if (text[i] == close) ++depth;
    if (text[i] == open && --depth == 0) return i;
  }
  return std::string::npos;
}

// The names in front of the template arguments: nvcc writes some arguments (enumerators that it
// abbreviates) in a way that no demangler reads.
std::string outer_name(const std::string& mangled) {
  std::string name;
  size_t at = mangled.starts_with("_ZN") ? 3 : 2;
  while (at < mangled.size() && std::isdigit(static_cast<unsigned char>(mangled[at]))) {
    char* end;
    const size_t length = std::strtoul(&mangled[at], &end, 10);
    at = size_t(end - mangled.data());
    if (length > mangled.size() - at) return mangled;
    name += (name.empty() ? "" : "::") + mangled.substr(at, length);
    at += length;
  }
  return name.empty() ? mangled : name + (mangled[at] == 'I' ? "<...>" : "");
}

}  // namespace

std::string readable_name(const std::string& mangled) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status), std::free);
  if (!text) return mangled.starts_with("_Z") ? outer_name(mangled) : mangled;
  std::string name = text.get();
  constexpr std::string_view kUnnamed = "(anonymous namespace)::";
  for (size_t at; (at = name.find(kUnnamed)) != std::string::npos;) name.erase(at, kUnnamed.size());
  if (name.ends_with(')'))
    if (const size_t at = opening(name, '(', ')'); at != std::string::npos) name.erase(at);
  if (name.starts_with("void ")) name.erase(0, 5);
  if (name.size() > kLong && name.ends_with('>'))
    if (const size_t at = opening(name, '<', '>'); at != std::string::npos)
      name.replace(at, std::string::npos, "<...>");
  return name;
}

}  // namespace ptxsim
