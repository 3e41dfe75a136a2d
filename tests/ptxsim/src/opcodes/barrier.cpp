// SPDX-License-Identifier: Apache-2.0
// Barriers of warps, blocks and clusters, and fences: PTX ISA 9.7.13.
#include <cstring>

#include "checks/races.h"
#include "engine/lanes.h"
#include "engine/memory.h"
#include "engine/operands.h"
#include "engine/waits.h"

namespace ptxsim {
namespace {

using ptx::Operand;
using ptx::Type;

// --- bar.warp.sync ---

Flow run_warp_barrier(Warp& w, const Op& op) {
  const uint32_t* masks = w.lanes<uint32_t>(op.slot[1]);
  const uint32_t members = masks[std::countr_zero(w.mask)];
  uint32_t wrong = 0;
  for_active(w.mask,
             [&](int l) { wrong |= uint32_t(masks[l] != members || !((members >> l) & 1)) << l; });
  if (wrong)
    fault(w, op, Report::Kind::barrier_misuse, wrong,
          "a lane is not in its member mask, or lanes here have different ones");
  const uint32_t needed = members & w.live;
  if ((w.mask & needed) != needed) {
    w.fragment->wait = {Wait::Kind::warp_barrier, members, 0, 0, 0};
    return Flow::wait;
  }
  if (w.launch().races) w.launch().races->warp_barrier(w, members);
  return Flow::next;
}

// --- bar / barrier of a block ---

struct BlockBarrier {
  enum class Kind : uint8_t { sync, arrive, red_popc, red_and, red_or } kind;
  uint32_t id_slot, count_slot = Op::kNone, predicate_slot = Op::kNone;
  bool negated = false, aligned = true;
};

// A warp's aligned arrival counts for 32 threads, whatever lanes it has: PTX ISA 9.7.13.1.
Flow run_block_barrier(Warp& w, const Op& op) {
  const auto& form = *static_cast<const BlockBarrier*>(op.form);
  Launch& launch = w.launch();
  Block& block = *w.block;
  Fragment& f = *w.fragment;
  const int first = std::countr_zero(w.mask);
  if (f.arrived_at_barrier) {  // and now it is complete
    f.arrived_at_barrier = false;
    const NamedBarrier& bar = block.barriers[f.barrier_id];
    if (launch.races) launch.races->leave_barrier(w, f.barrier_id, f.barrier_generation);
    switch (form.kind) {
      case BlockBarrier::Kind::red_popc:
        write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int) { return bar.result_popc; });
        break;
      case BlockBarrier::Kind::red_and:
        write_predicate(w, op.slot[0], bar.result_all ? kAllLanes : 0);
        break;
      case BlockBarrier::Kind::red_or:
        write_predicate(w, op.slot[0], bar.result_any ? kAllLanes : 0);
        break;
      default: break;
    }
    return Flow::next;
  }
  const uint32_t id = w.lanes<uint32_t>(form.id_slot)[first];
  if (id >= 16)
    fault(w, op, Report::Kind::barrier_misuse, w.mask,
          "barrier " + std::to_string(id) + "; there are 16");
  NamedBarrier& bar = block.barriers[id];
  uint32_t count = 0;
  if (form.count_slot != Op::kNone) {
    count = w.lanes<uint32_t>(form.count_slot)[first];
    if (count == 0 || count % kLanes || count > (block.threads + kLanes - 1) / kLanes * kLanes)
      fault(w, op, Report::Kind::barrier_misuse, w.mask,
            "barrier with a thread count of " + std::to_string(count) +
                "; it must be a multiple of 32, at most the block's");
  }
  if (bar.arrived && bar.expected != count)
    fault(w, op, Report::Kind::barrier_misuse, w.mask,
          "barrier " + std::to_string(id) + " is entered with thread count " +
              std::to_string(count) + " while others wait there with " +
              std::to_string(bar.expected));
  ++launch.progress;
  bar.expected = count;
  bar.arrived += form.aligned && count ? kLanes : uint32_t(std::popcount(w.mask));
  const bool has_predicate = form.predicate_slot != Op::kNone;
  if (has_predicate) {
    const uint32_t p = (w.predicate(form.predicate_slot) ^ (form.negated ? kAllLanes : 0)) & w.mask;
    bar.popc += uint32_t(std::popcount(p));
    bar.all &= p == w.mask, bar.any |= p != 0;
  }
  if (launch.races) launch.races->arrive_barrier(w, id, bar.generation);
  const uint32_t generation = bar.generation;
  if (count && bar.arrived > count)
    fault(w, op, Report::Kind::barrier_misuse, w.mask,
          "more threads arrive at barrier " + std::to_string(id) + " than its count of " +
              std::to_string(count));
  if (form.kind != BlockBarrier::Kind::arrive) {
    f.arrived_at_barrier = true, f.barrier_id = id, f.barrier_generation = generation;
    f.wait = {Wait::Kind::block_barrier, 0, id, generation, 0};
  }
  if (bar.arrived >= (count ? count : block.live)) complete_barrier(launch, bar);
  return form.kind == BlockBarrier::Kind::arrive ? Flow::next : Flow::wait;
}

void decode_block_barrier(Decode& d) {
  BlockBarrier& form = d.form<BlockBarrier>();
  d.mods.take("cta");
  const int what = d.mods.require_one_of({"sync", "arrive", "red"});
  form.aligned = d.instruction.opcode == "bar";
  int at = 0;
  if (what == 2) {
    const int reduce = d.mods.require_one_of({"popc", "and", "or"});
    if (d.mods.take("aligned")) form.aligned = true;
    d.mods.type({reduce == 0 ? Type::u32 : Type::pred});
    form.kind = BlockBarrier::Kind(int(BlockBarrier::Kind::red_popc) + reduce);
    d.op.slot[0] = reduce == 0 ? d.out(0, 4) : d.predicate_out(d.operand(0));
    d.expect_operands(3, 4);
    at = 1;
    form.predicate_slot = d.predicate_in(d.operand(d.operands() - 1), &form.negated);
    if (d.operands() == 4) form.count_slot = d.in(2, 4);
  } else {
    if (d.mods.take("aligned")) form.aligned = true;
    form.kind = what == 0 ? BlockBarrier::Kind::sync : BlockBarrier::Kind::arrive;
    d.expect_operands(what == 0 ? 1 : 2, 2);
    if (d.operands() == 2) form.count_slot = d.in(1, 4);
  }
  form.id_slot = d.in(at, 4);
  d.op.kind = InstructionClass::barrier;
  d.op.converges = form.aligned;
  d.op.run = run_block_barrier;
}

// --- barrier.cluster ---

Flow run_cluster_arrive(Warp& w, const Op& op) {
  Cluster& cluster = *w.block->cluster;
  Launch& launch = w.launch();
  Fragment& f = *w.fragment;
  if (f.arrived_at_cluster)
    fault(w, op, Report::Kind::barrier_misuse, w.mask,
          "barrier.cluster.arrive twice without a wait");
  ++launch.progress;
  if (launch.races) launch.races->arrive_cluster(w, cluster.generation, op.immediate & 1);
  f.arrived_at_cluster = true, f.cluster_generation = cluster.generation;
  cluster.arrived += uint32_t(std::popcount(w.mask));
  if (cluster.arrived >= cluster.live) complete_barrier(cluster);
  return Flow::next;
}

Flow run_cluster_wait(Warp& w, const Op& op) {
  Cluster& cluster = *w.block->cluster;
  Fragment& f = *w.fragment;
  if (!f.arrived_at_cluster)
    fault(w, op, Report::Kind::barrier_misuse, w.mask, "barrier.cluster.wait without an arrive");
  if (cluster.generation == f.cluster_generation) {
    f.wait = {Wait::Kind::cluster_barrier, 0, 0, f.cluster_generation, 0};
    return Flow::wait;
  }
  f.arrived_at_cluster = false;
  if (w.launch().races) w.launch().races->leave_cluster(w, f.cluster_generation, op.immediate & 1);
  return Flow::next;
}

void decode_cluster_barrier(Decode& d) {
  const bool arrive = d.mods.require_one_of({"arrive", "wait"}) == 0;
  const int semantics =
      arrive ? d.mods.take_one_of({"release", "relaxed"}) : d.mods.take_one_of({"acquire"});
  d.op.converges = d.mods.take("aligned");
  d.expect_operands(0, 0);
  d.op.immediate = !(arrive && semantics == 1);  // orders memory
  d.op.kind = InstructionClass::barrier;
  d.op.run = arrive ? run_cluster_arrive : run_cluster_wait;
}

void decode_bar(Decode& d) {
  if (d.instruction.opcode == "bar" && d.mods.take("warp")) {
    d.mods.require_one_of({"sync"});
    d.expect_operands(1, 1);
    d.op.slot[1] = d.in(0, 4);
    d.op.kind = InstructionClass::barrier;
    d.op.run = run_warp_barrier;
    return;
  }
  if (d.instruction.opcode == "barrier" && d.mods.take("cluster")) return decode_cluster_barrier(d);
  decode_block_barrier(d);
}

// --- Fences: nothing is reordered here, so they matter to the race checker alone, which takes any
// scope for wide enough ---

Flow run_fence(Warp& w, const Op& op) {
  if (RaceChecker* races = w.launch().races) races->fence(w, op.immediate);
  return Flow::next;
}

Flow run_map_acquire(Warp& w, const Op& op) {
  uint64_t addresses[kLanes];
  read_addresses(w, *static_cast<const AddressForm*>(op.form), addresses);
  if (RaceChecker* races = w.launch().races) {
    races->fence(w, op.immediate);
    races->acquire_map(w, addresses);
  }
  return Flow::next;
}

// What a fence of one direction may be restricted to, in a cluster.
void take_restriction(Decode& d, int direction) {
  d.mods.require_one_of(
      {direction ? "sync_restrict::shared::cta" : "sync_restrict::shared::cluster"});
  if (d.mods.peek() != "cluster") d.fail("is of scope .cluster");
}

void decode_fence(Decode& d) {
  d.op.kind = InstructionClass::fence;
  d.op.run = run_fence;
  auto scope = [&] { d.mods.require_one_of({"cta", "cluster", "gpu", "sys"}); };
  if (d.mods.take("proxy")) {
    switch (d.mods.require_one_of({"async", "alias", "async::generic", "tensormap::generic"})) {
      case 0:
        d.mods.take_one_of({"global", "shared::cta", "shared::cluster"});
        d.op.immediate = kFenceProxyAsync;
        break;
      case 1: d.op.immediate = kFenceOrdinary; break;
      case 2:
        take_restriction(d, d.mods.require_one_of({"acquire", "release"}));
        scope();
        d.op.immediate = kFenceProxyAsync;
        break;
      default:
        d.op.immediate = d.mods.require_one_of({"release", "acquire"}) ? kFenceTensormapAcquire
                                                                       : kFenceTensormapRelease;
        scope();
    }
    if (d.op.immediate == kFenceTensormapAcquire) {
      d.expect_operands(2, 2);
      if (d.integer(1) != 128) d.fail("takes a size of 128");
      d.form<AddressForm>() = decode_address(d, d.operand(0), SpaceKind::generic);
      d.op.run = run_map_acquire;
    }
    return;
  }
  if (d.mods.take("mbarrier_init")) {
    d.mods.require_one_of({"release"});
    d.mods.require_one_of({"cluster"});
    d.op.immediate = kFenceOrdinary;
    return;
  }
  const int kind = d.mods.take_one_of({"acquire", "release", "sc", "acq_rel"});
  if ((kind == 0 || kind == 1) && d.mods.peek().starts_with("sync_restrict"))
    take_restriction(d, kind);
  scope();
  d.op.immediate = kFenceOrdinary;
}

void decode_membar(Decode& d) {
  d.op.kind = InstructionClass::fence;
  d.op.run = run_fence;
  d.op.immediate = kFenceOrdinary;
  if (d.mods.take("proxy"))
    d.mods.require_one_of({"alias"});
  else
    d.mods.require_one_of({"cta", "gl", "sys"});
}

}  // namespace

std::initializer_list<DecodeEntry> barrier_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {{"bar", decode_bar},
                                                         {"barrier", decode_bar},
                                                         {"fence", decode_fence},
                                                         {"membar", decode_membar}};
  return all;
}

}  // namespace ptxsim
