// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/slots.h"

#include <algorithm>
#include <vector>

#include "core/check.h"

namespace ww {

void check_slots(const char* op, const char* name, const int32_t* indices, int64_t n,
                 int64_t slots) {
  for (int64_t i = 0; i < n; ++i)
    WW_CHECK(indices[i] < slots, op, ": '", name, "' holds ", indices[i], " at position ", i,
             "; supported: below the ", slots, " slots, or negative for padding");
  std::vector<int32_t> used;
  std::copy_if(indices, indices + n, std::back_inserter(used), [](int32_t i) { return i >= 0; });
  std::sort(used.begin(), used.end());
  const auto twice = std::adjacent_find(used.begin(), used.end());
  WW_CHECK(twice == used.end(), op, ": '", name, "' holds ", *twice,
           " twice; supported: every slot at most once");
}

}  // namespace ww
