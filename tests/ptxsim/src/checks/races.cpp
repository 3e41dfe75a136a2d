// SPDX-License-Identifier: Apache-2.0
// Who knows of whose accesses: what barriers, fences, strong accesses and waits tell threads.
#include "checks/races.h"

#include "checks/race_checker.h"
#include "engine/lanes.h"

namespace ptxsim {

void Checker::start_cluster(Cluster& cluster) {
  const uint32_t base = next_row_;
  uint32_t rows = 0;
  for (const Block& block : cluster.blocks) rows += kRowsOfWarp * uint32_t(block.warps.size());
  auto all = std::make_shared<Knowledge>();
  all->base = base;
  all->near.resize(rows);
  const auto nothing = *all;
  for (Clocks& clocks : all->near) clocks.fill(kStarted);
  clusters_[&cluster].all_started = all;
  for (Block& block : cluster.blocks) {
    BlockState& b = blocks_[&block];
    b.first_row = next_row_;
    first_rows_[next_row_] = block.index;
    b.warps.resize(block.warps.size());
    auto own = std::make_shared<Knowledge>(nothing);
    for (WarpState& w : b.warps) {
      w.row = next_row_, next_row_ += kRowsOfWarp;
      for (uint32_t i = 0; i < kRowsOfWarp; ++i) own->at(w.row + i).fill(kStarted);
    }
    for (WarpState& w : b.warps)
      for (View& v : w.views) v = {own, own};
  }
}

void Checker::end_cluster(Cluster& cluster) {
  for (Block& block : cluster.blocks) blocks_.erase(&block);
  clusters_.erase(&cluster);
}

void Checker::order(Warp& w, const Order& order, const Place* places, bool after) {
  WarpState& s = state(w);
  for_active(w.mask, [&](int l) {
    const Place& p = places[l];
    if (!p.shared_block && !p.allocation) return;
    View& variable = sync_[uint64_t(p.data)];
    if (after) {
      if (!variable.known) return;
      if (order.acquires)
        s.views[l] = joined(s.views[l], variable);
      else
        s.acquired[l] = joined(s.acquired[l], variable);
    } else {
      if (order.releases)
        variable = joined(variable, publish(s, l));
      else if (s.released[l].known)
        variable = joined(variable, s.released[l]);
    }
  });
  if (!after && order.releases) ++s.clock;
}

void Checker::fence(Warp& w, int64_t kind) {
  WarpState& s = state(w);
  View all;
  for_active(w.mask, [&](int l) {
    if (kind == kFenceProxyAsync) {
      const View now = publish(s, l);
      s.views[l].fenced = joined(s.views[l].fenced, now.known);
      return;
    }
    s.views[l] = joined(s.views[l], s.acquired[l]);
    s.acquired[l] = {};
    s.released[l] = publish(s, l);
    if (kind == kFenceTensormapRelease) all = joined(all, s.released[l]);
  });
  if (kind == kFenceTensormapRelease)
    map_releases_.push_back({all.known, {s.row, s.clock, w.mask, 0, 0, 0}});
  ++s.clock;
}

void Checker::warp_barrier(Warp& w, uint32_t members) {
  WarpState& s = state(w);
  const View all = publish_all(s, members & w.live);
  for_active(members & w.live, [&](int l) { s.views[l] = all; });
}

void Checker::arrive_barrier(Warp& w, uint32_t id, uint32_t generation) {
  View& sum = blocks_[w.block].barriers[{id, generation}];
  sum = joined(sum, publish_all(state(w), w.mask));
}

void Checker::leave_barrier(Warp& w, uint32_t id, uint32_t generation) {
  BlockState& b = blocks_[w.block];
  WarpState& s = state(w);
  const View& sum = b.barriers[{id, generation}];
  for_active(w.mask, [&](int l) { s.views[l] = sum; });  // its own arrival is part of the sum
  if (generation > 1) b.barriers.erase({id, generation - 2});
}

// A relaxed arrival makes known what an earlier fence released.
void Checker::arrive_cluster(Warp& w, uint32_t generation, bool releases) {
  Generation& g = clusters_[w.block->cluster].generations[generation];
  const View all = publish_all(state(w), w.mask);
  g.arrived = joined(g.arrived, all.known);
  if (releases)
    g.released = joined(g.released, all);
  else
    for_active(w.mask, [&](int l) { g.released = joined(g.released, state(w).released[l]); });
}

// Whatever its semantics, all blocks have started.
void Checker::leave_cluster(Warp& w, uint32_t generation, bool acquires) {
  WarpState& s = state(w);
  BlockState& b = blocks_[w.block];
  ClusterState& c = clusters_[w.block->cluster];
  const Generation& g = c.generations[generation];
  b.arrived = joined(b.arrived, g.arrived);
  for_active(w.mask, [&](int l) {
    if (acquires && g.released.known) s.views[l] = joined(s.views[l], g.released);
    s.views[l].known = joined(s.views[l].known, c.all_started);
  });
}

void Checker::start_mbarrier(Block& block, uint32_t offset) {
  blocks_[&block].mbarriers[offset] = {};
}

void Checker::release_mbarrier(Warp& w, int lane, Block& block, uint32_t offset) {
  View& sum = blocks_[&block].mbarriers[offset].current;
  WarpState& s = state(w);
  sum = joined(sum, publish(s, lane));
  ++s.clock;
}

void Checker::end_phase(Block& block, uint32_t offset) {
  MbarrierState& m = blocks_[&block].mbarriers[offset];
  m.completed = std::move(m.current);
  m.current = {};
}

void Checker::acquire_mbarrier(Warp& w, uint32_t lanes, Block& block, uint32_t offset) {
  WarpState& s = state(w);
  const View& sum = blocks_[&block].mbarriers[offset].completed;
  if (sum.known) for_active(lanes, [&](int l) { s.views[l] = joined(s.views[l], sum); });
}

Agent Checker::start_agent(Warp& w, uint32_t lanes, bool each_lane, bool proxy) {
  WarpState& s = state(w);
  AgentState a{};
  a.each_lane = each_lane, a.proxy = proxy, a.issuer = &w;
  if (each_lane) {
    a.row = s.row + 1, a.clock = ++s.copies, a.lanes = lanes;
    for_active(lanes, [&](int l) { a.view[l] = publish(s, l); });
    ++s.clock;
  } else {
    a.row = s.row + 2, a.clock = ++s.agents, a.lanes = 1u << (a.clock % kLanes);
    a.view[0] = publish_all(s, lanes);
  }
  agents_.emplace(++next_agent_, std::move(a));
  return {next_agent_};
}

void Checker::join_issue(Agent agent, Warp& w, uint32_t lanes) {
  AgentState& a = agents_.at(agent.id);
  a.view[0] = joined(a.view[0], publish_all(state(w), lanes));
}

void Checker::join_agent(Warp& w, uint32_t lanes, Agent agent) {
  WarpState& s = state(w);
  const AgentState& a = agents_.at(agent.id);
  for_active(lanes, [&](int l) { s.views[l] = joined(s.views[l], result_of(a, 1u << l)); });
}

void Checker::acquire_map(Warp& w, const uint64_t* addresses) {
  WarpState& s = state(w);
  for_active(w.mask, [&](int l) {
    auto& known = map_acquires_[{s.row, addresses[l]}];
    known = joined(known, publish(s, l).known);
  });
}

// What a lane knows together with what it has done so far.
View Checker::publish(WarpState& s, int lane) {
  View out = s.views[lane];
  if (out.known->find(s.row) && (*out.known->find(s.row))[size_t(lane)] >= s.clock) return out;
  auto wider = std::make_shared<Knowledge>(*out.known);
  wider->at(s.row)[size_t(lane)] = s.clock;
  out.known = std::move(wider);
  return out;
}

// All these lanes at once, for barriers; the clock moves on.
View Checker::publish_all(WarpState& s, uint32_t lanes) {
  View sum;
  for_active(lanes, [&](int l) { sum = joined(sum, s.views[l]); });
  auto wider = std::make_shared<Knowledge>(*sum.known);
  for_active(lanes, [&](int l) { wider->at(s.row)[size_t(l)] = s.clock; });
  sum.known = std::move(wider);
  ++s.clock;
  return sum;
}

View Checker::result_of(const AgentState& a, uint32_t lanes) {
  View out;
  const uint32_t mine = a.each_lane ? a.lanes & lanes : a.lanes;
  if (a.each_lane)
    for_active(mine, [&](int l) { out = joined(out, a.view[l]); });
  else
    out = a.view[0];
  if (!out.known) return out;
  auto wider = std::make_shared<Knowledge>(*out.known);
  for_active(mine, [&](int l) {
    wider->at(a.row)[size_t(l)] = std::max(wider->at(a.row)[size_t(l)], a.clock);
  });
  out.known = std::move(wider);
  return out;
}

std::unique_ptr<RaceChecker> make_race_checker(uint32_t part) {
  return std::make_unique<Checker>(part);
}

}  // namespace ptxsim
