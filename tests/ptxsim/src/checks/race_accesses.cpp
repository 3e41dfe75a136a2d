// SPDX-License-Identifier: Apache-2.0
// Which accesses have touched a word, and whether the next one comes after them.
#include <bit>
#include <set>

#include "checks/race_checker.h"
#include "engine/lanes.h"
#include "tensor/tensormap.h"

namespace ptxsim {
namespace {

void add(std::unique_ptr<std::vector<Stamp>>& list, const Stamp& stamp) {
  if (!list) list = std::make_unique<std::vector<Stamp>>();
  list->push_back(stamp);
}

template <typename F>
void for_stamps(const Stamp& first, const std::unique_ptr<std::vector<Stamp>>& more, const F& f) {
  if (first.clock) f(first);
  if (more)
    for (const Stamp& s : *more) f(s);
}

std::string hex(uint64_t v) {
  char text[24];
  snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
  return text;
}

uint32_t others_of(const Stamp& before, const Stamp& mine) {
  return before.row == mine.row ? before.lanes & ~mine.lanes : before.lanes;
}

}  // namespace

void Checker::access(Warp& w, const Op& op, const Place* places, const Access& access) {
  WarpState& s = state(w);
  const uint32_t line = op.line;
  const Place* before = nullptr;  // most lanes are in the memory of the one before
  Shadow* shadow = nullptr;
  for_active(w.mask, [&](int l) {
    const Place& p = places[l];
    if (!p.shared_block && (!p.allocation || p.allocation->read_only)) return;
    const uint64_t at = p.shared_block ? p.shared_offset : uint64_t(p.data);
    if (!before || p.shared_block != before->shared_block || p.allocation != before->allocation)
      shadow = p.shared_block ? &blocks_[p.shared_block].shadow : &global_[p.allocation->id];
    before = &p;
    Stamp stamp{s.row, s.clock, 1u << l, line, 0, uint8_t(access.is_strong ? kStrong : 0)};
    const Actor me{&s.views[l], &w, &op, l};
    if (p.shared_block && p.shared_block != w.block) check_started(me, *p.shared_block);
    touch(*shadow, at, access.bytes, access.kind != Access::Kind::read, stamp, me, p);
  });
}

Stamp Checker::stamp_of(const AgentState& a, int lane, const Op& op) const {
  return {a.row,   a.clock, a.each_lane ? 1u << lane : a.lanes,
          op.line, 0,       uint8_t(kAgent | (a.proxy ? kProxy : 0))};
}

void Checker::agent_shared(Agent agent, int lane, const Op& op, Block& block, uint32_t offset,
                           uint32_t bytes, bool write) {
  const AgentState& a = agents_.at(agent.id);
  const Actor me{&a.view[a.each_lane ? lane : 0], a.issuer, &op, std::max(lane, 0), a.proxy};
  if (block.live == 0)
    finding(*a.issuer, op, Report::Kind::async_hazard, 1u << me.lane,
            "is still at work on the shared memory of a block that has exited");
  if (&block != a.issuer->block) check_started(me, block);
  const Place p{block.shared.data() + offset, &block, offset, nullptr};
  touch(blocks_[&block].shadow, offset, bytes, write, stamp_of(a, lane, op), me, p);
}

void Checker::agent_global(Agent agent, int lane, const Op& op, Allocation& allocation,
                           uint64_t address, uint64_t bytes, bool write) {
  if (allocation.read_only) return;
  const AgentState& a = agents_.at(agent.id);
  const Actor me{&a.view[a.each_lane ? lane : 0], a.issuer, &op, std::max(lane, 0), a.proxy};
  const Place p{reinterpret_cast<uint8_t*>(address), nullptr, 0, &allocation};
  touch(global_[allocation.id], address, bytes, write, stamp_of(a, lane, op), me, p);
}

// The mbarrier itself is written, strongly: its initialisation must come before.
void Checker::complete_mbarrier(Agent agent, const Op& op, Block& block, uint32_t offset) {
  BlockState& b = blocks_[&block];
  const AgentState& a = agents_.at(agent.id);
  View& sum = b.mbarriers[offset].current;
  sum = joined(sum, result_of(a, kAllLanes));
  Stamp stamp = stamp_of(a, 0, op);
  stamp.flags |= kStrong;
  const Actor me{&a.view[0], a.issuer, &op, 0};
  touch(b.shadow, offset, 8, true, stamp, me,
        {block.shared.data() + offset, &block, offset, nullptr});
}

bool Checker::mapped(const Stamp& s, const Knowledge& acquired) const {
  for (auto r = map_releases_.rbegin(); r != map_releases_.rend(); ++r)
    if (covers(*r->known, s, s.lanes) &&
        covers(acquired, r->stamp, 1u << std::countr_zero(r->stamp.lanes)))
      return true;
  return false;
}

// A map is read through a proxy of its own: besides an order, writes need a release and an acquire.
void Checker::use_map(Warp& w, int lane, const Op& op, const Place& map) {
  if (!map.allocation || map.allocation->read_only) return;
  const WarpState& s = state(w);
  const Actor me{&s.views[lane], &w, &op, lane};
  Shadow& shadow = global_[map.allocation->id];
  const uint64_t at = uint64_t(map.data);
  const auto acquired = map_acquires_.find({s.row, at});
  bool missing = false;
  for (uint64_t word = at / 4; word < (at + kTensorMapBytes) / 4; ++word) {
    const Cell& cell = shadow.at(word);
    for_stamps(cell.write, cell.writes, [&](const Stamp& write) {
      missing |= acquired == map_acquires_.end() || !mapped(write, *acquired->second);
    });
  }
  if (missing)
    finding(w, op, Report::Kind::proxy_race, 1u << lane,
            "uses " + w.launch().memory.describe(at) +
                " as a tensor map that was written without fence.proxy.tensormap::generic.release "
                "after the write and .acquire before the use");
  touch(shadow, at, kTensorMapBytes, false, {s.row, s.clock, 1u << lane, op.line, 0, 0}, me, map);
}

void Checker::end_block(Warp& w, const Op& op) {
  const BlockState& b = blocks_[w.block];
  Knowledge all = *b.warps[0].views[0].known;
  std::set<const Knowledge*> seen;
  for (const WarpState& s : b.warps)
    for (const View& v : s.views)
      if (seen.insert(v.known.get()).second) all.join(*v.known);
  const uint32_t end = b.first_row + kRowsOfWarp * uint32_t(b.warps.size());
  std::set<uint32_t> told;  // one report for a line
  b.shadow.for_each([&](uint64_t word, const Cell& cell) {
    const auto check_over = [&](const Stamp& s, bool reads) {
      const bool own = s.row >= b.first_row && s.row < end;
      if ((own && (s.row - b.first_row) % kRowsOfWarp == 0) || covers(all, s, s.lanes)) return;
      // A load that comes before the barrier needs no order to be over.
      if (reads && !(s.flags & kAgent) && b.arrived && covers(*b.arrived, s, s.lanes)) return;
      if (!told.insert(s.line).second) return;
      finding(w, op, Report::Kind::async_hazard, w.mask,
              "the block exits, but nothing in it knows that the access to shared " +
                  hex(word * 4) + " at PTX line " + std::to_string(s.line) + " by " +
                  who(s, w.launch()) + " is over");
    };
    for_stamps(cell.write, cell.writes, [&](const Stamp& s) { check_over(s, false); });
    for_stamps(cell.read, cell.reads, [&](const Stamp& s) { check_over(s, true); });
  });
}

void Checker::add_part(RaceChecker& part, Launch& launch) {
  auto& other = static_cast<Checker&>(part);
  first_rows_.merge(other.first_rows_);
  std::set<std::pair<uint32_t, uint32_t>> told;  // one report for two lines
  for (auto& [id, shadow] : other.global_) {
    Shadow& mine = global_[id];
    shadow.for_each([&](uint64_t word, const Cell& theirs) {
      if (!theirs.write.clock && !theirs.read.clock) return;
      Cell& cell = mine.at(word);
      const auto compare = [&](const Stamp& a, const char* a_does, const Stamp& b,
                               const char* b_does) {
        if ((a.bytes & b.bytes) && told.insert({a.line, b.line}).second)
          report_meeting(a, a_does, b, b_does, word, launch);
      };
      for_stamps(theirs.write, theirs.writes, [&](const Stamp& b) {
        for_stamps(cell.write, cell.writes,
                   [&](const Stamp& a) { compare(a, "write", b, "write"); });
        for_stamps(cell.read, cell.reads, [&](const Stamp& a) { compare(a, "read", b, "write"); });
      });
      for_stamps(theirs.read, theirs.reads, [&](const Stamp& b) {
        for_stamps(cell.write, cell.writes,
                   [&](const Stamp& a) { compare(a, "write", b, "read"); });
      });
      for_stamps(theirs.write, theirs.writes, [&](const Stamp& s) {
        cell.write.clock ? add(cell.writes, s) : void(cell.write = s);
      });
      for_stamps(theirs.read, theirs.reads, [&](const Stamp& s) {
        cell.read.clock ? add(cell.reads, s) : void(cell.read = s);
      });
    });
  }
}

void Checker::report_meeting(const Stamp& before, const char* before_what, const Stamp& s,
                             const char* what, uint64_t word, Launch& launch) const {
  Report r{Report::Kind::race, false, launch.kernel, block_of(s), {}, 0, "", ""};
  const uint32_t warp = (s.row - std::prev(first_rows_.upper_bound(s.row))->first) / kRowsOfWarp;
  r.thread = launch.thread(warp * kLanes + uint32_t(std::countr_zero(s.lanes)));
  r.text = std::string(what) + " of " + launch.memory.describe(word * 4) + " and " + before_what +
           " at PTX line " + std::to_string(before.line) + " by " + who(before, launch) +
           " are not ordered";
  if (const ptx::Instruction* at = launch.programs.at_line(s.line))
    locate(r, launch.programs.entry(), *at);
  launch.add(std::move(r));
}

void Checker::check_started(const Actor& me, const Block& block) {
  const Clocks* clocks = me.view->known->find(blocks_[&block].first_row);
  if (clocks && (*clocks)[0] >= kStarted) return;
  finding(*me.warp, *me.op, Report::Kind::race, 1u << me.lane,
          "touches the shared memory of block " + std::to_string(block.rank) +
              " of the cluster, which may not have started: no barrier.cluster comes before");
}

void Checker::touch(Shadow& shadow, uint64_t at, uint64_t bytes, bool write, Stamp stamp,
                    const Actor& me, const Place& place) {
  const uint64_t end = at + bytes;
  for (uint64_t word = at / 4; word * 4 < end; ++word) {
    const uint64_t first = std::max(at, word * 4) - word * 4,
                   last = std::min(end, word * 4 + 4) - word * 4;
    stamp.bytes = uint8_t(((1u << last) - 1) & ~((1u << first) - 1));
    Cell& cell = shadow.at(word);
    check(cell.write, stamp, me, place, word * 4, true, write);
    if (cell.writes)
      for (const Stamp& s : *cell.writes) check(s, stamp, me, place, word * 4, true, write);
    if (write) {
      check(cell.read, stamp, me, place, word * 4, false, write);
      if (cell.reads)
        for (const Stamp& s : *cell.reads) check(s, stamp, me, place, word * 4, false, write);
      // What this write covers is history: a later access that is ordered after it comes after
      // those. But strong ones need no order among one another.
      auto covered = [&](const Stamp& s) {
        return !(s.bytes & ~stamp.bytes) && (!(stamp.flags & kStrong) || (s.flags & kStrong));
      };
      if (cell.reads) std::erase_if(*cell.reads, covered);
      if (cell.writes) std::erase_if(*cell.writes, covered);
      if (covered(cell.read)) cell.read = {};
      if (!cell.write.clock || covered(cell.write))
        cell.write = stamp;
      else
        add(cell.writes, stamp);
    } else {
      remember_read(cell, stamp, me);
    }
  }
}

void Checker::remember_read(Cell& cell, const Stamp& stamp, const Actor& me) {
  auto merge = [&](Stamp& s) {
    const bool same = s.row == stamp.row && s.clock == stamp.clock && s.flags == stamp.flags &&
                      s.bytes == stamp.bytes;
    if (same) s.lanes |= stamp.lanes;
    return same;
  };
  auto replaces = [&](const Stamp& s) {
    return !(s.bytes & ~stamp.bytes) && covers(*me.view->known, s, others_of(s, stamp));
  };
  if (!cell.read.clock || replaces(cell.read)) {
    cell.read = stamp;
    return;
  }
  if (merge(cell.read)) return;
  if (cell.reads)
    for (Stamp& s : *cell.reads) {
      if (merge(s)) return;
      if (replaces(s)) {
        s = stamp;
        return;
      }
    }
  add(cell.reads, stamp);
}

void Checker::check(const Stamp& before, const Stamp& mine, const Actor& me, const Place& place,
                    uint64_t word, bool before_writes, bool write) {
  if (!before.clock || !(before.bytes & mine.bytes)) return;
  if ((before.flags & kStrong) && (mine.flags & kStrong)) return;
  // Lanes of one instruction that write one place: opcodes/memory.cpp compares what they write.
  if (before.row == mine.row && before.clock == mine.clock && before.line == mine.line &&
      before_writes && write)
    return;
  const uint32_t others = others_of(before, mine);
  // What the async proxy may miss are generic writes. That a read is over is told by the barrier
  // alone.
  const bool needs_fence = me.proxy && before_writes && !(before.flags & kProxy);
  if (covers(needs_fence ? *me.view->fenced : *me.view->known, before, others)) return;
  const bool through_proxy = needs_fence && covers(*me.view->known, before, others);
  const bool same_warp = before.row == mine.row && !(mine.flags & kAgent);
  const Report::Kind kind = through_proxy ? Report::Kind::proxy_race
                            : same_warp   ? Report::Kind::warp_hazard
                                          : Report::Kind::race;
  std::string text = std::string(write ? "write" : "read") + " of ";
  text += place.shared_block ? "shared " + hex(word)
                             : me.warp->launch().memory.describe(uint64_t(place.data));
  text += std::string(" and ") + (before_writes ? "write" : "read") + " at PTX line " +
          std::to_string(before.line) + " by " + who(before, me.warp->launch()) +
          " are not ordered";
  if (through_proxy)
    text += ": fence.proxy.async is missing between them";
  else if (same_warp)
    text += ": __syncwarp is missing between the lanes";
  finding(*me.warp, *me.op, kind, 1u << me.lane, text);
}

Dim3 Checker::block_of(const Stamp& s) const {
  return std::prev(first_rows_.upper_bound(s.row))->second;
}

std::string Checker::who(const Stamp& s, const Launch& launch) const {
  const uint32_t at = s.row - std::prev(first_rows_.upper_bound(s.row))->first;
  const Dim3 b = block_of(s);
  return describe(launch, Doer(at % kRowsOfWarp), at / kRowsOfWarp, std::countr_zero(s.lanes),
                  s.line) +
         " of block (" + std::to_string(b.x) + "," + std::to_string(b.y) + "," +
         std::to_string(b.z) + ")";
}

}  // namespace ptxsim
