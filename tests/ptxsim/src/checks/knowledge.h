// SPDX-License-Identifier: Apache-2.0
// Vector clocks. A row is a warp, or the asynchronous operations that it started; it has 32 clocks,
// one a lane. Knowledge says for every row and lane up to which clock its accesses come before
// something.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace ptxsim {

using Clocks = std::array<uint32_t, 32>;

inline void raise(Clocks& to, const Clocks& from) {
  for (size_t l = 0; l < 32; ++l) to[l] = std::max(to[l], from[l]);
}

// Rows of the cluster lie in a vector from `base` on; of rows elsewhere only those that are known
// of.
struct Knowledge {
  uint32_t base = 0;
  std::vector<Clocks> near;
  std::map<uint32_t, Clocks> far;

  const Clocks* find(uint32_t row) const {
    if (row - base < near.size()) return &near[row - base];
    const auto found = far.find(row);
    return found == far.end() ? nullptr : &found->second;
  }
  Clocks& at(uint32_t row) { return row - base < near.size() ? near[row - base] : far[row]; }
  void join(const Knowledge& other) {
    if (other.base == base) {
      for (size_t i = 0; i < near.size(); ++i) raise(near[i], other.near[i]);
    } else {
      for (size_t i = 0; i < other.near.size(); ++i) {
        const Clocks& c = other.near[i];
        if (std::any_of(c.begin(), c.end(), [](uint32_t v) { return v != 0; }))
          raise(at(other.base + uint32_t(i)), c);
      }
    }
    for (const auto& [row, clocks] : other.far) raise(at(row), clocks);
  }
};

// What a thread knows. `fenced` is the part that the async proxy is sure to see: what was known at
// the last fence.proxy.async. Shared between lanes, and never changed once it is.
struct View { std::shared_ptr<const Knowledge> known, fenced; };

inline std::shared_ptr<const Knowledge> joined(const std::shared_ptr<const Knowledge>& a,
                                               const std::shared_ptr<const Knowledge>& b) {
  if (a == b || !b) return a;
  if (!a) return b;
  auto out = std::make_shared<Knowledge>(*a);
  out->join(*b);
  return out;
}
inline View joined(const View& a, const View& b) {
  return {joined(a.known, b.known), joined(a.fenced, b.fenced)};
}

}  // namespace ptxsim
