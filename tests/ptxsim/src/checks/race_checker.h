// SPDX-License-Identifier: Apache-2.0
// Two accesses race if they touch a byte, one of them writes, not both are strong (atomic,
// volatile, relaxed or stronger), and neither happens before the other. Happens-before is kept in
// vector clocks per thread; barriers, mbarriers, fences with strong accesses, and waits for
// asynchronous operations carry it from thread to thread (races.cpp). Since the order is derived
// and not observed, a race is found under almost any schedule, not only one in which it does harm
// (race_accesses.cpp).
//
// Within a warp, too: lanes are ordered by bar.warp.sync and stronger only, as the ISA says;
// shuffles and votes exchange values, not memory.
#pragma once

#include <bit>
#include <unordered_map>

#include "checks/knowledge.h"
#include "checks/races.h"

namespace ptxsim {

constexpr uint8_t kStrong = 1, kProxy = 2, kAgent = 4;  // flags of an access
// Every thread of a block knows that the block has started: clock 1. What it does comes later.
constexpr uint32_t kStarted = 1;

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
    if (word / kPage != last_ || !cells_) {
      std::unique_ptr<Cell[]>& page = pages_[last_ = word / kPage];
      if (!page) page = std::make_unique<Cell[]>(kPage);
      cells_ = page.get();
    }
    return cells_[word % kPage];
  }
  template <typename F>
  void for_each(const F& f) const {  // word, cell
    for (const auto& [page, cells] : pages_)
      for (uint64_t i = 0; i < kPage; ++i) f(page * kPage + i, cells[i]);
  }

 private:
  static constexpr uint64_t kPage = 1024;
  std::unordered_map<uint64_t, std::unique_ptr<Cell[]>> pages_;
  uint64_t last_ = 0;  // the page asked for before: most accesses are near the one before
  Cell* cells_ = nullptr;
};

struct WarpState {
  uint32_t row = 0;       // its own; + 1 that of its cp.async lanes, + 2 of its other agents
  uint32_t clock = kStarted + 1, copies = kStarted, agents = kStarted;
  View views[kLanes];
  View released[kLanes];  // at the last fence: what later strong writes make known
  View acquired[kLanes];  // from strong reads: known after the next fence
};
constexpr uint32_t kRowsOfWarp = 3, kRowsOfPart = 1u << 28;

struct MbarrierState { View current, completed; };

struct BlockState {
  Shadow shadow;
  std::map<std::pair<uint32_t, uint32_t>, View> barriers;  // (id, generation)
  std::map<uint32_t, MbarrierState> mbarriers;
  std::vector<WarpState> warps;
  std::shared_ptr<const Knowledge> arrived;  // what came before cluster barriers, ordered or not
  uint32_t first_row = 0;
};

struct Generation {                          // of a cluster's barrier
  View released;
  std::shared_ptr<const Knowledge> arrived;  // relaxed arrivals, too
};

struct ClusterState {
  std::map<uint32_t, Generation> generations;
  std::shared_ptr<const Knowledge> all_started;
};

struct AgentState {
  uint32_t row, clock, lanes;  // lanes: whose copies they are, or the slot
  bool each_lane, proxy;
  const Warp* issuer;
  View view[kLanes];           // one, or each lane's
};

// fence.proxy.tensormap::generic.release of a warp, and what it released.
struct MapRelease {
  std::shared_ptr<const Knowledge> known;
  Stamp stamp;
};

class Checker : public RaceChecker {
 public:
  explicit Checker(uint32_t part) : next_row_(1 + part * kRowsOfPart) {}
  void start_cluster(Cluster& cluster) override;
  void end_block(Warp& w, const Op& op) override;
  void end_cluster(Cluster& cluster) override;
  void access(Warp& w, const Op& op, const Place* places, const Access& access) override;
  void order(Warp& w, const Order& order, const Place* places, bool after) override;
  void warp_barrier(Warp& w, uint32_t members) override;
  void arrive_barrier(Warp& w, uint32_t id, uint32_t generation) override;
  void leave_barrier(Warp& w, uint32_t id, uint32_t generation) override;
  void arrive_cluster(Warp& w, uint32_t generation, bool releases) override;
  void leave_cluster(Warp& w, uint32_t generation, bool acquires) override;
  void fence(Warp& w, int64_t kind) override;
  void start_mbarrier(Block& block, uint32_t offset) override;
  void release_mbarrier(Warp& w, int lane, Block& block, uint32_t offset) override;
  void complete_mbarrier(Agent agent, const Op& op, Block& block, uint32_t offset) override;
  void end_phase(Block& block, uint32_t offset) override;
  void acquire_mbarrier(Warp& w, uint32_t lanes, Block& block, uint32_t offset) override;
  Agent start_agent(Warp& w, uint32_t lanes, bool each_lane, bool proxy) override;
  void join_issue(Agent agent, Warp& w, uint32_t lanes) override;
  void agent_shared(Agent agent, int lane, const Op& op, Block& block, uint32_t offset,
                    uint32_t bytes, bool write) override;
  void agent_global(Agent agent, int lane, const Op& op, Allocation& allocation, uint64_t address,
                    uint64_t bytes, bool write) override;
  void join_agent(Warp& w, uint32_t lanes, Agent agent) override;
  void add_part(RaceChecker& part, Launch& launch) override;
  void acquire_map(Warp& w, const uint64_t* addresses) override;
  void use_map(Warp& w, int lane, const Op& op, const Place& map) override;

 private:
  struct Actor {
    const View* view;
    const Warp* warp;
    const Op* op;
    int lane;
    bool proxy = false;
  };

  WarpState& state(const Warp& w) { return blocks_[w.block].warps[w.index]; }
  View publish(WarpState& s, int lane);
  View publish_all(WarpState& s, uint32_t lanes);
  View result_of(const AgentState& a, uint32_t lanes);

  Stamp stamp_of(const AgentState& a, int lane, const Op& op) const;
  void touch(Shadow& shadow, uint64_t at, uint64_t bytes, bool write, Stamp stamp, const Actor& me,
             const Place& place);
  void remember_read(Cell& cell, const Stamp& stamp, const Actor& me);
  void check(const Stamp& before, const Stamp& mine, const Actor& me, const Place& place,
             uint64_t word, bool before_writes, bool write);
  void check_started(const Actor& me, const Block& block);
  bool mapped(const Stamp& s, const Knowledge& acquired) const;
  void report_meeting(const Stamp& before, const char* before_what, const Stamp& s,
                      const char* what, uint64_t word, Launch& launch) const;
  Dim3 block_of(const Stamp& s) const;
  std::string who(const Stamp& s, const Launch& launch) const;

  std::unordered_map<const Cluster*, ClusterState> clusters_;
  std::unordered_map<const Block*, BlockState> blocks_;
  std::unordered_map<uint64_t, Shadow> global_;  // by allocation id
  std::unordered_map<uint64_t, View> sync_;      // by address, of strong accesses
  std::unordered_map<uint32_t, AgentState> agents_;
  std::vector<MapRelease> map_releases_;
  // What a warp knew when it last acquired a tensor map: (row, address).
  std::map<std::pair<uint32_t, uint64_t>, std::shared_ptr<const Knowledge>> map_acquires_;
  std::map<uint32_t, Dim3> first_rows_;  // of every block, with those that have ended
  uint32_t next_row_, next_agent_ = 0;
};

// All accesses of the stamp are known.
inline bool covers(const Knowledge& known, const Stamp& stamp, uint32_t lanes) {
  if (!lanes) return true;
  const Clocks* clocks = known.find(stamp.row);
  if (!clocks) return false;
  for (; lanes; lanes &= lanes - 1)
    if ((*clocks)[size_t(std::countr_zero(lanes))] < stamp.clock) return false;
  return true;
}

}  // namespace ptxsim
