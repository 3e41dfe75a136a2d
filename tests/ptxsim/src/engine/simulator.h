// SPDX-License-Identifier: Apache-2.0
// The simulator as its callers see it: modules are loaded, kernels launched, reports and counters
// read. One simulator is one device in one process; calls come from one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/device.h"
#include "engine/global_memory.h"
#include "ptx/ir.h"

namespace ptxsim {

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t(x) * y * z; }
};

struct Options {
  uint64_t seed = 0;
  bool check_races = true;
  bool check_unwritten = true;
  uint64_t host_threads = 0;  // for blocks that cannot notice one another; 0: one a core
  int max_reports = 20;       // of one launch; how many more there are is the last one
  // Of one launch, in warp instructions, for loops that neither end nor wait; 0: no limit.
  uint64_t max_instructions = 1'000'000'000;
  bool execute = true;  // false: a launch is checked and counted, but no block of it runs
};

// Something a checker found or that stopped a kernel. Faults stop the launch, findings do not.
struct Report {
  enum class Kind : uint8_t {
    out_of_bounds,
    misaligned,
    use_after_free,
    read_only_write,
    unwritten_read,
    race,
    proxy_race,
    warp_hazard,
    async_hazard,
    barrier_misuse,
    deadlock,
    trap,
    assertion,
    limit,
    illegal_instruction,
    launch
  };
  Kind kind;
  bool is_fault;
  std::string kernel;
  Dim3 block, thread;            // the first thread concerned
  uint32_t ptx_line = 0;
  std::string source;            // "file.cu:12", if compiled with -lineinfo
  std::string text;              // what happened, in one or more lines
  uint64_t repeated = 0;         // how often it was found again at this instruction

  std::string describe() const;  // all of it
};
const char* name_of(Report::Kind kind);

struct LaunchConfig {
  Dim3 grid, block, cluster;     // cluster (1,1,1) without one
  uint64_t dynamic_shared = 0;
  bool cooperative = false;
  bool programmatic = false;     // griddepcontrol may be used
};

struct KernelAttributes {        // as cudaFuncGetAttributes
  uint64_t shared_bytes = 0, local_bytes = 0, constant_bytes = 0, parameter_bytes = 0;
  int registers = 0;             // of ptxas if known (set_registers), else an upper estimate
  bool registers_known = false;  // of ptxas: launches are held to them
  int max_threads = 1024;
  uint32_t cluster[3] = {};      // .reqnctapercluster, 0 without
};

class Kernel;                    // a decoded entry function
struct Counters;                 // counters/counters.h

class LoadedModule {
 public:
  virtual ~LoadedModule() = default;
  virtual Kernel* kernel(const std::string& name) = 0;                   // null if there is none
  virtual void* variable(const std::string& name, uint64_t* bytes) = 0;  // null if there is none
};

class Simulator {
 public:
  // Throws std::invalid_argument for an unknown device.
  static std::unique_ptr<Simulator> create(const std::string& device);
  virtual ~Simulator() = default;

  virtual const Device& device() const = 0;
  virtual GlobalMemory& memory() = 0;
  virtual Options& options() = 0;

  // Parses and decodes everything in it: throws ptx::Error on what it does not know, and with the
  // reason if the target does not run on this device.
  virtual std::unique_ptr<LoadedModule> load(std::string_view ptx, const std::string& name) = 0;

  virtual const KernelAttributes& attributes(const Kernel& kernel) = 0;
  // What ptxas gave the kernel on the simulated architecture.
  virtual void set_registers(Kernel& kernel, int registers) = 0;
  virtual const ptx::Function& function(const Kernel& kernel) = 0;
  // Resident blocks of this kernel on one multiprocessor.
  virtual int occupancy(const Kernel& kernel, uint64_t threads, uint64_t dynamic_shared) = 0;

  // `parameters` are the kernel's parameter bytes. Limits of the device have been checked by the
  // caller (the runtime knows which error code each has). Returns false if the kernel faulted.
  virtual bool launch(Kernel& kernel, const LaunchConfig& config,
                      const std::vector<uint8_t>& parameters) = 0;

  virtual const std::vector<Report>& reports() const = 0;  // of all launches since clear()
  virtual const std::vector<std::unique_ptr<Counters>>& counters() const = 0;  // one a launch
  virtual void clear() = 0;
  virtual std::string& printed() = 0;  // what kernels printed
};

}  // namespace ptxsim
