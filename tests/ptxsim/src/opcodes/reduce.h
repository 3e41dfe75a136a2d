// SPDX-License-Identifier: Apache-2.0
// Reductions that copies do where they arrive.
#pragma once

#include "engine/decode.h"
#include "tensor/tensormap.h"

namespace ptxsim {

enum class Reduce : uint8_t { add, min, max, inc, dec, and_, or_, xor_, none };
Reduce take_reduction(Decode& d);
// One element in memory, *to = *to `what` *from.
void reduce_element(Reduce what, TensorType type, uint8_t* to, const uint8_t* from);

}  // namespace ptxsim
