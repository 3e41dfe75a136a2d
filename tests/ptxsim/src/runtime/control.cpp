// SPDX-License-Identifier: Apache-2.0
#include "runtime/control.h"

#include <set>

#include "counters/counters.h"
#include "engine/json.h"
#include "runtime/direct.h"
#include "runtime/registration.h"

namespace ptxsim::runtime {
namespace {

thread_local std::string last_text, last_reason;

const char* text(std::string t) {
  last_text = std::move(t);
  return last_text.c_str();
}

// Runs body(); -1 and the reason if it throws.
template <typename F>
int guarded(F&& body) {
  std::lock_guard lock(session().mutex);
  try {
    body();
    return 0;
  } catch (const std::exception& e) {
    last_reason = e.what();
    return -1;
  }
}

template <typename F>
const char* guarded_text(F&& body) {
  std::string result;
  return guarded([&] { result = body(); }) == 0 ? text(std::move(result)) : nullptr;
}

std::string json(const Dim3& d) {
  JsonArray a;
  for (const uint32_t n : {d.x, d.y, d.z}) a.add(std::to_string(n));
  return a.str();
}

std::string json(const Device& d) {
  return JsonObject()
      .add("name", d.name)
      .add("full_name", d.full_name)
      .add("arch", d.arch)
      .add("major", d.major)
      .add("minor", d.minor)
      .add("sms", d.sms)
      .add("warps_per_sm", d.warps_per_sm)
      .add("blocks_per_sm", d.blocks_per_sm)
      .add("registers_per_sm", d.registers_per_sm)
      .add("shared_per_sm", d.shared_per_sm)
      .add("shared_per_block_optin", d.shared_per_block_optin)
      .add("max_cluster", d.max_cluster)
      .add("memory_bytes", d.memory_bytes)
      .add("l2_bytes", d.l2_bytes)
      .add("clock_ghz", d.clock_ghz)
      .add("dram_gb_per_s", d.dram_gb_per_s)
      .add("tensor_tflops_bf16", d.tensor_tflops_bf16)
      .add("tensor_tflops_fp8", d.tensor_tflops_fp8)
      .add("tensor_tflops_fp4", d.tensor_tflops_fp4)
      .add("tensor_tflops_tf32", d.tensor_tflops_tf32)
      .add("tensor_tops_s8", d.tensor_tops_s8)
      .str();
}

std::string json(const Report& r) {
  return JsonObject()
      .add("kind", name_of(r.kind))
      .add("is_fault", r.is_fault)
      .add("kernel", r.kernel)
      .raw("block", json(r.block))
      .raw("thread", json(r.thread))
      .add("ptx_line", r.ptx_line)
      .add("source", r.source)
      .add("text", r.text)
      .add("repeated", r.repeated)
      .str();
}

std::string json(const KernelEntry& entry) {
  const KernelAttributes& a = session().simulator().attributes(*entry.kernel);
  return JsonObject()
      .add("name", entry.name)
      .add("module", entry.binary->name)
      .add("target", entry.binary->loaded.name())
      .add("registers", a.registers)
      .add("registers_known", a.registers_known)
      .add("shared_bytes", a.shared_bytes)
      .add("local_bytes", a.local_bytes)
      .add("constant_bytes", a.constant_bytes)
      .add("parameter_bytes", a.parameter_bytes)
      .add("max_threads", a.max_threads)
      .str();
}

void set_option(const std::string& name, uint64_t value) {
  Options& o = session().simulator().options();
  if (name == "seed")
    o.seed = value;
  else if (name == "check_races")
    o.check_races = value != 0;
  else if (name == "check_unwritten")
    o.check_unwritten = value != 0;
  else if (name == "max_reports")
    o.max_reports = int(value);
  else if (name == "host_threads")
    o.host_threads = value;
  else if (name == "max_instructions")
    o.max_instructions = value;
  else if (name == "execute")
    o.execute = value != 0;
  else if (name == "memory_limit")
    session().memory().limit = value;
  else if (name == "capture")
    session().captures_calls = value != 0;
  else
    throw std::invalid_argument("no option '" + name + "'");
}

KernelEntry& kernel_named(const std::string& name) {
  for (KernelEntry* entry : registered_kernels())
    if (entry->name == name && entry->binary->module) return loaded_kernel(entry->host);
  throw std::invalid_argument("no kernel '" + name + "' is loaded");
}

const Report& report(int index) {
  const std::vector<Report>& all = session().simulator().reports();
  if (index < 0 || size_t(index) >= all.size())
    throw std::out_of_range("no report " + std::to_string(index));
  return all[size_t(index)];
}

}  // namespace
}  // namespace ptxsim::runtime

using namespace ptxsim::runtime;

extern "C" {

const char* ptxsim_error() { return last_reason.c_str(); }

const char* ptxsim_cuda_failure() {
  return guarded_text([] { return session().failure; });
}

const char* ptxsim_load_error() {
  return guarded_text([] { return load_error(); });
}

int ptxsim_reset(const char* device) {
  return guarded([&] { session().choose(device); });
}

const char* ptxsim_device() {
  return guarded_text(
      [] { return session().has_device() ? json(session().device()) : std::string("null"); });
}

int ptxsim_set_option(const char* name, uint64_t value) {
  return guarded([&] { set_option(name, value); });
}

int ptxsim_expose(const void* pointer, uint64_t bytes, int read_only, int written,
                  const char* name) {
  return guarded(
      [&] { session().memory().expose(pointer, bytes, read_only != 0, written != 0, name); });
}

int ptxsim_forget(const void* pointer) {
  return guarded([&] { session().memory().forget(pointer); });
}

void ptxsim_clear() {
  guarded([] { session().simulator().clear(); });
}

int ptxsim_report_count() {
  int count = 0;
  guarded([&] { count = int(session().simulator().reports().size()); });
  return count;
}

const char* ptxsim_report(int index) {
  return guarded_text([&] { return json(report(index)); });
}

const char* ptxsim_report_text(int index) {
  return guarded_text([&] { return report(index).describe(); });
}

int ptxsim_launch_count() {
  int count = 0;
  guarded([&] { count = int(session().simulator().counters().size()); });
  return count;
}

const char* ptxsim_counters(int launch) {
  return guarded_text([&] {
    const auto& all = session().simulator().counters();
    if (launch < 0 || size_t(launch) >= all.size())
      throw std::out_of_range("no launch " + std::to_string(launch));
    return ptxsim::counters_json(*all[size_t(launch)], session().device());
  });
}

const char* ptxsim_printed() {
  return guarded_text([] { return session().simulator().printed(); });
}

int ptxsim_replace_ptx(const char* name, const char* ptx) {
  return guarded([&] { replace_ptx(name, ptx); });
}

const char* ptxsim_kernels() {
  return guarded_text([] {
    ptxsim::JsonArray all;
    for (KernelEntry* entry : registered_kernels()) {
      if (!entry->binary->module) continue;
      all.add(json(loaded_kernel(entry->host)));
    }
    return all.str();
  });
}

const char* ptxsim_ptx(const char* kernel) {
  return guarded_text([&] {
    const FatBinary& binary = *kernel_named(kernel).binary;
    if (!binary.replacement.empty()) return binary.replacement;
    return std::string(choose_image(binary.images, session().device())->text);
  });
}

int ptxsim_set_registers(const char* kernel, int registers) {
  return guarded(
      [&] { session().simulator().set_registers(*kernel_named(kernel).kernel, registers); });
}

const char* ptxsim_parse(const char* ptx) {
  return guarded_text([&] { return ptxsim::ptx::print(ptxsim::ptx::parse(ptx)); });
}

const char* ptxsim_forms(const char* ptx) {
  return guarded_text([&] {
    std::set<std::string> forms;
    for (const ptxsim::ptx::Function& f : ptxsim::ptx::parse(ptx).functions)
      for (const ptxsim::ptx::Instruction& i : f.body) forms.insert(i.spelling());
    ptxsim::JsonArray all;
    for (const std::string& form : forms) all.add(ptxsim::quoted(form));
    return all.str();
  });
}

int ptxsim_load(const char* ptx, const char* name) {
  int module = -1;
  guarded([&] { module = load_direct(ptx, name); });
  return module;
}

int ptxsim_launch(int module, const char* kernel, const uint32_t grid[3], const uint32_t block[3],
                  const uint32_t cluster[3], uint64_t dynamic_shared, const void* parameters,
                  uint64_t bytes) {
  return guarded([&] {
    const auto dim = [](const uint32_t d[3]) { return dim3(d[0], d[1], d[2]); };
    const auto* first = static_cast<const uint8_t*>(parameters);
    launch_direct(module, kernel, dim(grid), dim(block), dim(cluster), dynamic_shared,
                  {first, first + bytes});
  });
}

}  // extern "C"
