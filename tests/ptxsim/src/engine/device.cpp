// SPDX-License-Identifier: Apache-2.0
#include "engine/device.h"

#include <algorithm>
#include <cctype>
#include <stdexcept>

namespace ptxsim {
namespace {

constexpr uint64_t kMiB = uint64_t(1) << 20, kGiB = uint64_t(1) << 30;

// Limits per compute capability: CUDA C++ Programming Guide, "Technical Specifications per Compute
// Capability". Peaks are dense. Where a card halves its rate for float32 sums, tensor_tflops_f16 is
// that of float16 ones, and fp8 and int8 stand at the faster form, so that a time divided by them
// stays a lower bound; fp64 without tensor cores for it is the rate of mma.f64 all the same.
//
// A100    NVIDIA A100 80GB datasheet, SXM column; clock and SM count: A100 architecture whitepaper.
// RTX4090 NVIDIA Ada GPU architecture whitepaper, appendix A (fp8 with float16 accumulation).
// H100    NVIDIA H100 datasheet, SXM5 column without sparsity. The clock is the one that 989
//         TFLOP/s mean, 132 SM x 4096 FLOP; without tensor work it may rise to 1.98 GHz.
// B200    NVIDIA DGX B200 datasheet, an eighth of the system, without sparsity; SMs, clock and L2
//         as the driver tells them.
// RTXPRO6000 NVIDIA RTX Blackwell PRO architecture whitepaper, Workstation Edition: 188 SM at
//         2.617 GHz with 1024 (bf16), 2048 (fp8, int8) and 4096 (fp4) FLOP per SM and clock.
const std::vector<Device>& table() {
  static const std::vector<Device> kDevices = {
      {.name = "A100",
       .full_name = "NVIDIA A100-SXM4-80GB",
       .major = 8,
       .minor = 0,
       .arch = "sm_80",
       .sms = 108,
       .warps_per_sm = 64,
       .blocks_per_sm = 32,
       .threads_per_block = 1024,
       .registers_per_sm = 65536,
       .registers_per_block = 65536,
       .shared_per_sm = 164 * 1024,
       .shared_per_block = 48 * 1024,
       .shared_per_block_optin = 163 * 1024,
       .shared_reserved = 1024,
       .max_cluster = 1,
       .memory_bytes = 80 * kGiB,
       .l2_bytes = 40 * kMiB,
       .clock_ghz = 1.41,
       .dram_gb_per_s = 2039,
       .tensor_tflops_f16 = 312,
       .tensor_tflops_bf16 = 312,
       .tensor_tflops_fp8 = 0,
       .tensor_tflops_fp4 = 0,
       .tensor_tflops_tf32 = 156,
       .tensor_tflops_fp64 = 19.5,
       .tensor_tops_s8 = 624,
       .issue_per_sm_clock = 4},
      {.name = "RTX4090",
       .full_name = "NVIDIA GeForce RTX 4090",
       .major = 8,
       .minor = 9,
       .arch = "sm_89",
       .sms = 128,
       .warps_per_sm = 48,
       .blocks_per_sm = 24,
       .threads_per_block = 1024,
       .registers_per_sm = 65536,
       .registers_per_block = 65536,
       .shared_per_sm = 100 * 1024,
       .shared_per_block = 48 * 1024,
       .shared_per_block_optin = 99 * 1024,
       .shared_reserved = 1024,
       .max_cluster = 1,
       .memory_bytes = 24 * kGiB,
       .l2_bytes = 72 * kMiB,
       .clock_ghz = 2.52,
       .dram_gb_per_s = 1008,
       .tensor_tflops_f16 = 330.3,
       .tensor_tflops_bf16 = 165.2,
       .tensor_tflops_fp8 = 660.6,
       .tensor_tflops_fp4 = 0,
       .tensor_tflops_tf32 = 82.6,
       .tensor_tflops_fp64 = 1.29,
       .tensor_tops_s8 = 660.6,
       .issue_per_sm_clock = 4},
      {.name = "H100",
       .full_name = "NVIDIA H100 80GB HBM3",
       .major = 9,
       .minor = 0,
       .arch = "sm_90a",
       .sms = 132,
       .warps_per_sm = 64,
       .blocks_per_sm = 32,
       .threads_per_block = 1024,
       .registers_per_sm = 65536,
       .registers_per_block = 65536,
       .shared_per_sm = 228 * 1024,
       .shared_per_block = 48 * 1024,
       .shared_per_block_optin = 227 * 1024,
       .shared_reserved = 1024,
       .max_cluster = 16,
       .memory_bytes = 80 * kGiB,
       .l2_bytes = 50 * kMiB,
       .clock_ghz = 1.83,
       .dram_gb_per_s = 3350,
       .tensor_tflops_f16 = 989,
       .tensor_tflops_bf16 = 989,
       .tensor_tflops_fp8 = 1979,
       .tensor_tflops_fp4 = 0,
       .tensor_tflops_tf32 = 494.5,
       .tensor_tflops_fp64 = 67,
       .tensor_tops_s8 = 1979,
       .issue_per_sm_clock = 4},
      {.name = "B200",
       .full_name = "NVIDIA B200",
       .major = 10,
       .minor = 0,
       .arch = "sm_100a",
       .sms = 148,
       .warps_per_sm = 64,
       .blocks_per_sm = 32,
       .threads_per_block = 1024,
       .registers_per_sm = 65536,
       .registers_per_block = 65536,
       .shared_per_sm = 228 * 1024,
       .shared_per_block = 48 * 1024,
       .shared_per_block_optin = 227 * 1024,
       .shared_reserved = 1024,
       .max_cluster = 16,
       .memory_bytes = 180 * kGiB,
       .l2_bytes = 126 * kMiB,
       .clock_ghz = 1.965,
       .dram_gb_per_s = 8000,
       .tensor_tflops_f16 = 2250,
       .tensor_tflops_bf16 = 2250,
       .tensor_tflops_fp8 = 4500,
       .tensor_tflops_fp4 = 9000,
       .tensor_tflops_tf32 = 1125,
       .tensor_tflops_fp64 = 37,
       .tensor_tops_s8 = 4500,
       .issue_per_sm_clock = 4},
      {.name = "RTXPRO6000",
       .full_name = "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
       .major = 12,
       .minor = 0,
       .arch = "sm_120a",
       .sms = 188,
       .warps_per_sm = 48,
       .blocks_per_sm = 24,
       .threads_per_block = 1024,
       .registers_per_sm = 65536,
       .registers_per_block = 65536,
       .shared_per_sm = 100 * 1024,
       .shared_per_block = 48 * 1024,
       .shared_per_block_optin = 99 * 1024,
       .shared_reserved = 1024,
       .max_cluster = 8,
       .memory_bytes = 96 * kGiB,
       .l2_bytes = 128 * kMiB,
       .clock_ghz = 2.617,
       .dram_gb_per_s = 1792,
       .tensor_tflops_f16 = 503.8,
       .tensor_tflops_bf16 = 503.8,
       .tensor_tflops_fp8 = 1007.6,
       .tensor_tflops_fp4 = 2015.2,
       .tensor_tflops_tf32 = 251.9,
       .tensor_tflops_fp64 = 1.97,
       .tensor_tops_s8 = 1007.6,
       .issue_per_sm_clock = 4},
  };
  return kDevices;
}

// "RTX 4090", "rtx-4090" and "RTX4090" are one name.
std::string letters_and_digits(std::string_view name) {
  std::string key;
  for (const char c : name)
    if (std::isalnum(static_cast<unsigned char>(c)))
      key += char(std::toupper(static_cast<unsigned char>(c)));
  if (key.starts_with("NVIDIA")) key.erase(0, 6);
  return key;
}

struct Alias { const char *key, *name; };
constexpr Alias kAliases[] = {
    {"A100SXM", "A100"}, {"A100SXM4", "A100"}, {"GEFORCERTX4090", "RTX4090"},
    {"H100SXM", "H100"}, {"H100SXM5", "H100"}, {"RTXPRO6000BLACKWELL", "RTXPRO6000"},
};

uint64_t round_up(uint64_t n, uint64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

const std::vector<Device>& devices() { return table(); }

const Device& device(std::string_view name) {
  std::string key = letters_and_digits(name);
  for (const Alias& alias : kAliases)
    if (key == alias.key) key = alias.name;
  std::string known;
  for (const Device& d : table()) {
    if (key == d.name || key == letters_and_digits(d.full_name)) return d;
    known += (known.empty() ? "" : ", ") + std::string(d.name);
  }
  throw std::invalid_argument("no device '" + std::string(name) + "'; there are " + known);
}

// The rules of cuda_occupancy.h, for compute capability 8.0 and newer: registers are given to warps
// in units of 256 out of the file of the quarter SM that a warp is on, a block is checked as if its
// warps filled the quarters evenly, and shared memory comes in units of 128 bytes.
int resident_blocks(const Device& d, uint64_t threads, int registers, uint64_t shared_bytes) {
  constexpr uint64_t kQuarters = 4;
  if (threads == 0 || threads > uint64_t(d.threads_per_block)) return 0;
  const uint64_t warps = (threads + 31) / 32;
  const uint64_t per_warp = round_up(uint64_t(std::max(1, registers)) * 32, 256);
  const uint64_t shared = round_up(shared_bytes + uint64_t(d.shared_reserved), 128);
  if (per_warp * round_up(warps, kQuarters) > uint64_t(d.registers_per_block) ||
      shared > uint64_t(d.shared_per_block_optin + d.shared_reserved))
    return 0;
  const uint64_t warps_by_registers =
      uint64_t(d.registers_per_sm) / kQuarters / per_warp * kQuarters;
  return int(std::min({uint64_t(d.blocks_per_sm), uint64_t(d.warps_per_sm) / warps,
                       warps_by_registers / warps, uint64_t(d.shared_per_sm) / shared}));
}

}  // namespace ptxsim
