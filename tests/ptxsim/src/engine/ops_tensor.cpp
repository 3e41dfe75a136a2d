// SPDX-License-Identifier: Apache-2.0
// Tensor cores: mma, wgmma, ldmatrix and their kin, whose arithmetic is in tensor/.
#include "engine/lanes.h"

namespace ptxsim {

void decode_bulk_tensor(Decode& d) { d.fail("is not supported"); }
void decode_tensor_prefetch(Decode& d) { d.fail("is not supported"); }

std::initializer_list<DecodeEntry> tensor_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {};
  return all;
}

}  // namespace ptxsim
