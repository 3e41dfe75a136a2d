// SPDX-License-Identifier: Apache-2.0
// The slot indices of ops that update states in place, in host memory.
#pragma once

#include <stdint.h>

namespace ww {

// Throws ww::Error unless every index is below `slots` and no index >= 0 is there twice: two rows
// would race for one state. Negative indices are padding.
void check_slots(const char* op, const char* name, const int32_t* indices, int64_t n,
                 int64_t slots);

}  // namespace ww
