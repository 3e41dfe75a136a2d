// SPDX-License-Identifier: Apache-2.0
// What one launch did. Definitions:
//
//   warp instructions  issued, by class: PTX, not machine code. One whose guard switched all lanes
//                      off counts, too; one that waits at a barrier counts once
//   sectors            32-byte pieces of global memory that a warp instruction touches; a TMA or
//                      bulk copy counts as one instruction
//   unique sectors     those that differ, in a block (what L2 has to deliver) and in the launch
//                      (what DRAM has to: with a perfect cache), loads apart from stores. An atomic
//                      is a store: its line comes back to DRAM
//   wavefronts         rounds of shared memory, which moves at most 128 bytes in each. Lanes form
//                      groups that ask for at most 128 bytes; a group takes as many rounds as the
//                      fullest bank has distinct 4-byte words; `minimal` would be one a group. What
//                      is above is bank conflicts
//     wgmma            an operand in shared memory is read once for the warpgroup, in core matrices
//                      of 8 rows of 16 bytes, each a group
//     TMA, bulk        whole 128-byte lines, for no conflict can arise in one
//     mbarriers        are not counted
//   tensor operations  multiplies and adds of the shape, 2 m n k
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "counters/sector_set.h"
#include "engine/instruction_class.h"
#include "engine/simulator.h"

namespace ptxsim {

struct Traffic {
  uint64_t bytes = 0;  // asked for by lanes, or copied
  uint64_t sectors = 0;
};

struct Wavefronts { uint64_t bytes = 0, actual = 0, minimal = 0; };

struct Atomics {
  uint64_t operations = 0;  // of lanes
  uint64_t collisions = 0;  // that follow another on the same address in one instruction
};

struct Counters {
  std::string kernel;  // as the linker knows it
  LaunchConfig config;
  std::shared_ptr<const KernelAttributes> attributes;
  uint64_t blocks = 0, shared_bytes = 0;

  uint64_t executed[size_t(InstructionClass::count)] = {};
  uint64_t predicated_off = 0;
  std::map<std::string, uint64_t> tensor_operations;  // by shape and types
  Traffic global_load, global_store, global_atomic, cp_async_load, bulk_load, bulk_store, tma_load,
      tma_store;
  Wavefronts shared_load, shared_store, shared_atomic, ldmatrix, stmatrix, cp_async, wgmma, bulk,
      tma;
  Atomics global_atomics, shared_atomics;
  uint64_t block_barriers = 0, cluster_barriers = 0, mbarrier_phases = 0;  // that completed
  SectorSet loaded, stored;                                                // of the launch
  uint64_t loaded_by_blocks = 0, stored_by_blocks = 0;  // each block's distinct ones, added up

  // What part of a launch did. Sums and unions: the parts may come in any order.
  void add(const Counters& part);
  void end_block(const SectorSet& block_loaded, const SectorSet& block_stored);

  uint64_t warp_instructions() const;
  uint64_t wavefronts() const;
  uint64_t dram_bytes() const { return 32 * (loaded.size() + stored.size()); }
};

// Seconds below which no schedule on this device can stay at the clock of its peaks, even if all
// SMs share the work evenly and all of it overlaps. A lower bound, not a prediction: latency,
// occupancy and whatever keeps a unit below its peak are left out, and machine code may have fewer
// instructions than PTX.
struct TimeBound {
  double dram = 0;    // unique sectors of the launch / bandwidth
  double tensor = 0;  // tensor operations / peak of their type
  double shared = 0;  // wavefronts / one an SM and clock
  double issue = 0;   // warp instructions / issue slots
  double bound() const;
  const char* limited_by() const;
};
TimeBound time_bound(const Counters& counters, const Device& device);

std::string counters_json(const Counters& counters, const Device& device);

}  // namespace ptxsim
