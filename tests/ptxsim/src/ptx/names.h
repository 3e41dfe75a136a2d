// SPDX-License-Identifier: Apache-2.0
// What names mean: at module scope, and in the nested scopes of a function body.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ptx/ir.h"

namespace ptxsim::ptx {

struct Symbol {
  enum class Kind : uint8_t {
    none,  // the name is taken, but not visible here
    reg,
    vector,
    variable,
    parameter,
    result,
    label,
    branch_targets,
    call_targets,
    prototype,
    function
  };
  Kind kind = Kind::none;
  uint8_t lanes = 0;   // of a vector; its registers are id, id + 1, ...
  uint32_t id = 0;
  uint32_t depth = 0;  // of the scope that declares it
};

using ModuleNames = std::unordered_map<std::string_view, Symbol>;

// One function's names. Every declaration gets a name that no other has, since a printed body has
// one scope: the first of a kind keeps its name, the others get a suffix.
class Names {
 public:
  explicit Names(const ModuleNames& module) : module_(module) {}

  void open() { ++depth_; }
  void close();
  uint32_t depth() const { return depth_; }

  // `name` must outlive this. Throws if the innermost scope has it already.
  std::string declare(std::string_view name, Symbol symbol, uint32_t line);
  // For names that are made here, as those of a range of registers.
  std::string_view keep(std::string name) { return kept_.emplace_back(std::move(name)); }
  // What the name means in the innermost scope that declares it, so far; null if none does.
  const Symbol* find(std::string_view name) const;

 private:
  struct Entry {
    Symbol symbol;
    uint32_t copies = 0;  // suffixes given to this name so far
  };
  struct Hidden {
    Entry* entry;
    Symbol symbol;
    uint32_t depth;  // of the scope that hides it
  };
  const ModuleNames& module_;
  std::unordered_map<std::string_view, Entry> table_;
  std::vector<Hidden> hidden_;
  std::deque<std::string> kept_;
  uint32_t depth_ = 0;
};

}  // namespace ptxsim::ptx
