// SPDX-License-Identifier: Apache-2.0
// TMA: copies of boxes of a tensor that a tensor map describes (PTX ISA 9.7.9.27), and the
// instructions that change tensor maps. One lane starts a copy; it runs through the async proxy.
#include <cstring>
#include <stdexcept>

#include "checks/races.h"
#include "checks/taint.h"
#include "counters/counting.h"
#include "engine/lanes.h"
#include "engine/operands.h"
#include "opcodes/mbarrier.h"
#include "opcodes/reduce.h"
#include "tensor/tma.h"

namespace ptxsim {
namespace {

using ptx::Operand;
using ptx::Type;

struct TmaForm {
  AddressForm map, shared, mbarrier;
  std::vector<uint32_t> coordinates;
  uint32_t multicast = Op::kNone;
  bool is_load = true, gather = false;
  Reduce reduce = Reduce::none;
};

TensorMap read_map(Warp& w, const Op& op, int lane, uint64_t address, const Place& p) {
  if (address % kTensorMapAlign)
    fault(w, op, Report::Kind::misaligned, 1u << lane, "a tensor map is aligned to 64 bytes");
  const auto map = TensorMap::decode(p.data);
  if (!map)
    fault(w, op, Report::Kind::illegal_instruction, 1u << lane,
          "the bytes at this address are no tensor map");
  return *map;
}

struct TmaCopy {
  Launch* launch;
  const Op* op;
  TensorMap map;
  std::vector<TmaSegment> segments;
  std::vector<Allocation*> allocations;  // of each segment in bounds
  std::vector<std::pair<Block*, uint32_t>>
      targets;                           // loads: each block and its mbarrier; stores: the source
  bool is_load;
  Reduce reduce;
  uint32_t transaction = 0;
  Agent agent;
  const Warp* warp;
};

void note(const TmaCopy& c, Block& block, const TmaSegment& s, Allocation* allocation) {
  RaceChecker* races = c.launch->races;
  if (!races) return;
  races->agent_shared(c.agent, -1, *c.op, block, s.shared & 0xffffff, s.bytes, c.is_load);
  if (allocation)
    races->agent_global(c.agent, -1, *c.op, *allocation, s.global, s.bytes, !c.is_load);
}

void run_load_copy(const TmaCopy& c) {
  for (const auto& [block, barrier] : c.targets) {
    for (size_t i = 0; i < c.segments.size(); ++i) {
      const TmaSegment& s = c.segments[i];
      const uint32_t at = s.shared & 0xffffff;
      note(c, *block, s, c.allocations[i]);
      uint8_t* to = block->shared.data() + at;
      if (s.in_bounds)
        memcpy(to, reinterpret_cast<const void*>(s.global), s.bytes);
      else
        memset(to, c.map.fill == OutOfBounds::nan ? 0xff : 0, s.bytes);
      mark_shared(*block, at, s.bytes, true);
    }
    if (c.launch->races) c.launch->races->complete_mbarrier(c.agent, *c.op, *block, barrier);
    step_mbarrier(*c.launch, *block, barrier, MbarrierStep::complete_tx, 0, c.transaction, nullptr,
                  nullptr, -1);
  }
}

void run_store_copy(const TmaCopy& c) {
  Block& block = *c.targets[0].first;
  const uint32_t element = uint32_t(global_bits(c.map.type)) / 8;
  for (size_t i = 0; i < c.segments.size(); ++i) {
    const TmaSegment& s = c.segments[i];
    const uint32_t at = s.shared & 0xffffff;
    if (!s.in_bounds) continue;
    note(c, block, s, c.allocations[i]);
    if (c.launch->options.check_unwritten && !shared_written(block, at, s.bytes))
      finding(*c.warp, *c.op, Report::Kind::unwritten_read, 1,
              "stores bytes that nothing wrote, from shared offset " + std::to_string(at));
    auto* to = reinterpret_cast<uint8_t*>(s.global);
    const uint8_t* from = block.shared.data() + at;
    if (c.reduce == Reduce::none)
      memcpy(to, from, s.bytes);
    else
      for (uint32_t b = 0; b + element <= s.bytes; b += element)
        reduce_element(c.reduce, c.map.type, to + b, from + b);
    c.allocations[i]->mark_written(s.global, s.bytes);
  }
}

// Pieces of a sector that follow one another, as swizzled rows have them, are one. Returns the
// bytes.
uint64_t count_global_side(Warp& w, const TmaCopy& c) {
  Counters& counters = *w.launch().counters;
  Traffic& traffic = c.is_load ? counters.tma_load : counters.tma_store;
  uint64_t start = 0, end = 0, bytes = 0;
  const auto flush = [&] {
    if (start != end) count_range(*w.block, start, end - start, !c.is_load, traffic);
    bytes += end - start;
  };
  for (const TmaSegment& s : c.segments) {
    if (!s.in_bounds) continue;
    if (s.global != end) flush(), start = s.global;
    end = s.global + s.bytes;
  }
  flush();
  return bytes;
}

Flow run_tma(Warp& w, const Op& op) {
  const auto& f = *static_cast<const TmaForm*>(op.form);
  Launch& launch = w.launch();
  uint64_t maps[kLanes], shared[kLanes], barriers[kLanes];
  read_addresses(w, f.map, maps);
  read_addresses(w, f.shared, shared);
  if (f.is_load) read_addresses(w, f.mbarrier, barriers);
  // The hardware's instruction is one of the warp, with uniform operands: lanes that ask for the
  // same store ask for one. CUTLASS's epilogues issue stores from whole warps.
  const auto alike = [&](int a, int b) {
    bool same = maps[a] == maps[b] && shared[a] == shared[b];
    for (uint32_t slot : f.coordinates)
      same &= w.lanes<int32_t>(slot)[a] == w.lanes<int32_t>(slot)[b];
    return same;
  };
  const uint32_t issuing = f.is_load ? w.mask : distinct_lanes(w.mask, alike);
  for_active(issuing, [&](int l) {
    auto copy = std::make_shared<TmaCopy>();
    TmaCopy& c = *copy;
    c.launch = &launch, c.op = &op, c.is_load = f.is_load, c.reduce = f.reduce, c.warp = &w;
    const Place map =
        locate(w, op, SpaceKind::generic, l, maps[l], kTensorMapBytes, Access::Kind::read);
    c.map = read_map(w, op, l, maps[l], map);
    if (!f.gather && size_t(c.map.rank) != f.coordinates.size())
      fault(w, op, Report::Kind::illegal_instruction, 1u << l,
            "the tensor map has rank " + std::to_string(c.map.rank));
    int32_t coordinates[5];
    for (size_t i = 0; i < f.coordinates.size(); ++i)
      coordinates[i] = w.lanes<int32_t>(f.coordinates[i])[l];
    const Place place = locate(w, op, f.shared.space, l, shared[l], 1,
                               f.is_load ? Access::Kind::write : Access::Kind::read);
    if (!place.shared_block || place.shared_offset % 128)
      fault(w, op, Report::Kind::misaligned, 1u << l,
            "TMA takes shared addresses that are multiples of 128");
    try {
      if (f.gather)
        tma_gather4(c.map, coordinates, place.shared_offset, c.segments);
      else
        tma_tile(c.map, coordinates, place.shared_offset, c.segments);
    } catch (const std::invalid_argument& e) {
      fault(w, op, Report::Kind::illegal_instruction, 1u << l, e.what());
    }
    c.transaction = tma_transaction_bytes(c.map) * (f.gather ? kGatherRows : 1);
    const uint32_t extent = tma_shared_bytes(c.map) * (f.gather ? kGatherRows : 1);
    for (const TmaSegment& s : c.segments) {
      Allocation* allocation = nullptr;
      if (s.in_bounds) {
        allocation = locate(w, op, SpaceKind::global, l, s.global, s.bytes,
                            f.is_load ? Access::Kind::read : Access::Kind::write)
                         .allocation;
        if (f.is_load && launch.options.check_unwritten &&
            !allocation->is_written(s.global, s.bytes))
          finding(w, op, Report::Kind::unwritten_read, 1u << l,
                  "loads bytes that nothing wrote, at " + launch.memory.describe(s.global));
      }
      c.allocations.push_back(allocation);
    }
    const uint64_t moved = count_global_side(w, c);

    auto add_target = [&](Block& block, uint32_t barrier) {
      if (uint64_t(place.shared_offset) + extent > block.shared.size())
        fault(w, op, Report::Kind::out_of_bounds, 1u << l,
              "the box of " + std::to_string(extent) + " bytes leaves the block's shared memory");
      c.targets.push_back({&block, barrier});
      count_lines(place.shared_offset, f.is_load ? extent : moved, launch.counters->tma);
    };
    if (f.is_load) {
      const Place b = locate(w, op, f.mbarrier.space, l, barriers[l], 8, Access::Kind::atomic);
      if (!b.shared_block)
        fault(w, op, Report::Kind::out_of_bounds, 1u << l, "an mbarrier lies in shared memory");
      if (f.multicast == Op::kNone) {
        add_target(*place.shared_block, b.shared_offset);
      } else {
        const uint32_t blocks = w.lanes<uint16_t>(f.multicast)[l];
        std::vector<Block>& all = w.block->cluster->blocks;
        if (blocks >> all.size())
          fault(w, op, Report::Kind::illegal_instruction, 1u << l,
                "the multicast mask names blocks that the cluster has not");
        for_active(blocks, [&](int rank) { add_target(all[size_t(rank)], b.shared_offset); });
      }
    } else {
      add_target(*place.shared_block, 0);
    }
    if (launch.races) {
      c.agent = launch.races->start_agent(w, 1u << l, false, true);
      launch.races->use_map(w, l, op, map);
    }
    const Agent agent = c.agent;
    w.block->cluster->pending.push_back(
        {[copy] { copy->is_load ? run_load_copy(*copy) : run_store_copy(*copy); },
         f.is_load ? 0 : w.bulk_group, &w, AsyncOp::Kind::bulk, 1u << l, agent});
  });
  return Flow::next;
}

void take_coordinates(Decode& d, TmaForm& f, const Operand& operand, int rank) {
  f.map = decode_address(d, operand, SpaceKind::generic);
  if (operand.items.size() != 2) d.fail("takes [tensor map, {coordinates}]");
  const Operand& list = operand.items[1];
  const std::vector<Operand> one = {list};
  for (const Operand& item : list.kind == Operand::Kind::vector ? list.items : one)
    f.coordinates.push_back(d.in(item, 4));
  if (int(f.coordinates.size()) != (f.gather ? 5 : rank))
    d.fail("has another number of coordinates than its dimension");
}

}  // namespace

void decode_bulk_tensor(Decode& d) {
  d.mods.require_one_of({"tensor"});
  TmaForm& f = d.form<TmaForm>();
  const int rank = 1 + d.mods.require_one_of({"1d", "2d", "3d", "4d", "5d"});
  const int to = d.mods.require_one_of({"shared::cluster", "shared::cta", "global"});
  d.mods.require_one_of({to == 2 ? "shared::cta" : "global"});
  f.is_load = to != 2;
  const bool reduces = d.instruction.modifiers[0] == "reduce";
  if (reduces) f.reduce = take_reduction(d);
  if (d.mods.peek() == "im2col") d.fail("has .im2col, which is not simulated");
  f.gather = d.mods.take_one_of({"tile", "tile::gather4", "tile::scatter4"}) > 0;
  if (f.is_load) {
    d.mods.require_one_of({"mbarrier::complete_tx::bytes"});
    const bool multicast = d.mods.take("multicast::cluster");
    d.mods.take("L2::cache_hint");
    d.expect_operands(multicast ? 4 : 3, multicast ? 5 : 4);
    f.shared = decode_address(d, d.operand(0), SpaceKind::shared);
    take_coordinates(d, f, d.operand(1), rank);
    f.mbarrier = decode_address(d, d.operand(2), SpaceKind::shared);
    if (multicast) f.multicast = d.in(3, 2);
  } else {
    d.mods.require_one_of({"bulk_group"});
    d.mods.take("L2::cache_hint");
    d.expect_operands(2, 3);
    take_coordinates(d, f, d.operand(0), rank);
    f.shared = decode_address(d, d.operand(1), SpaceKind::shared);
  }
  d.op.between_blocks = reduces;
  d.op.kind = InstructionClass::tma;
  d.op.run = run_tma;
}

void decode_tensor_prefetch(Decode& d) {  // of a cache that is not simulated
  d.mods.require_one_of({"tensor"});
  d.mods.require_one_of({"1d", "2d", "3d", "4d", "5d"});
  d.mods.require_one_of({"L2"});
  d.mods.require_one_of({"global"});
  d.mods.take_one_of({"tile", "tile::gather4"});
  d.mods.take("L2::cache_hint");
  d.op.kind = InstructionClass::no_action;
  d.op.run = [](Warp&, const Op&) { return Flow::next; };
}

namespace {

// tensormap.replace changes one field of a map in global or shared memory.
struct ReplaceForm {
  AddressForm address;
  TensorMapField field;
  uint32_t ordinal = 0;
  uint32_t value = Op::kNone;
  bool is_wide = false;
};

// An access of one lane to the whole map, for the race checker.
void note_map(Warp& w, const Op& op, int lane, const Place* places, Access::Kind kind) {
  if (!w.launch().races) return;
  Access access;
  access.kind = kind, access.bytes = kTensorMapBytes;
  const uint32_t mask = w.mask;
  w.mask = 1u << lane;
  w.launch().races->access(w, op, places, access);
  w.mask = mask;
}

void decode_tensormap(Decode& d) {
  d.op.between_blocks = true;  // a map may be meant for others
  if (d.mods.take("cp_fenceproxy")) {
    // tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.scope.sync.aligned [d],
    // [s], 128
    for (const char* word : {"global", "shared::cta", "tensormap::generic", "release"})
      d.mods.require_one_of({word});
    d.mods.require_one_of({"cta", "cluster", "gpu", "sys"});
    d.mods.require_one_of({"sync"});
    d.mods.require_one_of({"aligned"});
    d.expect_operands(3, 3);
    if (d.integer(2) != kTensorMapBytes) d.fail("takes a size of 128");
    auto& form = d.form<std::pair<AddressForm, AddressForm>>();
    form.first = decode_address(d, d.operand(0), SpaceKind::global);
    form.second = decode_address(d, d.operand(1), SpaceKind::shared);
    d.op.converges = true;
    d.op.kind = InstructionClass::fence;
    d.op.run = [](Warp& w, const Op& op) {
      const auto& form = *static_cast<const std::pair<AddressForm, AddressForm>*>(op.form);
      uint64_t to[kLanes], from[kLanes];
      read_addresses(w, form.first, to);
      read_addresses(w, form.second, from);
      const int l = std::countr_zero(w.mask);  // the warp copies it once
      Place target[kLanes], source[kLanes];
      target[l] = locate(w, op, SpaceKind::global, l, to[l], kTensorMapBytes, Access::Kind::write);
      source[l] = locate(w, op, SpaceKind::shared, l, from[l], kTensorMapBytes, Access::Kind::read);
      note_map(w, op, l, source, Access::Kind::read);
      note_map(w, op, l, target, Access::Kind::write);
      memcpy(target[l].data, source[l].data, kTensorMapBytes);
      target[l].allocation->mark_written(uint64_t(target[l].data), kTensorMapBytes);
      if (RaceChecker* races = w.launch().races) races->fence(w, kFenceTensormapRelease);
      return Flow::next;
    };
    return;
  }
  d.mods.require_one_of({"replace"});
  d.mods.require_one_of({"tile"});
  ReplaceForm& f = d.form<ReplaceForm>();
  const auto field = tensor_map_field(d.mods.peek());
  if (!field) d.fail("names no field of a tensor map");
  d.mods.take(d.mods.peek());
  f.field = *field;
  const SpaceKind space = take_space(d);
  d.mods.require_one_of({"b1024"});
  f.is_wide = d.mods.type({Type::b32, Type::b64}) == Type::b64;
  const int count = has_ordinal(f.field) ? 3 : 2;
  d.expect_operands(count, count);
  f.address = decode_address(d, d.operand(0), space);
  if (count == 3) f.ordinal = uint32_t(d.integer(1));
  f.value = d.in(d.operands() - 1, f.is_wide ? 8 : 4);
  d.op.kind = InstructionClass::async_control;
  d.op.run = [](Warp& w, const Op& op) {
    const auto& f = *static_cast<const ReplaceForm*>(op.form);
    uint64_t addresses[kLanes];
    read_addresses(w, f.address, addresses);
    for_active(w.mask, [&](int l) {
      Place places[kLanes];
      const Place& p = places[l] =
          locate(w, op, f.address.space, l, addresses[l], kTensorMapBytes, Access::Kind::write);
      note_map(w, op, l, places, Access::Kind::write);
      auto map = TensorMap::decode(p.data);
      if (!map)
        fault(w, op, Report::Kind::illegal_instruction, 1u << l,
              "the bytes at this address are no tensor map");
      const uint64_t value =
          f.is_wide ? w.lanes<uint64_t>(f.value)[l] : w.lanes<uint32_t>(f.value)[l];
      try {
        replace(*map, f.field, f.ordinal, value);
      } catch (const std::invalid_argument& e) {
        fault(w, op, Report::Kind::illegal_instruction, 1u << l, e.what());
      }
      map->encode(p.data);
    });
    return Flow::next;
  };
}

}  // namespace

std::initializer_list<DecodeEntry> tma_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {{"tensormap", decode_tensormap}};
  return all;
}

}  // namespace ptxsim
