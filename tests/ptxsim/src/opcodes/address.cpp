// SPDX-License-Identifier: Apache-2.0
// Conversion of addresses, and the hints to caches that need no action: PTX ISA 9.7.9.
#include "engine/lanes.h"
#include "engine/operands.h"

namespace ptxsim {
namespace {

using ptx::Type;

// Generic addresses and those of a space.
void decode_cvta(Decode& d) {
  const bool to = d.mods.take("to");
  const SpaceKind space = take_space(d);
  const int bytes = ptx::size_of(d.mods.type({Type::u32, Type::u64}));
  if (bytes != 8) d.fail("is supported for 64-bit addresses");
  d.expect_operands(2, 2);
  d.op.slot[0] = d.out(0, 8);
  d.op.slot[1] = d.in(1, 8);
  d.op.kind = InstructionClass::move;
  uint64_t window = 0;
  switch (space) {
    case SpaceKind::shared: window = kSharedWindow; break;
    case SpaceKind::local: window = kLocalWindow; break;
    case SpaceKind::param_kernel: window = kParamWindow; break;
    case SpaceKind::global:
    case SpaceKind::constant: break;
    default: d.fail("takes no such space");
  }
  d.op.immediate = int64_t(window);
  if (to)
    d.op.run = [](Warp& w, const Op& op) {
      const uint64_t* a = w.lanes<uint64_t>(op.slot[1]);
      write_lanes(w, w.lanes<uint64_t>(op.slot[0]),
                  [&](int l) { return a[l] & ~uint64_t(op.immediate); });
      return Flow::next;
    };
  else
    d.op.run = [](Warp& w, const Op& op) {
      const uint64_t* a = w.lanes<uint64_t>(op.slot[1]);
      write_lanes(w, w.lanes<uint64_t>(op.slot[0]),
                  [&](int l) { return a[l] | uint64_t(op.immediate); });
      return Flow::next;
    };
}

// Constants are global variables here, and their addresses such: only .const of a generic address
// that cvta.const made cannot be told from .global.
void decode_isspacep(Decode& d) {
  const bool own = d.mods.peek() == "shared::cta";
  const SpaceKind space = take_space(d);
  d.expect_operands(2, 2);
  d.op.slot[0] = d.predicate_out(d.operand(0));
  d.op.slot[1] = d.in(1, 8);
  d.op.kind = InstructionClass::predicate;
  uint64_t window = 0;
  switch (space) {
    case SpaceKind::shared: window = kSharedWindow; break;
    case SpaceKind::local: window = kLocalWindow; break;
    case SpaceKind::param_kernel: window = kParamWindow; break;
    case SpaceKind::global: break;
    default: d.fail("takes no such space");
  }
  d.op.immediate = int64_t(window);
  d.op.slot[2] = own;
  d.op.run = [](Warp& w, const Op& op) {
    const uint64_t* a = w.lanes<uint64_t>(op.slot[1]);
    const uint64_t window = uint64_t(op.immediate);
    write_predicate(w, op.slot[0], lane_mask([&](int l) {
                      if (window == 0) return a[l] < kParamWindow;
                      const uint32_t rank = uint32_t(a[l] >> kBlockShift) & 0xff;
                      if (op.slot[2] && rank && rank - 1 != w.block->rank) return false;
                      return (a[l] & window) != 0;
                    }));
    return Flow::next;
  };
}

// A shared address as another block of the cluster has it. A rank that the cluster has not is found
// when the address is used: CUTLASS computes addresses for all lanes and uses those of some.
void decode_mapa(Decode& d) {
  const bool shared = d.mods.take("shared::cluster");
  const int bytes = ptx::size_of(d.mods.type({Type::u32, Type::u64}));
  d.expect_operands(3, 3);
  d.op.slot[0] = d.out(0, bytes), d.op.slot[1] = d.in(1, bytes), d.op.slot[2] = d.in(2, 4);
  d.op.immediate = (bytes == 8 ? 1 : 0) | (shared ? 2 : 0);
  d.op.kind = InstructionClass::move;
  d.op.run = [](Warp& w, const Op& op) {
    const uint32_t* rank = w.lanes<uint32_t>(op.slot[2]);
    auto map = [&](uint64_t address, int l) {
      return (address & ~(uint64_t(0xff) << kBlockShift)) | uint64_t((rank[l] & 0x7f) + 1)
                                                                << kBlockShift;
    };
    if (op.immediate & 1)
      write_lanes(w, w.lanes<uint64_t>(op.slot[0]),
                  [&](int l) { return map(w.lanes<uint64_t>(op.slot[1])[l], l); });
    else
      write_lanes(w, w.lanes<uint32_t>(op.slot[0]),
                  [&](int l) { return uint32_t(map(w.lanes<uint32_t>(op.slot[1])[l], l)); });
    return Flow::next;
  };
}

void decode_getctarank(Decode& d) {
  d.mods.take("shared::cluster");
  const int bytes = ptx::size_of(d.mods.type({Type::u32, Type::u64}));
  d.expect_operands(2, 2);
  d.op.slot[0] = d.out(0, 4), d.op.slot[1] = d.in(1, bytes);
  d.op.immediate = bytes;
  d.op.kind = InstructionClass::move;
  d.op.run = [](Warp& w, const Op& op) {
    write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int l) {
      const uint64_t a =
          op.immediate == 8 ? w.lanes<uint64_t>(op.slot[1])[l] : w.lanes<uint32_t>(op.slot[1])[l];
      const uint32_t rank = uint32_t(a >> kBlockShift) & 0xff;
      return rank ? rank - 1 : w.block->rank;
    });
    return Flow::next;
  };
}

// Caches are not simulated. Operands are read and addresses ignored: a prefetch may point anywhere.
void no_action(Decode& d, int operands) {
  d.expect_operands(operands, operands);
  if (d.operand(0).kind != ptx::Operand::Kind::address) d.fail("takes an address");
  d.address(d.operand(0));
  d.op.kind = InstructionClass::no_action;
  d.op.run = [](Warp&, const Op&) { return Flow::next; };
}

void decode_prefetch(Decode& d) {
  const int space = d.mods.take_one_of({"global", "local", "param", "const"});
  const int level =
      d.mods.require_one_of({"L1", "L2", "tensormap", "L2::evict_last", "L2::evict_normal"});
  const bool exists = level == 2   ? space != 0 && space != 1
                      : space >= 2 ? false
                                   : level < 2 || space != 1;
  if (!exists) d.fail("does not exist for this space");
  no_action(d, 1);
}

void decode_prefetchu(Decode& d) {
  d.mods.require_one_of({"L1"});
  no_action(d, 1);
}

void decode_priority(Decode& d) {
  d.mods.take("global");
  d.mods.require_one_of({d.instruction.opcode == "discard" ? "L2" : "L2::evict_normal"});
  no_action(d, 2);
}

// The policy is an opaque value that nothing looks at.
void decode_createpolicy(Decode& d) {
  const int kind = d.mods.require_one_of({"fractional", "range", "cvt"});
  if (kind == 1) d.mods.take("global");
  if (kind == 2) {
    d.mods.require_one_of({"L2"});
  } else {
    d.mods.require_one_of(
        {"L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::evict_unchanged"});
    d.mods.take_one_of({"L2::evict_first", "L2::evict_unchanged"});
  }
  d.mods.type({Type::b64});
  d.expect_operands(kind == 0 ? 1 : kind == 1 ? 4 : 2, kind == 1 ? 4 : 2);
  d.op.slot[0] = d.out(0, 8);
  d.op.kind = InstructionClass::no_action;
  d.op.run = [](Warp& w, const Op& op) {
    write_lanes(w, w.lanes<uint64_t>(op.slot[0]), [](int) { return uint64_t(0); });
    return Flow::next;
  };
}

}  // namespace

std::initializer_list<DecodeEntry> address_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {{"cvta", decode_cvta},
                                                         {"isspacep", decode_isspacep},
                                                         {"mapa", decode_mapa},
                                                         {"getctarank", decode_getctarank},
                                                         {"prefetch", decode_prefetch},
                                                         {"prefetchu", decode_prefetchu},
                                                         {"applypriority", decode_priority},
                                                         {"discard", decode_priority},
                                                         {"createpolicy", decode_createpolicy}};
  return all;
}

}  // namespace ptxsim
