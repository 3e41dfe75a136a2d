// SPDX-License-Identifier: Apache-2.0
// What one launch did. Definitions:
//
//   warp instructions  issued by class; one whose guard switched all lanes off counts, too
//   sectors            32-byte pieces of global memory that a warp instruction touches; unique ones
//                      are counted once a block, and once a launch: traffic with a perfect cache of
//                      that reach
//   wavefronts         rounds of shared memory: lanes in groups that ask for at most 128 bytes, a
//                      group taking as many as the fullest bank has distinct 4-byte words; minimal:
//                      one a group
//   tensor operations  multiplies and adds of the shape, in 2 m n k
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_set>

#include "engine/instruction_class.h"
#include "engine/simulator.h"

namespace ptxsim {

struct Traffic {
  uint64_t bytes = 0;  // asked for by lanes
  uint64_t sectors = 0, sectors_block = 0, sectors_launch = 0;
};

struct Wavefronts { uint64_t bytes = 0, actual = 0, minimal = 0; };

struct Counters {
  std::string kernel;
  LaunchConfig config;
  uint64_t executed[size_t(InstructionClass::count)] = {};
  uint64_t predicated_off = 0;
  Traffic global_load, global_store, global_atomic;
  Wavefronts shared_load, shared_store, ldmatrix, stmatrix, cp_async;
  uint64_t tma_load_bytes = 0, tma_store_bytes = 0, bulk_bytes = 0;
  std::map<std::string, uint64_t> tensor_operations;  // by shape and types
  uint64_t blocks = 0, barriers = 0;
  KernelAttributes attributes;
  uint64_t shared_bytes = 0;
  int blocks_per_sm = 0;

  uint64_t warp_instructions() const;
};

// Distinct sectors, by block and by launch, behind Traffic.
class SectorSets {
 public:
  void next_block() { block_.clear(); }
  void touch(uint64_t sector, Traffic& traffic, bool is_store);

 private:
  std::unordered_set<uint64_t> block_, launch_;
};

struct TimeBound {  // seconds; the largest is the bound
  double dram = 0, tensor = 0, shared = 0, issue = 0;
  double bound() const;
  const char* limited_by() const;
};
TimeBound time_bound(const Counters& counters, const Device& device);

std::string counters_json(const Counters& counters, const Device& device);

}  // namespace ptxsim
