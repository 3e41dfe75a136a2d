// SPDX-License-Identifier: Apache-2.0
// The race checker as the interpreter sees it: every access and whatever orders accesses is told to it.
#pragma once

#include "engine/memory.h"
#include "engine/operands.h"

namespace ptxsim {

enum class FenceScope : uint8_t { block, cluster, device, system };
enum : int64_t { kFenceOrdinary, kFenceProxyAsync, kFenceTensormapRelease, kFenceTensormapAcquire };

class RaceChecker {
 public:
  virtual ~RaceChecker() = default;
  virtual void access(Warp& w, const Op& op, const Place* places, const Access& access) = 0;
  virtual void order(Warp& w, const Op& op, const Order& order, const Place* places,
                     bool after) = 0;
  virtual void warp_barrier(Warp& w, uint32_t members) = 0;
  virtual void arrive_barrier(Warp& w, uint32_t id, uint32_t generation) = 0;
  virtual void leave_barrier(Warp& w, uint32_t id, uint32_t generation) = 0;
  virtual void arrive_cluster(Warp& w, uint32_t generation, bool releases) = 0;
  virtual void leave_cluster(Warp& w, uint32_t generation, bool acquires) = 0;
  virtual void fence(Warp& w, const Op& op, FenceScope scope, int64_t kind) = 0;
  // mbarriers; lane -1 and an agent for completions of asynchronous operations.
  virtual void release_mbarrier(const Warp* w, int lane, Agent agent, Block& block,
                                uint32_t offset) = 0;
  virtual void acquire_mbarrier(Warp& w, uint32_t lanes, Block& block, uint32_t offset) = 0;
  // An asynchronous operation is a thread of its own, an agent: it knows what its issuer knew, and
  // whoever waits for it learns what it did.
  // `needs_proxy_fence`: it works through the async proxy, so generic writes must have been fenced.
  virtual Agent start_agent(Warp& w, uint32_t lanes, bool needs_proxy_fence) = 0;
  virtual void agent_shared(Agent agent, const Op& op, Block& block, uint32_t offset,
                            uint32_t bytes, bool write) = 0;
  virtual void agent_global(Agent agent, const Op& op, Allocation& allocation, uint64_t address,
                            uint64_t bytes, bool write) = 0;
  virtual void join_agent(Warp& w, uint32_t lanes, Agent agent) = 0;
};

std::unique_ptr<RaceChecker> make_race_checker();

}  // namespace ptxsim
