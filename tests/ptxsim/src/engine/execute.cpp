// SPDX-License-Identifier: Apache-2.0
// The order of events. A seeded scheduler picks a warp of a cluster, runs it for a random stretch,
// lets asynchronous work complete in between, and from time to time turns to another resident
// cluster.
#include <algorithm>

#include "checks/races.h"
#include "checks/taint.h"
#include "checks/wgmma_registers.h"
#include "counters/counters.h"
#include "engine/calls.h"
#include "engine/launch.h"
#include "engine/waits.h"

namespace ptxsim {
namespace {

// Ends the launch with the place of every warp.
[[noreturn]] void report_places(Launch& launch, Report::Kind kind, std::string text) {
  int shown = 0;
  const Warp* first = nullptr;
  for (const auto& cluster : launch.resident)
    for (const Block& block : cluster->blocks)
      for (const Warp& warp : block.warps)
        for (const Fragment& f : warp.fragments) {
          // Lanes of a warp at different aligned instructions, where all of them have to meet.
          const auto apart = [&](const Fragment& other) {
            return other.wait.kind == Wait::Kind::converge && other.pc != f.pc;
          };
          if (kind == Report::Kind::deadlock && f.wait.kind == Wait::Kind::converge &&
              std::any_of(warp.fragments.begin(), warp.fragments.end(), apart))
            kind = Report::Kind::barrier_misuse;
          if (!first) first = &warp;
          if (++shown <= 32) text += "\n  " + describe_wait(warp, f);
        }
  if (shown > 32) text += "\n  and " + std::to_string(shown - 32) + " more";
  if (!first) throw Fault{{kind, true, launch.kernel, {}, {}, 0, "", text}};
  const Fragment& f = first->fragments[0];
  fault(*first, f.frame->program->ops[f.pc], kind, f.mask, text);
}

bool pick(Warp& w, Random& random) {
  Fragment* next = choose_fragment(w, random);
  if (!next) return false;
  next->wait = {};
  bind(w, *next);
  return true;
}

// Executes the next instruction of the bound fragment.
void step(Warp& w, Launch& launch) {
  Fragment& f = *w.fragment;
  const Op& op = f.frame->program->ops[f.pc];
  w.mask = f.mask;
  if (op.guard != Op::kNone) {
    const uint32_t p = w.predicate(op.guard);
    w.mask &= op.guard_negated ? ~p : p;
  }
  if (op.converges && !converged(w, w.live)) {
    w.fragment = nullptr;
    return;
  }
  ++launch.instructions;
  if (w.mask == 0) {
    ++launch.counters->executed[size_t(op.kind)];
    ++launch.counters->predicated_off;
    ++f.pc;
    return;
  }
  if (op.converges && w.mask != f.mask)
    fault(w, op, Report::Kind::barrier_misuse, f.mask & ~w.mask,
          "lanes of a warp disagree about the guard of an aligned instruction");
  if (op.touches_wgmma && launch.races) check_wgmma_registers(w, op);
  if (!w.taint.empty()) track_taint(w, op);
  const Flow flow = op.run(w, op);
  if (flow == Flow::wait) {  // it runs again, and is counted then
    w.fragment = nullptr;
    return;
  }
  ++launch.counters->executed[size_t(op.kind)];
  if (flow == Flow::next) ++f.pc;
}

// Runs a warp for at most `budget` instructions; it may stop earlier to wait.
void run_warp(Warp& w, uint64_t budget) {
  Launch& launch = w.launch();
  Random& random = launch.schedule.random;
  for (; budget > 0 && w.live; --budget) {
    if (w.fragments.size() > 1 && w.fragment) {
      const Op& op = w.fragment->frame->program->ops[w.fragment->pc];
      if (op.is_label ||
          op.converges) {  // lanes may meet, and lanes behind get the chance to catch up
        w.fragment = nullptr;
      }
    }
    if (!w.fragment && !pick(w, random)) return;
    step(w, launch);
  }
}

// A warp that looks so many times for something while nothing at all happens: asynchronous work is
// due, then all hope is lost.
constexpr uint64_t kPatience = 64, kHopeless = 4096;

bool polls_in_vain(const Launch& launch, const Warp& w, uint64_t times) {
  return w.polled_at == launch.progress && w.polls >= times;
}

// All that could run polls, and nothing more will start.
bool only_spins(Launch& launch) {
  if (launch.instructions < launch.next_spin_check || launch.may_start()) return false;
  launch.next_spin_check = launch.instructions + 25 * kHopeless;
  for (const auto& cluster : launch.resident) {
    if (!cluster->pending.empty()) return false;
    for (Block& block : cluster->blocks)
      for (Warp& w : block.warps) {
        const bool stuck = !w.live || polls_in_vain(launch, w, kHopeless / 2) ||
                           (!w.fragment && !choose_fragment(w, launch.schedule.random));
        if (!stuck) return false;
      }
  }
  return true;
}

bool has_work(Cluster& cluster) {
  for (Block& block : cluster.blocks)
    if (block.live) return true;
  return !cluster.pending.empty();
}

// Runs a cluster until it ends, waits for something outside, or its quantum is used up. Returns
// false if nothing in it could run.
bool run_cluster(Launch& launch, Cluster& cluster, uint64_t quantum) {
  Schedule& schedule = launch.schedule;
  Random& random = schedule.random;
  std::vector<Warp*> warps;
  for (Block& block : cluster.blocks)
    for (Warp& warp : block.warps) warps.push_back(&warp);
  const uint64_t stop = launch.instructions + quantum;
  bool ran = false;
  while (launch.instructions < stop && has_work(cluster)) {
    if (!cluster.pending.empty() &&
        (schedule.async == Schedule::Async::early ||
         (schedule.async == Schedule::Async::random && random.one_in(4))))
      ran |= complete_one(cluster, random);
    // The first warp from a random one on that can run.
    const uint32_t first = random.below(uint32_t(warps.size()));
    bool found = false, in_vain = false;
    for (size_t i = 0; i < warps.size() && !found; ++i) {
      Warp& w = *warps[(first + i) % warps.size()];
      if (!w.live || (!w.fragment && !choose_fragment(w, random))) continue;
      const uint64_t before = launch.instructions;
      run_warp(w, 1 + random.below(schedule.warp_quantum));
      found = launch.instructions != before;
      in_vain = polls_in_vain(launch, w, kPatience);
      if (polls_in_vain(launch, w, kHopeless)) {
        if (only_spins(launch))
          report_places(launch, Report::Kind::deadlock, "all that runs polls, and nothing happens");
        if (cluster.pending.empty()) return true;  // another cluster's turn
      }
    }
    if (in_vain) complete_one(cluster, random);
    if (found) {
      ran = true;
    } else if (complete_one(cluster, random)) {
      ran = true;
    } else {
      return ran;
    }
    const uint64_t most = launch.options.max_instructions;
    if (most && launch.instructions > most)
      report_places(
          launch, Report::Kind::limit,
          "more than " + std::to_string(most) + " warp instructions (option max_instructions)");
  }
  return ran;
}

Dim3 cluster_index(const LaunchConfig& c, uint64_t index) {
  const Dim3 clusters{c.grid.x / c.cluster.x, c.grid.y / c.cluster.y, c.grid.z / c.cluster.z};
  return {uint32_t(index % clusters.x), uint32_t(index / clusters.x % clusters.y),
          uint32_t(index / clusters.x / clusters.y)};
}

std::unique_ptr<Cluster> start_cluster(Launch& launch, uint64_t index) {
  const LaunchConfig& c = launch.config;
  auto cluster = std::make_unique<Cluster>();
  cluster->launch = &launch;
  cluster->index = cluster_index(c, index);
  cluster->blocks.resize(c.cluster.count());
  const uint32_t threads = uint32_t(c.block.count());
  uint32_t rank = 0;
  for (Block& block : cluster->blocks) {
    block.cluster = cluster.get();
    block.rank = rank;
    block.index = {cluster->index.x * c.cluster.x + rank % c.cluster.x,
                   cluster->index.y * c.cluster.y + rank / c.cluster.x % c.cluster.y,
                   cluster->index.z * c.cluster.z + rank / c.cluster.x / c.cluster.y};
    ++rank;
    block.shared.assign(launch.shared_bytes, 0xcb);
    block.written.assign((launch.shared_bytes + 63) / 64, 0);
    block.threads = block.live = threads;
    cluster->live += threads;
    block.warps.resize((threads + kLanes - 1) / kLanes);
    for (uint32_t i = 0; i < block.warps.size(); ++i) {
      Warp& w = block.warps[i];
      w.block = &block;
      w.index = i;
      const uint32_t lanes = std::min(uint32_t(kLanes), threads - i * kLanes);
      w.live = lanes == kLanes ? kAllLanes : (1u << lanes) - 1;
      Fragment f;
      f.mask = w.live;
      f.frame = make_frame(w, launch.programs.entry(), nullptr);
      w.fragments.push_back(std::move(f));
    }
  }
  if (launch.races) launch.races->start_cluster(*cluster);
  return cluster;
}

void finish_cluster(Cluster& cluster) {
  for (const Block& block : cluster.blocks)
    cluster.launch->counters->end_block(block.loaded, block.stored);
  if (RaceChecker* races = cluster.launch->races) races->end_cluster(cluster);
}

}  // namespace

Schedule::Schedule(uint64_t seed)
    : random(seed), async(Async(seed % 3)), warp_quantum(1), cluster_quantum(1) {
  static constexpr uint32_t kWarp[] = {64, 1, 256, 16, 4, 1024};
  warp_quantum = kWarp[seed / 3 % 6];
  cluster_quantum = seed % 4 == 3 ? 256 : 100000;
}

bool Launch::cancel_cluster(Dim3* first) {
  if (started >= clusters()) return false;
  const Dim3 at = cluster_index(config, started++);
  *first = {at.x * config.cluster.x, at.y * config.cluster.y, at.z * config.cluster.z};
  return true;
}

uint64_t Launch::clusters() const {
  return (config.grid.count() / config.cluster.count() - part + parts - 1) / parts;
}

// What the card holds at once; blocks may rely on one another only within that (PTX ISA,
// cooperative launches), and starting in order is what cards do.
bool Launch::may_start() const {
  return started < clusters() &&
         (resident.size() + 1) * config.cluster.count() <= std::max<uint64_t>(resident_limit, 1);
}

void Launch::poll(Warp& w, uint64_t address) {
  if (w.polled_at != progress) w.polls = 0, w.polled_at = progress, w.polled = {};
  // Looking at one place after the other is no loop around them.
  if (std::find(w.polled.begin(), w.polled.end(), address) != w.polled.end())
    ++w.polls;
  else
    std::move_backward(w.polled.begin(), w.polled.end() - 1, w.polled.end()), w.polled[0] = address;
}

bool Launch::run() {
  try {
    while (started < clusters() || !resident.empty()) {
      bool ran = false;
      for (size_t i = 0; i < resident.size();) {
        ran |= run_cluster(*this, *resident[i],
                           1 + schedule.random.below(uint32_t(schedule.cluster_quantum)));
        if (has_work(*resident[i])) {
          ++i;
        } else {
          finish_cluster(*resident[i]);
          resident.erase(resident.begin() + long(i));
          ran = true;
        }
      }
      // More start when what runs has used up its turn, so that blocks overlap as on a card, or at
      // once if it cannot go on without them.
      if (may_start()) {
        resident.push_back(start_cluster(*this, part + parts * started++));
        ++progress;
        ran = true;
      }
      if (!ran) report_places(*this, Report::Kind::deadlock, "nothing can run any more");
    }
  } catch (const Fault& f) {
    reports.push_back(f.report);
    resident.clear();
    return false;
  }
  return true;
}

}  // namespace ptxsim
