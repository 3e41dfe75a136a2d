// SPDX-License-Identifier: Apache-2.0
#include "counters/counters.h"

#include <algorithm>
#include <numeric>

#include "engine/json.h"
#include "engine/kernel_name.h"

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

template <typename T>
struct Named {
  const char* name;
  T Counters::* counter;
};

constexpr Named<Traffic> kTraffic[] = {
    {"global_load", &Counters::global_load},     {"global_store", &Counters::global_store},
    {"global_atomic", &Counters::global_atomic}, {"cp_async_load", &Counters::cp_async_load},
    {"bulk_load", &Counters::bulk_load},         {"bulk_store", &Counters::bulk_store},
    {"tma_load", &Counters::tma_load},           {"tma_store", &Counters::tma_store}};
constexpr Named<Wavefronts> kWavefronts[] = {{"shared_load", &Counters::shared_load},
                                             {"shared_store", &Counters::shared_store},
                                             {"shared_atomic", &Counters::shared_atomic},
                                             {"ldmatrix", &Counters::ldmatrix},
                                             {"stmatrix", &Counters::stmatrix},
                                             {"cp_async", &Counters::cp_async},
                                             {"wgmma", &Counters::wgmma},
                                             {"bulk", &Counters::bulk},
                                             {"tma", &Counters::tma}};
constexpr Named<Atomics> kAtomics[] = {{"global_atomics", &Counters::global_atomics},
                                       {"shared_atomics", &Counters::shared_atomics}};
constexpr Named<uint64_t> kNumbers[] = {{"predicated_off", &Counters::predicated_off},
                                        {"block_barriers", &Counters::block_barriers},
                                        {"cluster_barriers", &Counters::cluster_barriers},
                                        {"mbarrier_phases", &Counters::mbarrier_phases},
                                        {"loaded_by_blocks", &Counters::loaded_by_blocks},
                                        {"stored_by_blocks", &Counters::stored_by_blocks}};

// The first of these words that a shape's spelling has says which peak is its.
double peak_of(const std::string& shape, const Device& d) {
  const struct {
    const char* word;
    double tera;
  } kinds[] = {
      {"kind::mxf4", d.tensor_tflops_fp4},  // and mxf4nvf4
      {"kind::", d.tensor_tflops_fp8},      // f8f6f4 and mxf8f6f4: fp4 at the rate of fp8, too
      {"e4m3", d.tensor_tflops_fp8},
      {"e5m2", d.tensor_tflops_fp8},
      {"f64", d.tensor_tflops_fp64},
      {"tf32", d.tensor_tflops_tf32},
      {"s8", d.tensor_tops_s8},
      {"u8", d.tensor_tops_s8},
      {"s4", 2 * d.tensor_tops_s8},
      {"u4", 2 * d.tensor_tops_s8},
      {"b1", 8 * d.tensor_tops_s8},
      {"f16.f16.f16", d.tensor_tflops_f16},  // sums, too
      {"", d.tensor_tflops_bf16},
  };
  const auto* kind = std::find_if(std::begin(kinds), std::end(kinds), [&](const auto& k) {
    return shape.find(k.word) != std::string::npos;
  });
  return kind->tera * 1e12;
}

std::string json(Dim3 d) {
  return "[" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + "]";
}

}  // namespace

const char* name_of(InstructionClass kind) { return kClassNames[size_t(kind)]; }

void Counters::add(const Counters& part) {
  for (size_t i = 0; i < std::size(executed); ++i) executed[i] += part.executed[i];
  for (const auto& [shape, operations] : part.tensor_operations)
    tensor_operations[shape] += operations;
  for (const auto& [name, number] : kNumbers) this->*number += part.*number;
  for (const auto& [name, traffic] : kTraffic) {
    (this->*traffic).bytes += (part.*traffic).bytes;
    (this->*traffic).sectors += (part.*traffic).sectors;
  }
  for (const auto& [name, wavefronts] : kWavefronts) {
    (this->*wavefronts).bytes += (part.*wavefronts).bytes;
    (this->*wavefronts).actual += (part.*wavefronts).actual;
    (this->*wavefronts).minimal += (part.*wavefronts).minimal;
  }
  for (const auto& [name, atomics] : kAtomics) {
    (this->*atomics).operations += (part.*atomics).operations;
    (this->*atomics).collisions += (part.*atomics).collisions;
  }
  loaded.add(part.loaded);
  stored.add(part.stored);
}

void Counters::end_block(const SectorSet& block_loaded, const SectorSet& block_stored) {
  loaded_by_blocks += block_loaded.size();
  stored_by_blocks += block_stored.size();
  loaded.add(block_loaded);
  stored.add(block_stored);
}

uint64_t Counters::warp_instructions() const {
  return std::accumulate(std::begin(executed), std::end(executed), uint64_t(0));
}

uint64_t Counters::wavefronts() const {
  uint64_t n = 0;
  for (const auto& [name, counter] : kWavefronts) n += (this->*counter).actual;
  return n;
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
  t.dram = double(c.dram_bytes()) / (d.dram_gb_per_s * 1e9);
  for (const auto& [shape, operations] : c.tensor_operations)
    if (const double peak = peak_of(shape, d)) t.tensor += double(operations) / peak;
  const double clocks = d.clock_ghz * 1e9 * d.sms;
  t.shared = double(c.wavefronts()) / clocks;
  t.issue = double(c.warp_instructions()) / (clocks * d.issue_per_sm_clock);
  return t;
}

std::string counters_json(const Counters& c, const Device& d) {
  JsonObject out, instructions, tensor;
  for (size_t i = 0; i < size_t(InstructionClass::count); ++i)
    if (c.executed[i]) instructions.add(kClassNames[i], c.executed[i]);
  for (const auto& [shape, operations] : c.tensor_operations) tensor.add(shape.c_str(), operations);
  out.add("kernel", readable_name(c.kernel))
      .add("symbol", c.kernel)
      .add("device", d.name)
      .raw("grid", json(c.config.grid))
      .raw("block", json(c.config.block))
      .raw("cluster", json(c.config.cluster))
      .add("blocks", c.blocks)
      .add("warp_instructions", c.warp_instructions())
      .raw("instructions", instructions.str())
      .raw("tensor_operations", tensor.str());
  for (const auto& [name, number] : kNumbers) out.add(name, c.*number);
  for (const auto& [name, traffic] : kTraffic)
    out.raw(
        name,
        JsonObject().add("bytes", (c.*traffic).bytes).add("sectors", (c.*traffic).sectors).str());
  for (const auto& [name, wavefronts] : kWavefronts)
    out.raw(name, JsonObject()
                      .add("bytes", (c.*wavefronts).bytes)
                      .add("actual", (c.*wavefronts).actual)
                      .add("minimal", (c.*wavefronts).minimal)
                      .str());
  for (const auto& [name, atomics] : kAtomics)
    out.raw(name, JsonObject()
                      .add("operations", (c.*atomics).operations)
                      .add("collisions", (c.*atomics).collisions)
                      .str());
  const TimeBound t = time_bound(c, d);
  const KernelAttributes& a = *c.attributes;
  const int blocks = resident_blocks(d, c.config.block.count(), a.registers, c.shared_bytes);
  const double warps = double((c.config.block.count() + 31) / 32) * blocks;
  return out.add("loaded", c.loaded.size())
      .add("stored", c.stored.size())
      .add("dram_bytes", c.dram_bytes())
      .add("wavefronts", c.wavefronts())
      .add("registers", a.registers)
      .add("registers_known", a.registers_known)
      .add("shared_bytes", c.shared_bytes)
      .add("blocks_per_sm", blocks)
      .add("occupancy", warps / d.warps_per_sm)
      .add("time_bound_s", t.bound())
      .add("limited_by", t.limited_by())
      .add("dram_s", t.dram)
      .add("tensor_s", t.tensor)
      .add("shared_s", t.shared)
      .add("issue_s", t.issue)
      .str();
}

}  // namespace ptxsim
