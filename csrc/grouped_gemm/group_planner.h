// SPDX-License-Identifier: Apache-2.0
// Builds a GroupPlan on the host.
#pragma once

#include <algorithm>
#include <vector>

#include "grouped_gemm/group_plan.h"

namespace ww {

class GroupPlanner {
 public:
  void add(int64_t expert, int64_t begin, int64_t rows) {
    if (rows == 0) return;
    const bool packed = rows > kDotRows;
    groups_.push_back({expert, begin, rows, packed ? int64_t(units_.size()) : -1,
                       packed ? -1 : int64_t(few_.size())});
    for (int64_t i = 0; !packed && i < rows; ++i) few_.push_back(begin + i);
    for (int64_t i = 0; packed && i < rows; i += kTokenUnit)
      units_.push_back({begin + i, std::min<int64_t>(kTokenUnit, rows - i)});
  }
  GroupPlan plan() const {
    return {groups_.data(), int64_t(groups_.size()), units_.data(), int64_t(units_.size()),
            few_.data(),    int64_t(few_.size())};
  }

 private:
  std::vector<Group> groups_;
  std::vector<TokenUnit> units_;
  std::vector<int64_t> few_;
};

}  // namespace ww
