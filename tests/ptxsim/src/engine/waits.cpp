// SPDX-License-Identifier: Apache-2.0
#include "engine/waits.h"

#include <algorithm>
#include <bit>

#include "checks/races.h"
#include "counters/counters.h"
#include "engine/warpgroup.h"

namespace ptxsim {

bool may_continue(Warp& w, Fragment& f) {
  const Wait& wait = f.wait;
  Block& block = *w.block;
  switch (wait.kind) {
    case Wait::Kind::none: return true;
    case Wait::Kind::converge: return (f.mask & wait.mask & w.live) == (wait.mask & w.live);
    case Wait::Kind::warp_barrier: {
      uint32_t here = 0;
      for (const Fragment& other : w.fragments)
        if (other.wait.kind == Wait::Kind::warp_barrier && other.wait.mask == wait.mask)
          here |= other.mask;
      if ((here & wait.mask & w.live) != (wait.mask & w.live)) return false;
      if (RaceChecker* races = w.launch().races) races->warp_barrier(w, wait.mask);
      // All of them go on, behind the barrier: a lane that comes here again must not meet them.
      for (Fragment& other : w.fragments)
        if (&other != &f && other.wait.kind == Wait::Kind::warp_barrier &&
            other.wait.mask == wait.mask)
          other.wait = {}, ++other.pc;
      f.wait = {}, ++f.pc;
      return true;
    }
    case Wait::Kind::block_barrier: return block.barriers[wait.id].generation != wait.generation;
    case Wait::Kind::cluster_barrier: return block.cluster->generation != wait.generation;
    case Wait::Kind::mbarrier: return mbarrier_phase_complete(block, wait.address, wait.generation);
    case Wait::Kind::async_groups: return wgmma_groups_issued(block, wait.id, wait.generation);
  }
  return false;
}

std::string describe_wait(const Warp& w, const Fragment& f) {
  const Program& program = *f.frame->program;
  const Op& op = program.ops[f.pc];
  const bool inside = f.pc < program.function->body.size();
  const Dim3 b = w.block->index;
  char lanes[16];
  snprintf(lanes, sizeof lanes, "%08x", f.mask);
  std::string text = "block (" + std::to_string(b.x) + "," + std::to_string(b.y) + "," +
                     std::to_string(b.z) + ") warp " + std::to_string(w.index) + " lanes " + lanes;
  if (inside) {
    const ptx::Instruction& ins = program.instruction(op);
    text += " at PTX line " + std::to_string(ins.line) + " (" + ins.spelling() + ")";
    if (ins.source.line)
      text += " " + program.module->files[ins.source.file] + ":" + std::to_string(ins.source.line);
  }
  const Wait& wait = f.wait;
  switch (wait.kind) {
    case Wait::Kind::none:
      return text + (w.polled_at == w.launch().progress && w.polls ? " polls" : " could run");
    case Wait::Kind::converge: return text + " waits for the other lanes of its warp";
    case Wait::Kind::warp_barrier: {
      snprintf(lanes, sizeof lanes, "%08x", wait.mask);
      return text + " waits in bar.warp.sync for lanes " + lanes;
    }
    case Wait::Kind::block_barrier: {
      const NamedBarrier& bar = w.block->barriers[wait.id];
      return text + " waits for barrier " + std::to_string(wait.id) + ": " +
             std::to_string(bar.arrived) + " of " +
             std::to_string(bar.expected ? bar.expected : w.block->live) + " threads arrived";
    }
    case Wait::Kind::cluster_barrier:
      return text + " waits for the cluster barrier: " + std::to_string(w.block->cluster->arrived) +
             " of " + std::to_string(w.block->cluster->live) + " threads arrived";
    case Wait::Kind::mbarrier: {
      char address[16];
      snprintf(address, sizeof address, "0x%x", wait.address);
      return text + " waits for phase " + std::to_string(wait.generation) +
             " of the mbarrier at shared " + address + ": " +
             describe_mbarrier(*w.block, wait.address);
    }
    case Wait::Kind::async_groups:
      return text + " waits for the other warps of its warpgroup to issue a wgmma";
  }
  return text;
}

void complete_barrier(Launch& launch, NamedBarrier& bar) {
  ++launch.counters->block_barriers;
  bar.result_popc = bar.popc, bar.result_all = bar.all, bar.result_any = bar.any;
  bar.arrived = 0, bar.expected = 0, bar.popc = 0, bar.all = 1, bar.any = 0;
  ++bar.generation;
}

void complete_barrier(Cluster& cluster) {
  ++cluster.launch->counters->cluster_barriers;
  cluster.arrived = 0, ++cluster.generation;
}

void release_if_complete(Block& block) {
  for (NamedBarrier& bar : block.barriers)
    if (bar.arrived && bar.expected == 0 && bar.arrived >= block.live)
      complete_barrier(*block.cluster->launch, bar);
  Cluster& cluster = *block.cluster;
  if (cluster.arrived && cluster.arrived >= cluster.live) complete_barrier(cluster);
}

namespace {

void finish(Cluster& cluster, size_t index) {
  AsyncOp op = std::move(cluster.pending[index]);
  cluster.pending.erase(cluster.pending.begin() + long(index));
  ++cluster.launch->progress;
  op.complete();
  if (op.group && op.agent.id) op.owner->done.push_back({op.kind, op.group, op.lanes, op.agent});
}

}  // namespace

bool complete_one(Cluster& cluster, Random& random) {
  if (cluster.pending.empty()) return false;
  finish(cluster, random.below(uint32_t(cluster.pending.size())));
  return true;
}

void complete_groups(Warp& w, AsyncOp::Kind kind, uint64_t group, uint32_t lanes) {
  Cluster& cluster = *w.block->cluster;
  for (size_t i = 0; i < cluster.pending.size();) {
    const AsyncOp& p = cluster.pending[i];
    const bool waited =
        p.owner == &w && p.kind == kind && p.group && p.group <= group && (p.lanes & lanes);
    waited ? finish(cluster, i) : void(++i);
  }
  // Those that were done before count, too: the wait is what tells the thread.
  for (DoneOp& d : w.done) {
    if (d.kind != kind || d.group > group || !(d.lanes & lanes)) continue;
    if (RaceChecker* races = w.launch().races) races->join_agent(w, d.lanes & lanes, d.agent);
    d.lanes &= ~lanes;
  }
  std::erase_if(w.done, [](const DoneOp& d) { return d.lanes == 0; });
}

}  // namespace ptxsim
