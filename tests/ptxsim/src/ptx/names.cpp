// SPDX-License-Identifier: Apache-2.0
#include "ptx/names.h"

namespace ptxsim::ptx {

void Names::close() {
  for (; !hidden_.empty() && hidden_.back().depth == depth_; hidden_.pop_back())
    hidden_.back().entry->symbol = hidden_.back().symbol;
  --depth_;
}

std::string Names::declare(std::string_view name, Symbol symbol, uint32_t line) {
  const auto [at, is_new] = table_.try_emplace(name);
  Entry& entry = at->second;
  if (entry.symbol.kind != Symbol::Kind::none && entry.symbol.depth == depth_)
    throw Error(line, "'" + std::string(name) + "' is declared twice");
  hidden_.push_back({&entry, entry.symbol, depth_});
  symbol.depth = depth_;
  entry.symbol = symbol;

  // A name of an inner scope that a printed body would put before the module's of the same name.
  const bool hides_module = depth_ > 0 && module_.count(name) > 0;
  if (is_new && !hides_module) return std::string(name);
  for (;;) {
    std::string unique = std::string(name) + "$" + std::to_string(++entry.copies);
    if (table_.count(unique) || module_.count(unique)) continue;
    table_.try_emplace(keep(unique));
    return unique;
  }
}

const Symbol* Names::find(std::string_view name) const {
  const auto found = table_.find(name);
  if (found == table_.end() || found->second.symbol.kind == Symbol::Kind::none) return nullptr;
  return &found->second.symbol;
}

}  // namespace ptxsim::ptx
