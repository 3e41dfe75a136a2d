// SPDX-License-Identifier: Apache-2.0
// Loads, stores and whatever else reaches memory, with its checks: every access of generic code
// goes through here, and the asynchronous ones by way of block- or global-level ranges.
#pragma once

#include <string>

#include "engine/launch.h"

namespace ptxsim {

enum class SpaceKind : uint8_t {
  generic,
  global,
  shared,
  local,
  param_kernel,
  param_local,
  constant
};

// An access of a warp instruction: what each lane of w.mask touches.
struct Access {
  enum class Kind : uint8_t { read, write, atomic };
  Kind kind = Kind::read;
  bool is_strong = false;  // volatile, relaxed or stronger, atomic: does not race with its like
  uint8_t bytes = 0;       // a lane: 1 to 32
  uint32_t* unwritten =
      nullptr;             // takes the lanes that read what nothing wrote; null: their results
                           // are such values
  Wavefronts* wavefronts = nullptr;  // where to count those of shared memory; null: loads or stores
};

// Where one lane's bytes are; throws Fault if it may not touch them. `shared_block` and
// `shared_offset` are set if it is shared memory.
struct Place {
  uint8_t* data = nullptr;
  Block* shared_block = nullptr;
  uint32_t shared_offset = 0;
  Allocation* allocation = nullptr;
};
Place locate(Warp& w, const Op& op, SpaceKind space, int lane, uint64_t address, uint32_t bytes,
             Access::Kind kind);

// The whole warp at once: resolves, checks bounds, alignment, unwritten reads and races, counts
// traffic. Fills `places` for the lanes of w.mask.
void access_memory(Warp& w, const Op& op, SpaceKind space, const uint64_t* addresses,
                   const Access& access, Place* places);

// A checked range for asynchronous copies, on behalf of the thread that started them.
uint8_t* shared_range(Warp& w, const Op& op, int lane, uint32_t address, uint32_t bytes,
                      Access::Kind kind, Block** block, uint32_t* offset);
bool is_written(const Place& place, uint32_t bytes);  // local memory and parameters: always
bool shared_written(const Block& block, uint32_t offset, uint32_t bytes);
void mark_shared(Block& block, uint32_t offset, uint32_t bytes, bool written);

Block& shared_block(Warp& w, const Op& op, int lane,
                    uint32_t address);  // of a 32-bit shared address
inline uint32_t shared_offset(uint32_t address) { return address & ((1u << kBlockShift) - 1); }

std::string read_string(Warp& w, const Op& op, int lane, uint64_t generic_address);
std::string format_print(Warp& w, const Op& op, int lane, uint64_t format, uint64_t arguments);

}  // namespace ptxsim
