// SPDX-License-Identifier: Apache-2.0
// A run of tokens that one recurrence or convolution walks through. No std: per-ISA files include
// this.
#pragma once

#include <stdint.h>

namespace ww {

struct Segment {
  int64_t batch, begin, end;  // tokens [begin, end) of row `batch`
  int64_t initial;            // row of the initial states, or -1: starts from zero
  int64_t final;              // row of the final states that this run ends, or -1
  bool padding;               // its seq_idx is negative
};

}  // namespace ww
