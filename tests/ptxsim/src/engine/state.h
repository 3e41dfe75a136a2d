// SPDX-License-Identifier: Apache-2.0
// What a running kernel consists of: warps of 32 lanes cut into fragments, blocks, clusters.
//
// A register is an array of 32 lanes in the frame of its function; an instruction works on whole
// arrays under a mask. Lanes that took different ways are different fragments of their warp, each
// with its own program counter; fragments that meet again at a label merge.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "counters/sector_set.h"
#include "engine/async_op.h"
#include "engine/simulator.h"

namespace ptxsim {

constexpr int kLanes = 32;
constexpr uint32_t kAllLanes = 0xffffffff;

struct Op;
struct Program;
struct Warp;
struct Block;
struct Cluster;
struct Launch;
struct WgmmaProduct;

// Where a 64-bit generic address points. Global addresses are host addresses, below 2^47; the other
// windows lie where no host address can.
constexpr uint64_t kSharedWindow = uint64_t(1) << 62;  // + 32-bit shared address
constexpr uint64_t kLocalWindow = uint64_t(1) << 61;   // + offset in the thread's stack
constexpr uint64_t kParamWindow = uint64_t(1) << 60;   // + offset in the kernel's parameters
constexpr uint32_t kBlockShift =
    24;                    // a 32-bit shared address: rank in the cluster, then the offset
constexpr uint32_t kSharedBase =
    1024;                  // where a block's variables start: the driver keeps what is below

struct WgmmaUse {          // of a register, by products (checks/wgmma_registers.h)
  uint64_t group = 0;      // the last that uses it
  uint32_t written = ~0u;  // by something else, after so many fences
  uint32_t shape = 0;
  bool accumulates = false;
};

// The registers of one activation of a function, for 32 lanes.
struct Frame {
  const Program* program;
  std::vector<uint8_t> registers;
  std::vector<WgmmaUse> wgmma;  // of each register, once there is one
  std::vector<uint8_t>
      params;  // 32 lanes of the .param variables of the body and the formal parameters
  uint32_t local_base = 0;   // of its .local variables in each lane's stack
  uint32_t local_top = 0;    // behind them and what alloca made
  std::shared_ptr<Frame> caller;
  uint32_t return_pc = 0;
  const Op* call = nullptr;  // that made it
};

// What a fragment waits for; its instruction runs again when it may go on.
struct Wait {
  enum class Kind : uint8_t {
    none,
    converge,         // the lanes of `mask` at this very instruction
    warp_barrier,     // bar.warp.sync: the lanes of `mask`
    block_barrier,    // barrier `id` to leave generation `generation`
    cluster_barrier,  // the cluster's barrier to leave `generation`
    mbarrier,      // the phase `generation` of the mbarrier at shared address `address` to complete
    async_groups,  // products up to group `generation` to be issued by all warps of warpgroup `id`
  };
  Kind kind = Kind::none;
  uint32_t mask = 0, id = 0, generation = 0, address = 0;
};

struct Fragment {
  uint32_t pc = 0, mask = 0;
  std::shared_ptr<Frame> frame;
  Wait wait;
  // Between the two visits to an instruction that arrives and then waits.
  bool arrived_at_barrier = false, arrived_at_cluster = false;
  uint32_t barrier_id = 0, barrier_generation = 0, cluster_generation = 0;
};

struct Warp {
  Block* block = nullptr;
  uint32_t index = 0;                  // in its block
  uint32_t live = 0;                   // lanes that exist and have not exited
  std::vector<Fragment> fragments;
  std::map<uint32_t, uint32_t> taint;  // registers with values that nothing wrote: slot, lanes
  uint32_t local_bytes = 0;            // of a lane in `local`
  std::vector<uint8_t> local;          // lane after lane

  // Asynchronous copies: the group that new ones join, and each lane's committed groups, oldest
  // first.
  uint64_t copy_group = 1, bulk_group = 1;
  std::vector<uint64_t> copy_commits[kLanes], bulk_commits[kLanes];
  std::vector<DoneOp> done;   // complete, but not waited for
  uint64_t wgmma_group = 1;
  std::vector<uint64_t> wgmma_commits;
  uint64_t wgmma_waited = 0;  // groups up to this one
  uint32_t wgmma_fences = 0;

  // Looks at what others have to change, since `polled_at`; recent ones.
  uint64_t polls = 0, polled_at = 0;
  std::array<uint64_t, 8> polled = {};

  // The fragment that runs now.
  Fragment* fragment = nullptr;
  uint8_t* registers = nullptr;
  uint32_t mask = 0;  // its lanes, less those that the guard switches off

  template <typename T>
  T* lanes(uint32_t slot) const {
    return reinterpret_cast<T*>(registers + slot);
  }
  uint32_t& predicate(uint32_t slot) const {
    return *reinterpret_cast<uint32_t*>(registers + slot);
  }
  Launch& launch() const;       // launch.h
  Dim3 thread(int lane) const;  // threadIdx
  uint32_t linear_thread(int lane) const { return index * kLanes + uint32_t(lane); }
};

struct NamedBarrier {
  uint32_t arrived = 0, expected = 0;                        // threads; expected 0: all that live
  uint32_t generation = 0;
  uint32_t popc = 0, all = 1, any = 0;                       // of barrier.red
  uint32_t result_popc = 0, result_all = 0, result_any = 0;  // of the last generation
};

struct Block {
  Cluster* cluster = nullptr;
  uint32_t rank = 0;              // in its cluster
  Dim3 index;                     // blockIdx
  std::vector<uint8_t> shared;    // from address 0, so kSharedBase bytes come first
  std::vector<uint64_t> written;  // one bit a byte of `shared`
  std::set<uint32_t> mbarriers;   // initialised and not invalidated
  std::vector<Warp> warps;
  NamedBarrier barriers[16];
  uint32_t threads = 0, live = 0;
  SectorSet loaded, stored;  // of global memory, for the counters
  std::map<uint32_t, std::deque<std::shared_ptr<WgmmaProduct>>> warpgroups;  // products under way
};

struct Cluster {
  Launch* launch = nullptr;
  std::vector<Block> blocks;
  uint32_t arrived = 0, generation = 0, live = 0;  // of the cluster barrier, in threads
  std::vector<AsyncOp> pending;
  Dim3 index;                                      // in clusters
};

}  // namespace ptxsim
