// SPDX-License-Identifier: Apache-2.0
// The race checker as the interpreter sees it: every access and whatever orders accesses is told to
// it.
#pragma once

#include <memory>

#include "engine/memory.h"
#include "engine/operands.h"

namespace ptxsim {

enum : int64_t { kFenceOrdinary, kFenceProxyAsync, kFenceTensormapRelease, kFenceTensormapAcquire };

class RaceChecker {
 public:
  virtual ~RaceChecker() = default;

  virtual void start_cluster(Cluster& cluster) = 0;
  // The last threads of a block exit: what still works on its shared memory is reported.
  virtual void end_block(Warp& w, const Op& op) = 0;
  virtual void end_cluster(Cluster& cluster) = 0;

  virtual void access(Warp& w, const Op& op, const Place* places, const Access& access) = 0;
  // A strong access: before it what it releases, after it what it acquires.
  virtual void order(Warp& w, const Order& order, const Place* places, bool after) = 0;
  virtual void warp_barrier(Warp& w, uint32_t members) = 0;
  virtual void arrive_barrier(Warp& w, uint32_t id, uint32_t generation) = 0;
  virtual void leave_barrier(Warp& w, uint32_t id, uint32_t generation) = 0;
  virtual void arrive_cluster(Warp& w, uint32_t generation, bool releases) = 0;
  virtual void leave_cluster(Warp& w, uint32_t generation, bool acquires) = 0;
  virtual void fence(Warp& w, int64_t kind) = 0;

  // mbarriers: an arrival by a lane, a completion by an agent; a phase that ends; a wait that found
  // one ended.
  virtual void start_mbarrier(Block& block, uint32_t offset) = 0;
  virtual void release_mbarrier(Warp& w, int lane, Block& block, uint32_t offset) = 0;
  virtual void complete_mbarrier(Agent agent, const Op& op, Block& block, uint32_t offset) = 0;
  virtual void end_phase(Block& block, uint32_t offset) = 0;
  virtual void acquire_mbarrier(Warp& w, uint32_t lanes, Block& block, uint32_t offset) = 0;

  // An asynchronous operation is a thread of its own, an agent: it knows what its issuer knew, and
  // whoever waits for it learns what it did. cp.async has one for each lane, for a lane's wait
  // tells it of its own copies only; the others are one operation of the whole. `proxy`: it works
  // through the async proxy, so generic writes before it must have been fenced for that.
  virtual Agent start_agent(Warp& w, uint32_t lanes, bool each_lane, bool proxy) = 0;
  virtual void join_issue(Agent agent, Warp& w, uint32_t lanes) = 0;  // further warps that start it
  virtual void agent_shared(Agent agent, int lane, const Op& op, Block& block, uint32_t offset,
                            uint32_t bytes, bool write) = 0;
  virtual void agent_global(Agent agent, int lane, const Op& op, Allocation& allocation,
                            uint64_t address, uint64_t bytes, bool write) = 0;
  virtual void join_agent(Warp& w, uint32_t lanes, Agent agent) = 0;

  // Another part of the launch, which has ended: what it and this one touched is compared, and is
  // this one's from now on.
  virtual void add_part(RaceChecker& part, Launch& launch) = 0;

  // Tensor maps: fence.proxy.tensormap.acquire of one, and its use by a copy that a lane issues. It
  // counts as read then: what waits for that is cp.async.bulk.wait_group.read alone, and grouped
  // GEMMs take that for loads, too, which are in no group.
  virtual void acquire_map(Warp& w, const uint64_t* addresses) = 0;
  virtual void use_map(Warp& w, int lane, const Op& op, const Place& map) = 0;
};

// Of one part of a launch.
std::unique_ptr<RaceChecker> make_race_checker(uint32_t part);

}  // namespace ptxsim
