// SPDX-License-Identifier: Apache-2.0
// The swizzle of shared memory that TMA writes and matrix descriptors read: units of 16 bytes
// within a span of 32, 64 or 128 bytes change places by the address bits above bit 6, so that a
// column of units lies in different banks.
#pragma once

#include <cstdint>

namespace ptxsim {

// Where the byte at `address` goes: bits 4 and up, as many as the span has units, XOR bits 7 and
// up. The repeating pattern, of 8 times the span, starts where (address >> 7) % 8 is `base_offset`.
constexpr uint32_t swizzle(uint32_t address, uint32_t span, uint32_t base_offset = 0) {
  if (span == 0) return address;
  const uint32_t units = span / 16;
  return address ^ (((address >> 7) - base_offset) & (units - 1)) << 4;
}

// With wider units of 32 or 64 bytes in the span of 128 (Blackwell's atoms): the unit's index XOR
// the bits from 7 on. With `flip8`, the halves of each 16 bytes change places too in odd 128-byte
// lines.
constexpr uint32_t swizzle_atoms(uint32_t address, uint32_t unit, bool flip8) {
  const uint32_t units = 128 / unit;
  address ^= ((address >> 7) & (units - 1)) * unit;
  if (flip8) address ^= ((address >> 7) & 1) << 3;
  return address;
}

}  // namespace ptxsim
