// SPDX-License-Identifier: Apache-2.0
// How tokens are grouped for products with per-expert weights, whatever the op.
// No std: per-ISA files include this.
#pragma once

#include <stdint.h>

namespace ww {

constexpr int kTokenUnit =
    32;  // tokens of one packed piece and one C block, a multiple of every panel
constexpr int kDotRows = 4;     // a group of at most this many tokens is not packed

struct Group {                  // non-empty, in ascending order of expert
  int64_t expert, begin, rows;  // sorted rows [begin, begin + rows)
  int64_t first_unit;           // of its packed tokens, or -1
  int64_t first_few;            // of its rows in GroupPlan::few, or -1
  __attribute__((always_inline)) bool packed() const { return first_unit >= 0; }
};

struct TokenUnit {      // at most kTokenUnit rows of one packed group
  int64_t begin, rows;  // sorted rows [begin, begin + rows)
};

struct GroupPlan {
  const Group* groups;
  int64_t num_groups;
  const TokenUnit* units;
  int64_t num_units;
  const int64_t* few;  // sorted rows of the groups that are not packed
  int64_t num_few;
};

}  // namespace ww
