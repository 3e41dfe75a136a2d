// SPDX-License-Identifier: Apache-2.0
// Two accesses race if they touch a byte, one of them writes, not both are strong (atomic,
// volatile, relaxed or stronger), and neither happens before the other. Happens-before is kept in
// vector clocks per thread; barriers, mbarriers, fences with strong accesses, and waits for
// asynchronous operations carry it from thread to thread. Since the order is derived and not
// observed, a race is found under almost any schedule, not only one in which it does harm.
//
// Within a warp, too: lanes are ordered by bar.warp.sync and stronger only, as the ISA says;
// shuffles and votes exchange values, not memory.
#include "engine/races.h"

#include <bit>
#include <unordered_map>

#include "engine/knowledge.h"
#include "engine/lanes.h"

namespace ptxsim {
namespace {

constexpr uint8_t kStrong = 1, kProxy = 2;

// Accesses of lanes of a row at one clock to some bytes of a word.
struct Stamp {
  uint32_t row = 0, clock = 0;  // clock 0: nothing
  uint32_t lanes = 0;
  uint32_t line = 0;            // of the PTX
  uint8_t bytes = 0;            // a bit for each
  uint8_t flags = 0;
};

struct Cell {  // a 4-byte word
  Stamp write, read;
  std::unique_ptr<std::vector<Stamp>> writes,
      reads;   // further ones that do not come after one another
};

class Shadow {
 public:
  Cell& at(uint64_t word) {
    std::unique_ptr<Cell[]>& page = pages_[word / kPage];
    if (!page) page = std::make_unique<Cell[]>(kPage);
    return page[word % kPage];
  }

 private:
  static constexpr uint64_t kPage = 1024;
  std::unordered_map<uint64_t, std::unique_ptr<Cell[]>> pages_;
};

struct WarpState {
  uint32_t row = 0;       // its own; + 1 that of its cp.async lanes, + 2 of its other agents
  uint32_t clock = 1, copies = 0, agents = 0;
  View views[kLanes];
  View released[kLanes];  // at the last fence: what later strong writes make known
  View acquired[kLanes];  // from strong reads: known after the next fence
};
constexpr uint32_t kRowsOfWarp = 3;

struct MbarrierState { View current, completed; };

struct BlockState {
  Shadow shadow;
  std::map<std::pair<uint32_t, uint32_t>, View> barriers;  // (id, generation)
  std::map<uint32_t, MbarrierState> mbarriers;
  std::vector<WarpState> warps;
  uint32_t first_row = 0;
};

struct ClusterState {
  std::map<uint32_t, View> generations;
  uint32_t base = 0, rows = 0;
};

struct AgentState {
  uint32_t row, clock, lanes;  // lanes: whose copies they are, or the slot
  bool each_lane, proxy;
  const Warp* issuer;
  View view[kLanes];           // one, or each lane's
};

class Checker : public RaceChecker {
 public:
  void start_cluster(Cluster& cluster) override {
    ClusterState& state = clusters_[&cluster];
    state.base = next_row_;
    for (Block& block : cluster.blocks) {
      BlockState& b = blocks_[&block];
      b.first_row = next_row_;
      b.warps.resize(block.warps.size());
      for (WarpState& w : b.warps) w.row = next_row_, next_row_ += kRowsOfWarp;
    }
    state.rows = next_row_ - state.base;
    auto nothing = std::make_shared<Knowledge>();
    nothing->base = state.base;
    nothing->near.resize(state.rows);
    for (Block& block : cluster.blocks)
      for (WarpState& w : blocks_[&block].warps)
        for (View& v : w.views) v = {nothing, nothing};
  }

  void end_cluster(Cluster& cluster) override {
    for (Block& block : cluster.blocks) blocks_.erase(&block);
    clusters_.erase(&cluster);
  }

  void access(Warp& w, const Op& op, const Place* places, const Access& access) override {
    WarpState& s = state(w);
    const uint32_t line = line_of(w, op);
    for_active(w.mask, [&](int l) {
      const Place& p = places[l];
      if (!p.shared_block && (!p.allocation || p.allocation->read_only)) return;
      const uint64_t at = p.shared_block ? p.shared_offset : uint64_t(p.data);
      Shadow& shadow = p.shared_block ? blocks_[p.shared_block].shadow : global_[p.allocation->id];
      Stamp stamp{s.row, s.clock, 1u << l, line, 0, uint8_t(access.is_strong ? kStrong : 0)};
      const Actor me{&s.views[l], &w, &op, l};
      touch(shadow, at, access.bytes, access.kind != Access::Kind::read, stamp, me, p);
    });
  }

  void order(Warp& w, const Op&, const Order& order, const Place* places, bool after) override {
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

  void fence(Warp& w, const Op&, FenceScope, int64_t kind) override {
    WarpState& s = state(w);
    for_active(w.mask, [&](int l) {
      if (kind == kFenceProxyAsync) {
        const View now = publish(s, l);
        s.views[l].fenced = joined(s.views[l].fenced, now.known);
        return;
      }
      s.views[l] = joined(s.views[l], s.acquired[l]);
      s.acquired[l] = {};
      s.released[l] = publish(s, l);
    });
    ++s.clock;
  }

  void warp_barrier(Warp& w, uint32_t members) override {
    WarpState& s = state(w);
    View all;
    for_active(members & w.live, [&](int l) { all = joined(all, publish(s, l)); });
    for_active(members & w.live, [&](int l) { s.views[l] = all; });
    ++s.clock;
  }

  void arrive_barrier(Warp& w, uint32_t id, uint32_t generation) override {
    View& sum = blocks_[w.block].barriers[{id, generation}];
    sum = joined(sum, publish(w));
  }
  void leave_barrier(Warp& w, uint32_t id, uint32_t generation) override {
    BlockState& b = blocks_[w.block];
    WarpState& s = state(w);
    const View& sum = b.barriers[{id, generation}];
    for_active(w.mask,
               [&](int l) { s.views[l] = sum; });  // what it arrived with is part of the sum
    if (generation > 1) b.barriers.erase({id, generation - 2});
  }

  void arrive_cluster(Warp& w, uint32_t generation, bool releases) override {
    View& sum = clusters_[w.block->cluster].generations[generation];
    if (releases) sum = joined(sum, publish(w));
  }
  void leave_cluster(Warp& w, uint32_t generation, bool acquires) override {
    WarpState& s = state(w);
    const View& sum = clusters_[w.block->cluster].generations[generation];
    if (acquires && sum.known)
      for_active(w.mask, [&](int l) { s.views[l] = joined(s.views[l], sum); });
  }

  void start_mbarrier(Block& block, uint32_t offset) override {
    blocks_[&block].mbarriers[offset] = {};
  }
  void release_mbarrier(const Warp* w, int lane, Agent agent, Block& block,
                        uint32_t offset) override {
    View& sum = blocks_[&block].mbarriers[offset].current;
    if (w) {
      WarpState& s = state(*w);
      sum = joined(sum, publish(s, lane));
      ++s.clock;
    } else if (agent.id) {
      sum = joined(sum, result_of(agents_.at(agent.id), kAllLanes));
    }
  }
  void end_phase(Block& block, uint32_t offset) override {
    MbarrierState& m = blocks_[&block].mbarriers[offset];
    m.completed = std::move(m.current);
    m.current = {};
  }
  void acquire_mbarrier(Warp& w, uint32_t lanes, Block& block, uint32_t offset) override {
    WarpState& s = state(w);
    const View& sum = blocks_[&block].mbarriers[offset].completed;
    if (sum.known) for_active(lanes, [&](int l) { s.views[l] = joined(s.views[l], sum); });
  }

  Agent start_agent(Warp& w, uint32_t lanes, bool each_lane, bool proxy) override {
    WarpState& s = state(w);
    AgentState a{};
    a.each_lane = each_lane, a.proxy = proxy, a.issuer = &w;
    if (each_lane) {
      a.row = s.row + 1, a.clock = ++s.copies, a.lanes = lanes;
      for_active(lanes, [&](int l) { a.view[l] = publish(s, l); });
    } else {
      a.row = s.row + 2, a.clock = ++s.agents, a.lanes = 1u << (a.clock % kLanes);
      for_active(lanes, [&](int l) { a.view[0] = joined(a.view[0], publish(s, l)); });
    }
    ++s.clock;
    agents_.emplace(++next_agent_, std::move(a));
    return {next_agent_};
  }
  void join_issue(Agent agent, Warp& w, uint32_t lanes) override {
    WarpState& s = state(w);
    AgentState& a = agents_.at(agent.id);
    for_active(lanes, [&](int l) { a.view[0] = joined(a.view[0], publish(s, l)); });
    ++s.clock;
  }
  void agent_shared(Agent agent, int lane, const Op& op, Block& block, uint32_t offset,
                    uint32_t bytes, bool write) override {
    const Place p{block.shared.data() + offset, &block, offset, nullptr};
    agent_touch(agent, lane, op, blocks_[&block].shadow, offset, bytes, write, p);
  }
  void agent_global(Agent agent, int lane, const Op& op, Allocation& allocation, uint64_t address,
                    uint64_t bytes, bool write) override {
    if (allocation.read_only) return;
    const Place p{reinterpret_cast<uint8_t*>(address), nullptr, 0, &allocation};
    agent_touch(agent, lane, op, global_[allocation.id], address, bytes, write, p);
  }
  void join_agent(Warp& w, uint32_t lanes, Agent agent) override {
    WarpState& s = state(w);
    const AgentState& a = agents_.at(agent.id);
    for_active(lanes, [&](int l) { s.views[l] = joined(s.views[l], result_of(a, 1u << l)); });
  }

 private:
  struct Actor {
    const View* view;
    const Warp* warp;
    const Op* op;
    int lane;
    bool proxy = false;
  };

  WarpState& state(const Warp& w) { return blocks_[w.block].warps[w.index]; }
  uint32_t line_of(const Warp& w, const Op& op) const {
    const Program& p = *w.fragment->frame->program;
    const size_t at = size_t(&op - p.ops.data());
    return at < p.function->body.size() ? p.function->body[at].line : 0;
  }

  // What a lane knows together with what it has done so far.
  View publish(WarpState& s, int lane) {
    View out = s.views[lane];
    if (out.known->find(s.row) && (*out.known->find(s.row))[size_t(lane)] >= s.clock) return out;
    auto wider = std::make_shared<Knowledge>(*out.known);
    wider->at(s.row)[size_t(lane)] = s.clock;
    out.known = std::move(wider);
    return out;
  }
  // All lanes of w.mask at once, for barriers; the clock moves on.
  View publish(Warp& w) {
    WarpState& s = state(w);
    View sum;
    for_active(w.mask, [&](int l) { sum = joined(sum, s.views[l]); });
    auto wider = std::make_shared<Knowledge>(*sum.known);
    for_active(w.mask, [&](int l) { wider->at(s.row)[size_t(l)] = s.clock; });
    sum.known = std::move(wider);
    ++s.clock;
    return sum;
  }
  View result_of(const AgentState& a, uint32_t lanes) {
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

  void agent_touch(Agent agent, int lane, const Op& op, Shadow& shadow, uint64_t at, uint64_t bytes,
                   bool write, const Place& place) {
    const AgentState& a = agents_.at(agent.id);
    const Warp& w = *a.issuer;
    uint32_t line = 0;
    for (const Fragment& f : w.fragments) {
      const Program& p = *f.frame->program;
      const size_t index = size_t(&op - p.ops.data());
      if (index < p.function->body.size()) line = p.function->body[index].line;
    }
    const Stamp stamp{a.row, a.clock, a.each_lane ? 1u << lane : a.lanes,
                      line,  0,       uint8_t(a.proxy ? kProxy : 0)};
    const Actor me{&a.view[a.each_lane ? lane : 0], &w, &op, std::max(lane, 0), a.proxy};
    touch(shadow, at, bytes, write, stamp, me, place);
  }

  static bool ordered(const Stamp& s, const Stamp& mine, const Actor& me) {
    uint32_t others = s.lanes;
    if (s.row == mine.row) others &= ~mine.lanes;
    if (!others) return true;
    // The async proxy sees generic accesses that were fenced for it; its own kind it sees as others
    // do.
    const Knowledge& known = me.proxy && !(s.flags & kProxy) ? *me.view->fenced : *me.view->known;
    const Clocks* clocks = known.find(s.row);
    if (!clocks) return false;
    for (uint32_t left = others; left; left &= left - 1)
      if ((*clocks)[size_t(std::countr_zero(left))] < s.clock) return false;
    return true;
  }

  void touch(Shadow& shadow, uint64_t at, uint64_t bytes, bool write, Stamp stamp, const Actor& me,
             const Place& place) {
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
        // those.
        auto covered = [&](const Stamp& s) { return !(s.bytes & ~stamp.bytes); };
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

  void remember_read(Cell& cell, const Stamp& stamp, const Actor& me) {
    auto merge = [&](Stamp& s) {
      const bool same = s.row == stamp.row && s.clock == stamp.clock && s.flags == stamp.flags &&
                        s.bytes == stamp.bytes;
      if (same) s.lanes |= stamp.lanes;
      return same;
    };
    if (!cell.read.clock || (!(cell.read.bytes & ~stamp.bytes) && ordered(cell.read, stamp, me))) {
      cell.read = stamp;
      return;
    }
    if (merge(cell.read)) return;
    if (cell.reads)
      for (Stamp& s : *cell.reads) {
        if (merge(s)) return;
        if (!(s.bytes & ~stamp.bytes) && ordered(s, stamp, me)) {
          s = stamp;
          return;
        }
      }
    add(cell.reads, stamp);
  }

  static void add(std::unique_ptr<std::vector<Stamp>>& list, const Stamp& stamp) {
    if (!list) list = std::make_unique<std::vector<Stamp>>();
    list->push_back(stamp);
  }

  void check(const Stamp& before, const Stamp& mine, const Actor& me, const Place& place,
             uint64_t word, bool before_writes, bool write) {
    if (!before.clock || !(before.bytes & mine.bytes)) return;
    if ((before.flags & kStrong) && (mine.flags & kStrong)) return;
    // One instruction of one warp: lanes that write one place write in some order, and that is
    // that.
    if (before.row == mine.row && before.clock == mine.clock && before.line == mine.line &&
        before_writes && write)
      return;
    // What the async proxy may miss are generic writes. That a read is over is told by the barrier
    // alone.
    Actor judge = me;
    judge.proxy = me.proxy && before_writes;
    if (ordered(before, mine, judge)) return;
    const bool same_warp = before.row == mine.row;
    const bool through_proxy =
        me.proxy && !(before.flags & kProxy) && known_but_unfenced(before, mine, me);
    const Report::Kind kind = through_proxy ? Report::Kind::proxy_race
                              : same_warp   ? Report::Kind::warp_hazard
                                            : Report::Kind::race;
    std::string text = std::string(write ? "write" : "read") + " of ";
    char number[32];
    if (place.shared_block) {
      snprintf(number, sizeof number, "shared 0x%llx", static_cast<unsigned long long>(word));
      text += number;
    } else {
      text += me.warp->launch().memory.describe(uint64_t(place.data));
    }
    text += std::string(" and ") + (before_writes ? "write" : "read") + " at PTX line " +
            std::to_string(before.line) + " by " + who(before, me.warp->launch()) +
            " are not ordered";
    if (through_proxy)
      text += ": fence.proxy.async is missing between them";
    else if (same_warp)
      text += ": __syncwarp is missing between the lanes";
    finding(*me.warp, *me.op, kind, 1u << me.lane, text);
  }

  static bool known_but_unfenced(const Stamp& s, const Stamp& mine, const Actor& me) {
    Actor plain = me;
    plain.proxy = false;
    return ordered(s, mine, plain);
  }

  std::string who(const Stamp& s, const Launch& launch) const {
    for (const auto& [block, state] : blocks_) {
      const uint32_t at = s.row - state.first_row;
      if (at >= state.warps.size() * kRowsOfWarp) continue;
      const Dim3 b = block->index;
      return describe(launch, Doer(at % kRowsOfWarp), at / kRowsOfWarp, std::countr_zero(s.lanes),
                      s.line) +
             " of block (" + std::to_string(b.x) + "," + std::to_string(b.y) + "," +
             std::to_string(b.z) + ")";
    }
    return "a block that has ended";
  }

  std::unordered_map<const Cluster*, ClusterState> clusters_;
  std::unordered_map<const Block*, BlockState> blocks_;
  std::unordered_map<uint64_t, Shadow> global_;  // by allocation id
  std::unordered_map<uint64_t, View> sync_;      // by address, of strong accesses
  std::unordered_map<uint32_t, AgentState> agents_;
  uint32_t next_row_ = 1, next_agent_ = 0;
};

}  // namespace

std::unique_ptr<RaceChecker> make_race_checker() { return std::make_unique<Checker>(); }

}  // namespace ptxsim
