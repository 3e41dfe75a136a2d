// SPDX-License-Identifier: Apache-2.0
// Copies that go on while the thread does: cp.async (PTX ISA 9.7.9.25), and what steers a kernel
// from outside: griddepcontrol, setmaxnreg.
//
// A copy is queued when it is issued and done at a moment the schedule picks, at the latest when
// something that the ISA says waits for it is executed. Source and destination are checked at
// issue.
#include <cstring>

#include "checks/races.h"
#include "counters/counting.h"
#include "engine/lanes.h"
#include "engine/operands.h"
#include "engine/waits.h"
#include "opcodes/mbarrier.h"

namespace ptxsim {
namespace {

using ptx::Operand;
using ptx::Type;

// --- cp.async: groups are a thread's own; lanes of a warp that commit together share a number ---

struct CopyForm {
  AddressForm shared, global;
  uint32_t bytes = 0, source_bytes = Op::kNone, ignore = Op::kNone;
  bool ignore_negated = false;
};

struct Piece {  // of one lane
  Block* block;
  uint32_t offset;
  uint8_t* to;
  const uint8_t* from;
  uint32_t bytes, live;  // the rest is zeros
  Allocation* source;
  int lane;
};

Flow run_copy(Warp& w, const Op& op) {
  const auto& f = *static_cast<const CopyForm*>(op.form);
  Launch& launch = w.launch();
  uint64_t shared[kLanes], global[kLanes];
  read_addresses(w, f.shared, shared);
  read_addresses(w, f.global, global);
  const uint32_t ignored =
      f.ignore == Op::kNone ? 0 : w.predicate(f.ignore) ^ (f.ignore_negated ? kAllLanes : 0);
  std::vector<Piece> pieces;
  Place counted[kLanes];
  Counters& counters = *launch.counters;
  uint64_t sectors[kLanes];
  int n = 0;
  for_active(w.mask, [&](int l) {
    Piece p{};
    p.lane = l, p.bytes = f.bytes;
    p.live = f.source_bytes == Op::kNone ? f.bytes : w.lanes<uint32_t>(f.source_bytes)[l];
    if ((ignored >> l) & 1) p.live = 0;
    if (p.live > f.bytes)
      fault(w, op, Report::Kind::out_of_bounds, 1u << l,
            "cp.async with a source size of " + std::to_string(p.live) + " and a copy size of " +
                std::to_string(f.bytes));
    if (shared[l] % f.bytes || (p.live && global[l] % f.bytes))
      fault(w, op, Report::Kind::misaligned, 1u << l,
            "cp.async addresses are multiples of its size, " + std::to_string(f.bytes));
    p.to = shared_range(w, op, l, uint32_t(shared[l]), f.bytes, Access::Kind::write, &p.block,
                        &p.offset);
    counted[l] = {p.to, p.block, p.offset, nullptr};
    if (p.live) {
      const Place from = locate(w, op, f.global.space, l, global[l], p.live, Access::Kind::read);
      if (!from.allocation)
        fault(w, op, Report::Kind::out_of_bounds, 1u << l,
              "cp.async reads global memory; this address is elsewhere");
      p.from = from.data, p.source = from.allocation;
      if (launch.options.check_unwritten && !p.source->is_written(uint64_t(p.from), p.live))
        finding(w, op, Report::Kind::unwritten_read, 1u << l,
                "copies bytes that nothing wrote, at " + launch.memory.describe(uint64_t(p.from)));
      sectors[n++] = uint64_t(p.from) / 32;
      counters.cp_async_load.bytes += p.live;
    }
    pieces.push_back(p);
  });
  count_sectors(*w.block, sectors, n, false, counters.cp_async_load);
  count_wavefronts(counted, w.mask, f.bytes, counters.cp_async);

  const Agent agent = launch.races ? launch.races->start_agent(w, w.mask, true, false) : Agent{};
  w.block->cluster->pending.push_back(
      {[pieces = std::move(pieces), agent, &launch, &op] {
         for (const Piece& p : pieces) {
           if (launch.races) {
             launch.races->agent_shared(agent, p.lane, op, *p.block, p.offset, p.bytes, true);
             if (p.live)
               launch.races->agent_global(agent, p.lane, op, *p.source, uint64_t(p.from), p.live,
                                          false);
           }
           memcpy(p.to, p.from, p.live);
           memset(p.to + p.live, 0, p.bytes - p.live);
           mark_shared(*p.block, p.offset, p.bytes, true);
         }
       },
       w.copy_group, &w, AsyncOp::Kind::copy, w.mask, agent});
  return Flow::next;
}

Flow run_commit(Warp& w, const Op&) {
  // One numbering for the warp: lanes that diverged and commit apart get groups of their own.
  for_active(w.mask, [&](int l) { w.copy_commits[l].push_back(w.copy_group); });
  ++w.copy_group;
  return Flow::next;
}

Flow run_wait_group(Warp& w, const Op& op) {
  for_active(w.mask, [&](int l) {
    std::vector<uint64_t>& commits = w.copy_commits[l];
    const size_t keep = size_t(op.immediate);
    if (commits.size() <= keep) return;
    complete_groups(w, AsyncOp::Kind::copy, commits[commits.size() - keep - 1], 1u << l);
    commits.erase(commits.begin(), commits.end() - long(keep));
  });
  return Flow::next;
}

Flow run_wait_all(Warp& w, const Op&) {
  for_active(w.mask, [&](int l) {
    complete_groups(w, AsyncOp::Kind::copy, w.copy_group, 1u << l);
    w.copy_commits[l].clear();
  });
  return Flow::next;
}

struct ArriveForm {
  AddressForm address;
  bool no_increment = false;
};

// cp.async.mbarrier.arrive: the arrival happens when the thread's earlier copies are done. Without
// .noinc the pending count is raised by one first, so that this arrival is an extra one.
Flow run_copy_arrive(Warp& w, const Op& op) {
  const auto& f = *static_cast<const ArriveForm*>(op.form);
  Launch& launch = w.launch();
  uint64_t addresses[kLanes];
  read_addresses(w, f.address, addresses);
  for_active(w.mask, [&](int l) {
    const Place p = locate(w, op, f.address.space, l, addresses[l], 8, Access::Kind::atomic);
    if (!p.shared_block || p.shared_offset % 8)
      fault(w, op, Report::Kind::misaligned, 1u << l,
            "an mbarrier is 8 aligned bytes of shared memory");
    if (!f.no_increment) raise_mbarrier(*p.shared_block, p.shared_offset, w, op, l);
    // It is queued behind the lane's copies and may not overtake them.
    Warp* warp = &w;
    Block* block = p.shared_block;
    const uint32_t offset = p.shared_offset, lane_mask = 1u << l;
    const uint64_t group = w.copy_group;
    w.block->cluster->pending.push_back(
        {[warp, block, offset, lane_mask, group, &launch, &op, l] {
           complete_groups(*warp, AsyncOp::Kind::copy, group, lane_mask);
           step_mbarrier(launch, *block, offset, MbarrierStep::arrive, 1, 0, warp, &op, l);
         },
         0,
         &w,
         AsyncOp::Kind::arrival,
         lane_mask,
         {}});
  });
  return Flow::next;
}

void decode_cp(Decode& d) {
  if (d.mods.take("reduce")) {
    for (const char* word : {"async", "bulk"}) d.mods.require_one_of({word});
    return d.mods.peek() == "tensor" ? decode_bulk_tensor(d) : decode_bulk_reduction(d);
  }
  d.mods.require_one_of({"async"});
  d.op.kind = InstructionClass::async_control;
  if (d.mods.take("bulk")) return decode_bulk(d);
  if (d.mods.take("commit_group")) {
    d.op.run = run_commit;
  } else if (d.mods.take("wait_group")) {
    d.op.immediate = d.integer(0);
    d.op.run = run_wait_group;
  } else if (d.mods.take("wait_all")) {
    d.op.run = run_wait_all;
  } else if (d.mods.take("mbarrier")) {
    d.mods.require_one_of({"arrive"});
    ArriveForm& f = d.form<ArriveForm>();
    f.no_increment = d.mods.take("noinc");
    const SpaceKind space = take_space(d);
    d.mods.type({Type::b64});
    d.expect_operands(1, 1);
    f.address = decode_address(d, d.operand(0), space);
    d.op.run = run_copy_arrive;
  } else {
    CopyForm& f = d.form<CopyForm>();
    const bool cg = d.mods.require_one_of({"ca", "cg"}) == 1;
    d.mods.require_one_of({"shared", "shared::cta"});
    d.mods.require_one_of({"global"});
    d.mods.take("L2::cache_hint");
    d.mods.take_one_of({"L2::64B", "L2::128B", "L2::256B"});
    d.expect_operands(3, 5);
    f.shared = decode_address(d, d.operand(0), SpaceKind::shared);
    f.global = decode_address(d, d.operand(1), SpaceKind::global);
    f.bytes = uint32_t(d.integer(2));
    if (cg ? f.bytes != 16 : f.bytes != 4 && f.bytes != 8 && f.bytes != 16)
      d.fail("copies 4, 8 or 16 bytes, .cg 16");
    for (int i = 3; i < d.operands(); ++i) {
      const Operand& o = d.operand(i);
      if (d.is_register(o) && d.register_bytes(o) == 8) continue;  // the cache policy
      if (d.is_register(o) && d.program.function->registers[o.id].type == Type::pred)
        f.ignore = d.predicate_in(o, &f.ignore_negated);
      else
        f.source_bytes = d.in(o, 4);
    }
    d.op.kind = InstructionClass::cp_async;
    d.op.run = run_copy;
  }
}

// Launches are simulated one after the other, so the grid before has always ended.
void decode_griddepcontrol(Decode& d) {
  d.mods.require_one_of({"launch_dependents", "wait"});
  d.op.kind = InstructionClass::async_control;
  d.op.run = [](Warp&, const Op&) { return Flow::next; };
}

// Registers are not a limit here; the number must be one that the ISA allows.
void decode_setmaxnreg(Decode& d) {
  d.mods.require_one_of({"inc", "dec"});
  d.mods.require_one_of({"sync"});
  d.mods.require_one_of({"aligned"});
  d.mods.type({Type::u32});
  const int64_t count = d.integer(0);
  if (count < 24 || count > 256 || count % 8) d.fail("takes a multiple of 8 from 24 to 256");
  d.op.converges = true;
  d.op.kind = InstructionClass::async_control;
  d.op.run = [](Warp&, const Op&) { return Flow::next; };
}

}  // namespace

std::initializer_list<DecodeEntry> async_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {{"cp", decode_cp},
                                                         {"griddepcontrol", decode_griddepcontrol},
                                                         {"setmaxnreg", decode_setmaxnreg}};
  return all;
}

}  // namespace ptxsim
