// SPDX-License-Identifier: Apache-2.0
#include "engine/counters.h"

#include "engine/json.h"

#include <algorithm>
#include <numeric>

namespace ptxsim {
namespace {

constexpr const char* kClassNames[] = {
    "integer",    "float32",     "float64",       "half",        "special_function",
    "convert",    "move",        "predicate",     "control",     "warp",
    "barrier",    "mbarrier",    "mma",           "wgmma",       "ldmatrix",
    "stmatrix",   "load_global", "store_global",  "load_shared", "store_shared",
    "load_local", "store_local", "load_param",    "atomic",      "cp_async",
    "bulk",       "tma",         "async_control", "fence",       "no_action"};
static_assert(std::size(kClassNames) == size_t(InstructionClass::count));

std::string json(const Traffic& t) {
  return JsonObject()
      .add("bytes", t.bytes)
      .add("sectors", t.sectors)
      .add("sectors_block", t.sectors_block)
      .add("sectors_launch", t.sectors_launch)
      .str();
}
std::string json(const Wavefronts& w) {
  return JsonObject().add("bytes", w.bytes).add("actual", w.actual).add("minimal", w.minimal).str();
}
std::string json(Dim3 d) {
  return "[" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + "]";
}

}  // namespace

const char* name_of(InstructionClass kind) { return kClassNames[size_t(kind)]; }

uint64_t Counters::warp_instructions() const {
  return std::accumulate(std::begin(executed), std::end(executed), uint64_t(0));
}

void SectorSets::touch(uint64_t sector, Traffic& traffic, bool is_store) {
  const uint64_t key = sector * 2 + is_store;
  if (block_.insert(key).second) ++traffic.sectors_block;
  if (launch_.insert(key).second) ++traffic.sectors_launch;
}

double TimeBound::bound() const { return std::max({dram, tensor, shared, issue}); }

const char* TimeBound::limited_by() const {
  const double b = bound();
  return b == dram     ? "DRAM"
         : b == tensor ? "tensor cores"
         : b == issue  ? "issue slots"
                       : "shared memory";
}

TimeBound time_bound(const Counters& c, const Device& d) {
  TimeBound t;
  const double sectors = double(c.global_load.sectors_launch + c.global_store.sectors_launch +
                                c.global_atomic.sectors_launch);
  t.dram = (32 * sectors + double(c.tma_load_bytes + c.tma_store_bytes + c.bulk_bytes)) /
           (d.dram_gb_per_s * 1e9);
  const double clocks = d.clock_ghz * 1e9 * d.sms;
  t.issue = double(c.warp_instructions()) / (clocks * d.issue_per_sm_clock);
  t.shared = double(c.shared_load.actual + c.shared_store.actual + c.ldmatrix.actual +
                    c.stmatrix.actual + c.cp_async.actual) /
             clocks;
  for (const auto& [shape, operations] : c.tensor_operations) {
    auto has = [&](const char* part) { return shape.find(part) != std::string::npos; };
    const double peak = has("e2m1") ? d.tensor_tflops_fp4
                        : has("e4m3") || has("e5m2") || has("e3m2") || has("e2m3")
                            ? d.tensor_tflops_fp8
                        : has("tf32")            ? d.tensor_tflops_tf32
                        : has("s8") || has("u8") ? d.tensor_tops_s8
                                                 : d.tensor_tflops_bf16;
    if (peak > 0) t.tensor += double(operations) / (peak * 1e12);
  }
  return t;
}

std::string counters_json(const Counters& c, const Device& d) {
  JsonObject instructions, tensor;
  for (size_t i = 0; i < size_t(InstructionClass::count); ++i)
    if (c.executed[i]) instructions.add(kClassNames[i], c.executed[i]);
  for (const auto& [shape, operations] : c.tensor_operations) tensor.add(shape.c_str(), operations);
  const TimeBound t = time_bound(c, d);
  return JsonObject()
      .add("kernel", c.kernel)
      .add("device", d.name)
      .raw("grid", json(c.config.grid))
      .raw("block", json(c.config.block))
      .raw("cluster", json(c.config.cluster))
      .add("blocks", c.blocks)
      .add("warp_instructions", c.warp_instructions())
      .raw("instructions", instructions.str())
      .add("predicated_off", c.predicated_off)
      .raw("tensor_operations", tensor.str())
      .raw("global_load", json(c.global_load))
      .raw("global_store", json(c.global_store))
      .raw("global_atomic", json(c.global_atomic))
      .add("tma_load_bytes", c.tma_load_bytes)
      .add("tma_store_bytes", c.tma_store_bytes)
      .add("bulk_bytes", c.bulk_bytes)
      .raw("shared_load", json(c.shared_load))
      .raw("shared_store", json(c.shared_store))
      .raw("ldmatrix", json(c.ldmatrix))
      .raw("stmatrix", json(c.stmatrix))
      .raw("cp_async", json(c.cp_async))
      .add("barriers", c.barriers)
      .add("registers", c.attributes.registers)
      .add("shared_bytes", c.shared_bytes)
      .add("blocks_per_sm", c.blocks_per_sm)
      .add("time_bound_s", t.bound())
      .add("limited_by", t.limited_by())
      .add("dram_s", t.dram)
      .add("tensor_s", t.tensor)
      .add("shared_s", t.shared)
      .add("issue_s", t.issue)
      .str();
}

}  // namespace ptxsim
