// SPDX-License-Identifier: Apache-2.0
#include "engine/simulator.h"

#include <algorithm>
#include <cstring>

#include "checks/races.h"
#include "counters/counters.h"
#include "engine/calls.h"
#include "engine/decode.h"
#include "engine/kernel_name.h"
#include "engine/launch.h"

namespace ptxsim {

class Kernel {
 public:
  Kernel(const ptx::Module& module, const ptx::Function& function,
         const std::map<const ptx::Variable*, uint64_t>& globals)
      : programs(module, function, globals) {
    const Program& entry = programs.entry();
    attributes->shared_bytes = entry.static_shared - kSharedBase;
    attributes->local_bytes = entry.local_bytes;
    attributes->parameter_bytes = entry.kernel_param_bytes;
    const uint32_t* most = function.reqntid[0] ? function.reqntid : function.maxntid;
    if (most[0])
      attributes->max_threads = int(most[0] * std::max(1u, most[1]) * std::max(1u, most[2]));
    memcpy(attributes->cluster, function.reqnctapercluster, sizeof attributes->cluster);
    // What ptxas would take is not known here; the launch bounds say how many it may.
    const int by_bounds = 65536 / std::max(32, (attributes->max_threads + 31) / 32 * 32) / 8 * 8;
    attributes->registers = function.maxnreg ? int(function.maxnreg) : std::min(255, by_bounds);
  }
  KernelPrograms programs;
  // Shared with the counters of its launches, which may outlive the module.
  std::shared_ptr<KernelAttributes> attributes = std::make_shared<KernelAttributes>();
};

namespace {

class Loaded : public LoadedModule {
 public:
  Loaded(GlobalMemory& memory, std::string_view text, const std::string& name)
      : memory_(memory), module_(ptx::parse(text)) {
    for (const ptx::Variable& v : module_.variables) {
      if (v.space != ptx::Space::global && v.space != ptx::Space::constant) continue;
      void* data =
          memory.allocate(std::max<uint64_t>(v.bytes, 1), "variable " + v.name + " of " + name);
      memset(data, 0, v.bytes);
      memcpy(data, v.initial.data(), v.initial.size());
      memory.host_write(data, v.bytes);
      addresses_[&v] = uint64_t(data);
      by_name_[v.name] = {data, v.bytes};
      if (v.space == ptx::Space::constant) memory.find(uint64_t(data))->read_only = true;
    }
    for (const ptx::Variable& v : module_.variables)
      for (const ptx::Variable::Relocation& r : v.relocations) relocate(v, r);
    for (const ptx::Function& f : module_.functions)
      if (f.is_entry && !f.is_declaration)
        kernels_[f.name] = std::make_unique<Kernel>(module_, f, addresses_);
  }
  ~Loaded() override {
    for (const auto& [variable, address] : addresses_)
      memory_.free(reinterpret_cast<void*>(address));
  }

  Kernel* kernel(const std::string& name) override {
    const auto found = kernels_.find(name);
    return found == kernels_.end() ? nullptr : found->second.get();
  }
  void* variable(const std::string& name, uint64_t* bytes) override {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) return nullptr;
    if (bytes) *bytes = found->second.second;
    return found->second.first;
  }

 private:
  void relocate(const ptx::Variable& v, const ptx::Variable::Relocation& r) {
    uint64_t value = 0;
    if (const auto target = by_name_.find(r.symbol); target != by_name_.end())
      value = uint64_t(target->second.first);
    else
      for (size_t i = 0; i < module_.functions.size(); ++i)
        if (module_.functions[i].name == r.symbol) value = function_address(i);
    if (!value)
      throw ptx::Error(v.line,
                       "'" + v.name + "' holds the address of '" + r.symbol + "', which has none");
    value += uint64_t(r.addend);
    memcpy(reinterpret_cast<uint8_t*>(addresses_.at(&v)) + r.offset, &value, 8);
  }

  GlobalMemory& memory_;
  ptx::Module module_;
  std::map<const ptx::Variable*, uint64_t> addresses_;
  std::map<std::string, std::pair<void*, uint64_t>> by_name_;
  std::map<std::string, std::unique_ptr<Kernel>> kernels_;
};

// "sm_90a" runs on 9.0 alone, "sm_90" on 9.0 and newer, "sm_100f" within its family.
bool runs_on(const std::string& target, const Device& device) {
  if (!target.starts_with("sm_")) return false;
  const std::string digits = target.substr(3, target.find_first_not_of("0123456789", 3) - 3);
  const int wanted = std::stoi(digits), have = device.major * 10 + device.minor;
  if (target.back() == 'a') return wanted == have;
  if (target.back() == 'f') return wanted / 10 == have / 10 && wanted <= have;
  return wanted <= have;
}

class SimulatorOf : public Simulator {
 public:
  explicit SimulatorOf(const Device& device) : device_(device) {}

  const Device& device() const override { return device_; }
  GlobalMemory& memory() override { return memory_; }
  Options& options() override { return options_; }

  std::unique_ptr<LoadedModule> load(std::string_view ptx, const std::string& name) override {
    // The header is looked at first: what a module needs of another card is said before its
    // opcodes.
    const std::string target = target_of(ptx);
    if (!target.empty() && !runs_on(target, device_))
      throw ptx::Error(1, name + " is compiled for " + target + ", which " + device_.name + " (" +
                              device_.arch + ") does not run");
    return std::make_unique<Loaded>(memory_, ptx, name);
  }

  const KernelAttributes& attributes(const Kernel& kernel) override { return *kernel.attributes; }
  void set_registers(Kernel& kernel, int registers) override {
    kernel.attributes->registers = registers;
    kernel.attributes->registers_known = true;
  }
  const ptx::Function& function(const Kernel& kernel) override {
    return *kernel.programs.entry().function;
  }

  int occupancy(const Kernel& kernel, uint64_t threads, uint64_t dynamic_shared) override {
    return resident_blocks(device_, threads, kernel.attributes->registers,
                           kernel.attributes->shared_bytes + dynamic_shared);
  }

  bool launch(Kernel& kernel, const LaunchConfig& config,
              const std::vector<uint8_t>& parameters) override {
    auto counters = std::make_unique<Counters>();
    counters->kernel = kernel.programs.entry().function->name;
    counters->config = config;
    counters->attributes = kernel.attributes;
    counters->blocks = config.grid.count();
    std::unique_ptr<RaceChecker> races = options_.check_races ? make_race_checker(0) : nullptr;
    Launch run{kernel.programs,
               readable_name(counters->kernel),
               ++launches_,
               config,
               parameters,
               memory_,
               device_,
               options_,
               Schedule(options_.seed + launches_),
               counters.get(),
               races.get()};
    run.shared_bytes = uint32_t(kernel.programs.entry().static_shared + config.dynamic_shared);
    run.printed = &printed_;
    const int blocks_per_sm = occupancy(kernel, config.block.count(), config.dynamic_shared);
    run.resident_limit = uint64_t(std::max(1, blocks_per_sm)) * uint64_t(device_.sms);
    void* workspace = nullptr;
    if (config.cooperative) {
      workspace = memory_.allocate(256, "grid barrier");
      memset(workspace, 0, 256);
      memory_.host_write(workspace, 256);
      run.grid_workspace = uint64_t(workspace);
    }
    counters->shared_bytes = run.shared_bytes - kSharedBase;
    const bool ok = !options_.execute || run.run_in_parts();
    if (workspace) memory_.free(workspace);
    if (run.suppressed)
      run.reports.push_back({Report::Kind::limit,
                             false,
                             run.kernel,
                             {},
                             {},
                             0,
                             "",
                             "and " + std::to_string(run.suppressed) +
                                 " more findings at other instructions (option max_reports)"});
    reports_.insert(reports_.end(), run.reports.begin(), run.reports.end());
    counters_.push_back(std::move(counters));
    return ok;
  }

  const std::vector<Report>& reports() const override { return reports_; }
  const std::vector<std::unique_ptr<Counters>>& counters() const override { return counters_; }
  void clear() override { reports_.clear(), counters_.clear(), printed_.clear(); }
  std::string& printed() override { return printed_; }

 private:
  static std::string target_of(std::string_view ptx) {
    size_t at = ptx.find("\n.target");
    if (at == std::string_view::npos) return "";
    at = ptx.find_first_not_of(" \t", at + 8);
    const size_t end = ptx.find_first_of(" ,\t\r\n", at);
    return std::string(ptx.substr(at, end - at));
  }

  const Device& device_;
  GlobalMemory memory_;
  Options options_;
  std::vector<Report> reports_;
  std::vector<std::unique_ptr<Counters>> counters_;
  std::string printed_;
  uint64_t launches_ = 0;
};

}  // namespace

std::unique_ptr<Simulator> Simulator::create(const std::string& device) {
  return std::make_unique<SimulatorOf>(ptxsim::device(device));
}

}  // namespace ptxsim
