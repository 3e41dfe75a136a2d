// SPDX-License-Identifier: Apache-2.0
// The cards that can be simulated: the limits that launches are held to, and the datasheet peaks
// that the time bound divides by.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ptxsim {

struct Device {
  const char* name;       // "H100"
  const char* full_name;  // what cudaGetDeviceProperties says
  int major, minor;       // compute capability
  const char* arch;       // newest PTX target it runs: "sm_90a"
  int sms;
  int warps_per_sm, blocks_per_sm, threads_per_block;
  int registers_per_sm, registers_per_block;
  int shared_per_sm, shared_per_block, shared_per_block_optin, shared_reserved;  // bytes
  int max_cluster;  // blocks: portable 8, 16 with the non-portable attribute; 1: no clusters
  uint64_t memory_bytes, l2_bytes;
  double clock_ghz, dram_gb_per_s;
  double tensor_tflops_f16, tensor_tflops_bf16, tensor_tflops_fp8, tensor_tflops_fp4,
      tensor_tflops_tf32, tensor_tflops_fp64, tensor_tops_s8;  // dense; 0: none
  int issue_per_sm_clock;                                      // warp instructions
};

const std::vector<Device>& devices();
const Device& device(std::string_view name);  // throws std::invalid_argument listing the names

// How many blocks an SM holds at once; 0 if one alone is too large. `shared_bytes` static and
// dynamic.
int resident_blocks(const Device& device, uint64_t threads, int registers, uint64_t shared_bytes);

}  // namespace ptxsim
