// SPDX-License-Identifier: Apache-2.0
// One running launch: what its blocks share, how faults leave it, and the order in which things
// happen.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/decode.h"
#include "engine/state.h"

namespace ptxsim {

struct Counters;
struct Traffic;
struct Wavefronts;
class RaceChecker;

class Random {  // xorshift64*
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 0x2545f4914f6cdd1d) {}
  uint32_t next() {
    state_ ^= state_ >> 12, state_ ^= state_ << 25, state_ ^= state_ >> 27;
    return uint32_t((state_ * 0x2545f4914f6cdd1d) >> 32);
  }
  uint32_t below(uint32_t n) { return uint32_t((uint64_t(next()) * n) >> 32); }
  bool one_in(uint32_t n) { return below(n) == 0; }

 private:
  uint64_t state_;
};

// How a schedule treats what it may choose. Each seed has its own; extremes find most faults, so a
// third of the seeds finishes asynchronous work at once, a third only when nothing else can run.
struct Schedule {
  explicit Schedule(uint64_t seed);
  Random random;
  enum class Async : uint8_t { early, late, random } async;
  uint32_t warp_quantum;     // instructions a warp runs in a row, at most
  uint64_t cluster_quantum;  // and a cluster
};

struct Launch {
  const KernelPrograms& programs;
  std::string kernel;
  uint64_t id = 0;  // counts launches
  LaunchConfig config;
  std::vector<uint8_t> parameters;
  GlobalMemory& memory;
  const Device& device;
  const Options& options;
  Schedule schedule;
  Counters* counters = nullptr;
  RaceChecker* races = nullptr;  // null: not checked
  std::vector<Report> reports = {};
  uint64_t suppressed = 0;       // findings at further instructions, beyond options.max_reports
  uint64_t instructions = 0;     // executed warp instructions
  uint64_t progress = 0;         // counts whatever others could notice
  uint32_t shared_bytes = 0;     // of a block, with the reserved part
  std::string* printed = nullptr;
  uint64_t grid_workspace = 0;   // of cooperative launches: the counters of grid.sync()
  uint64_t resident_limit = 1;   // blocks that the card holds at once
  std::vector<std::unique_ptr<Cluster>> resident = {};

  // The warp has looked at a place that only somebody else changes: for finding loops that never
  // end.
  void poll(Warp& w, uint64_t address);
  uint64_t next_spin_check = 0;  // in instructions

  // Of launches that run in parts: clusters `part`, `part + parts`, ...
  uint64_t part = 0, parts = 1;
  uint64_t clusters() const;
  uint64_t started = 0;  // of them, with those that were cancelled
  // Takes the next cluster that has not started out of the launch; false if there is none.
  bool cancel_cluster(Dim3* first_block);

  bool may_start() const;

  // Runs all blocks. False if the kernel faulted; reports say why.
  bool run();
  // The same, on several host threads, for kernels whose blocks cannot notice one another
  // (parts.cpp).
  bool run_in_parts();
  Dim3 thread(uint32_t linear) const;  // threadIdx
  // Once for each kind and instruction.
  void add(Report report);
};

// Ends the launch.
struct Fault { Report report; };
Report make_report(const Warp& w, const Op& op, Report::Kind kind, uint32_t lanes,
                   const std::string& text);
[[noreturn]] void fault(const Warp& w, const Op& op, Report::Kind kind, uint32_t lanes,
                        const std::string& text);
// Tells where the instruction stands.
void locate(Report& report, const Program& program, const ptx::Instruction& instruction);
void finding(const Warp& w, const Op& op, Report::Kind kind, uint32_t lanes,
             const std::string& text);
// Who did what stands at a PTX line: a thread, its cp.async, or other asynchronous work that a warp
// started.
enum class Doer : uint8_t { thread, copy, operation };
std::string describe(const Launch& launch, Doer doer, uint32_t warp, int lane, uint32_t line);

inline Launch& Warp::launch() const { return *block->cluster->launch; }

// --- Fragments (divergence.cpp) ---

// Sends the running fragment's `taken` lanes to `target`, the others to the next instruction.
Flow branch(Warp& w, uint32_t taken, uint32_t target);
// Ends `lanes` of the running fragment: they have exited.
Flow end_lanes(Warp& w, uint32_t lanes);
void bind(Warp& w, Fragment& fragment);
// Merges fragments that stand at the same place; true if the running one changed.
bool merge_fragments(Warp& w);
// The fragment to run next, or null if none can.
Fragment* choose_fragment(Warp& w, Random& random);
std::shared_ptr<Frame> make_frame(Warp& w, const Program& program, std::shared_ptr<Frame> caller);
void reserve_local(Warp& w, uint32_t bytes);  // of each lane's stack
// All lanes of `mask` that live stand at this instruction; otherwise the fragment has to wait.
bool converged(Warp& w, uint32_t mask);

}  // namespace ptxsim
