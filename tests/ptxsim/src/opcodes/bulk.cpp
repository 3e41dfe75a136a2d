// SPDX-License-Identifier: Apache-2.0
// cp.async.bulk and cp.reduce.async.bulk without a tensor map (PTX ISA 9.7.9.25.4): one range of
// bytes a lane, through the async proxy.
#include <cstring>

#include "checks/races.h"
#include "counters/counting.h"
#include "engine/lanes.h"
#include "engine/operands.h"
#include "engine/waits.h"
#include "opcodes/mbarrier.h"
#include "opcodes/reduce.h"

namespace ptxsim {
namespace {

using ptx::Operand;
using ptx::Type;

struct BulkForm {
  AddressForm to, from, mbarrier;
  uint32_t size = 0, multicast = Op::kNone;
  bool to_shared = false;
  Reduce reduce = Reduce::none;
  TensorType type = TensorType::u8;
};

struct BulkCopy {
  Launch* launch;
  const Op* op;
  const BulkForm* form;
  Place source;
  std::vector<std::pair<Place, Block*>> targets;  // and the block of the mbarrier, or null
  uint32_t bytes, mbarrier = 0;
  Agent agent;
};

void note(const BulkCopy& c, const Place& p, bool write) {
  RaceChecker* races = c.launch->races;
  if (!races) return;
  if (p.shared_block)
    races->agent_shared(c.agent, -1, *c.op, *p.shared_block, p.shared_offset, c.bytes, write);
  else
    races->agent_global(c.agent, -1, *c.op, *p.allocation, uint64_t(p.data), c.bytes, write);
}

void complete(const BulkCopy& c) {
  note(c, c.source, false);
  for (const auto& [target, barrier] : c.targets) {
    note(c, target, true);
    if (c.form->reduce == Reduce::none) {
      memcpy(target.data, c.source.data, c.bytes);
    } else {
      const uint32_t element = uint32_t(global_bits(c.form->type)) / 8;
      for (uint32_t at = 0; at < c.bytes; at += element)
        reduce_element(c.form->reduce, c.form->type, target.data + at, c.source.data + at);
    }
    if (target.shared_block)
      mark_shared(*target.shared_block, target.shared_offset, c.bytes, true);
    else
      target.allocation->mark_written(uint64_t(target.data), c.bytes);
    if (!barrier) continue;
    if (c.launch->races) c.launch->races->complete_mbarrier(c.agent, *c.op, *barrier, c.mbarrier);
    step_mbarrier(*c.launch, *barrier, c.mbarrier, MbarrierStep::complete_tx, 0, c.bytes, nullptr,
                  nullptr, -1);
  }
}

Flow run_bulk(Warp& w, const Op& op) {
  const auto& f = *static_cast<const BulkForm*>(op.form);
  Launch& launch = w.launch();
  uint64_t to[kLanes], from[kLanes], barrier[kLanes];
  read_addresses(w, f.to, to);
  read_addresses(w, f.from, from);
  if (f.to_shared) read_addresses(w, f.mbarrier, barrier);
  for_active(w.mask, [&](int l) {
    const uint32_t bytes = w.lanes<uint32_t>(f.size)[l];
    if (bytes % 16 || to[l] % 16 || from[l] % 16)
      fault(w, op, Report::Kind::misaligned, 1u << l,
            "cp.async.bulk takes addresses and sizes that are multiples of 16");
    if (bytes == 0) return;
    BulkCopy c{&launch, &op, &f, {}, {}, bytes, 0, {}};
    const auto kind = f.reduce == Reduce::none ? Access::Kind::write : Access::Kind::atomic;
    const Place target = locate(w, op, f.to.space, l, to[l], bytes, kind);
    c.source = locate(w, op, f.from.space, l, from[l], bytes, Access::Kind::read);
    if (launch.options.check_unwritten && !is_written(c.source, bytes))
      finding(w, op, Report::Kind::unwritten_read, 1u << l, "copies bytes that nothing wrote");
    if (!f.to_shared) {
      c.targets.push_back({target, nullptr});
    } else {
      const Place b = locate(w, op, f.mbarrier.space, l, barrier[l], 8, Access::Kind::atomic);
      if (!b.shared_block)
        fault(w, op, Report::Kind::out_of_bounds, 1u << l, "an mbarrier lies in shared memory");
      c.mbarrier = b.shared_offset;
      if (f.multicast == Op::kNone) {
        c.targets.push_back({target, b.shared_block});
      } else {
        const uint32_t mask = w.lanes<uint16_t>(f.multicast)[l];
        std::vector<Block>& blocks = w.block->cluster->blocks;
        if (mask >> blocks.size())
          fault(w, op, Report::Kind::illegal_instruction, 1u << l,
                "the multicast mask names blocks that the cluster has not");
        for_active(mask, [&](int rank) {
          Block& block = blocks[size_t(rank)];
          c.targets.push_back(
              {{block.shared.data() + target.shared_offset, &block, target.shared_offset, nullptr},
               &block});
        });
      }
    }
    count_bulk(w, c.source, bytes, false);
    for (const auto& [place, block] : c.targets) count_bulk(w, place, bytes, true);
    if (launch.races) c.agent = launch.races->start_agent(w, 1u << l, false, true);
    const Agent agent = c.agent;
    w.block->cluster->pending.push_back({[c] { complete(c); }, f.to_shared ? 0 : w.bulk_group, &w,
                                         AsyncOp::Kind::bulk, 1u << l, agent});
  });
  return Flow::next;
}

Flow run_commit(Warp& w, const Op&) {
  for_active(w.mask, [&](int l) { w.bulk_commits[l].push_back(w.bulk_group); });
  ++w.bulk_group;
  return Flow::next;
}

// .read asks for less, that the sources were read; here both come at once, which the ISA allows.
Flow run_wait(Warp& w, const Op& op) {
  for_active(w.mask, [&](int l) {
    std::vector<uint64_t>& commits = w.bulk_commits[l];
    const size_t keep = size_t(op.immediate);
    if (commits.size() <= keep) return;
    complete_groups(w, AsyncOp::Kind::bulk, commits[commits.size() - keep - 1], 1u << l);
    commits.erase(commits.begin(), commits.end() - long(keep));
  });
  return Flow::next;
}

void decode_prefetch(Decode& d) {  // a hint to a cache that is not simulated
  if (d.mods.peek() == "tensor") return decode_tensor_prefetch(d);
  d.mods.require_one_of({"L2"});
  d.mods.require_one_of({"global"});
  d.mods.take("L2::cache_hint");
  d.op.kind = InstructionClass::no_action;
  d.op.run = [](Warp&, const Op&) { return Flow::next; };
}

void decode_operands(Decode& d, BulkForm& f, bool from_shared, bool multicast) {
  const int least = 3 + f.to_shared + multicast;
  d.expect_operands(least, least + 1);  // the last may be a cache policy
  f.to = decode_address(d, d.operand(0), f.to_shared ? SpaceKind::shared : SpaceKind::global);
  f.from = decode_address(d, d.operand(1), from_shared ? SpaceKind::shared : SpaceKind::global);
  f.size = d.in(2, 4);
  if (f.to_shared) f.mbarrier = decode_address(d, d.operand(3), SpaceKind::shared);
  if (multicast) f.multicast = d.in(4, 2);
  if (d.operands() > least) d.in(least, 8);
  d.op.kind = InstructionClass::bulk;
  d.op.run = run_bulk;
}

TensorType type_of(Decode& d, const BulkForm& f) {
  const bool noftz = d.mods.take("noftz");
  const Type type = d.mods.type({Type::f16, Type::bf16, Type::b32, Type::u32, Type::s32, Type::b64,
                                 Type::u64, Type::s64, Type::f32, Type::f64});
  const bool is_half = type == Type::f16 || type == Type::bf16;
  const bool is_bits = type == Type::b32 || type == Type::b64;
  const bool is_logic = f.reduce >= Reduce::and_, is_add = f.reduce == Reduce::add;
  const bool counts = f.reduce == Reduce::inc || f.reduce == Reduce::dec;
  const bool is_float = is_half || type == Type::f32 || type == Type::f64;
  if (is_bits != is_logic || (counts && type != Type::u32) || (is_float && f.to_shared) ||
      (ptx::size_of(type) == 8 && f.to_shared && !is_add) || noftz != (is_half && is_add) ||
      (is_add && type == Type::s64) || (!is_add && (type == Type::f32 || type == Type::f64)))
    d.fail("does not exist for this type");
  switch (type) {
    case Type::f16: return TensorType::f16;
    case Type::bf16: return TensorType::bf16;
    case Type::s32: return TensorType::s32;
    case Type::b64:
    case Type::u64: return TensorType::u64;
    case Type::s64: return TensorType::s64;
    case Type::f32: return TensorType::f32;
    case Type::f64: return TensorType::f64;
    default: return TensorType::u32;
  }
}

}  // namespace

void decode_bulk(Decode& d) {
  d.op.kind = InstructionClass::async_control;
  if (d.mods.take("commit_group")) {
    d.op.run = run_commit;
  } else if (d.mods.take("wait_group")) {
    d.mods.take("read");
    d.op.immediate = d.integer(0);
    d.op.run = run_wait;
  } else if (d.mods.peek() == "tensor") {
    decode_bulk_tensor(d);
  } else if (d.mods.take("prefetch")) {
    decode_prefetch(d);
  } else {
    BulkForm& f = d.form<BulkForm>();
    const int to = d.mods.require_one_of({"shared::cluster", "shared::cta", "global"});
    const bool from_shared =
        to == 2 ? d.mods.require_one_of({"shared::cta"}) == 0
                : d.mods.require_one_of({"global", to == 0 ? "shared::cta" : "global"}) == 1;
    f.to_shared = to != 2;
    d.mods.require_one_of({f.to_shared ? "mbarrier::complete_tx::bytes" : "bulk_group"});
    const bool multicast = to == 0 && !from_shared && d.mods.take("multicast::cluster");
    if (!from_shared || !f.to_shared) d.mods.take("L2::cache_hint");
    decode_operands(d, f, from_shared, multicast);
  }
}

void decode_bulk_reduction(Decode& d) {
  BulkForm& f = d.form<BulkForm>();
  f.to_shared = d.mods.require_one_of({"shared::cluster", "global"}) == 0;
  d.mods.require_one_of({"shared::cta"});
  d.mods.require_one_of({f.to_shared ? "mbarrier::complete_tx::bytes" : "bulk_group"});
  if (!f.to_shared) d.mods.take("L2::cache_hint");
  f.reduce = take_reduction(d);
  f.type = type_of(d, f);
  decode_operands(d, f, true, false);
  d.op.between_blocks = !f.to_shared;
}

}  // namespace ptxsim
