// SPDX-License-Identifier: Apache-2.0
// Operand forms that several files of memory instructions share.
#pragma once

#include "engine/memory.h"

namespace ptxsim {

struct AddressForm {
  SpaceKind space = SpaceKind::generic;
  uint32_t slot = Op::kNone;  // of the base register; none: `offset` is the address
  bool is_wide = true;        // a 64-bit register
  int64_t offset = 0;
};
AddressForm decode_address(Decode& d, const ptx::Operand& operand, SpaceKind space);
void read_addresses(const Warp& w, const AddressForm& form, uint64_t* out);

// What a memory instruction says of its order: PTX ISA 8, memory consistency model.
struct Order {
  enum class Scope : uint8_t { cta, cluster, gpu, sys } scope = Scope::cta;
  bool is_strong = false, acquires = false, releases = false;
};
Order take_order(Decode& d);
SpaceKind take_space(Decode& d);

}  // namespace ptxsim
