// SPDX-License-Identifier: Apache-2.0
// Exchange between the lanes of a warp: shfl, vote, match, redux, elect, activemask: PTX ISA 9.7.9
// and 9.7.13. All lanes named by the member mask must arrive at the instruction before it is done.
#include <cmath>

#include "engine/lanes.h"
#include "engine/launch.h"

namespace ptxsim {
namespace {

using ptx::Operand;
using ptx::Type;

// The member mask, once all its lanes are here; false if the fragment has to wait for some.
bool gather_members(Warp& w, const Op& op, uint32_t slot, uint32_t* members) {
  const uint32_t* masks = w.lanes<uint32_t>(slot);
  *members = masks[std::countr_zero(w.mask)];
  uint32_t outside = 0, other = 0;
  for_active(w.mask, [&](int l) {
    outside |= uint32_t(!((masks[l] >> l) & 1)) << l;
    other |= uint32_t(masks[l] != *members) << l;
  });
  if (outside)
    fault(w, op, Report::Kind::barrier_misuse, outside,
          "a lane executes this without being in its member mask");
  if (other)
    fault(w, op, Report::Kind::barrier_misuse, other,
          "lanes that are here together have different member masks");
  const uint32_t needed = *members & w.live;
  if ((w.mask & needed) == needed) return true;
  if ((w.fragment->mask & needed) == needed)
    fault(w, op, Report::Kind::barrier_misuse, needed & ~w.mask,
          "lanes of the member mask are here but their guard is off");
  w.fragment->wait = {Wait::Kind::converge, needed, 0, 0, 0};
  return false;
}

// --- shfl.sync ---

enum class Shuffle : uint8_t { up, down, bfly, idx };

Flow run_shuffle(Warp& w, const Op& op) {
  uint32_t members;
  if (!gather_members(w, op, op.slot[4], &members)) return Flow::wait;
  const uint32_t *a = w.lanes<uint32_t>(op.slot[1]), *b = w.lanes<uint32_t>(op.slot[2]),
                 *c = w.lanes<uint32_t>(op.slot[3]);
  uint32_t value[kLanes], valid = 0, absent = 0;
  for_active(w.mask, [&](int l) {
    const uint32_t segment = (c[l] >> 8) & 0x1f, clamp = c[l] & 0x1f, by = b[l] & 0x1f;
    const int max_lane = int((uint32_t(l) & segment) | (clamp & ~segment)),
              min_lane = int(uint32_t(l) & segment);
    int from = l;
    bool in_range = true;
    switch (Shuffle(op.immediate)) {
      case Shuffle::up: from = l - int(by), in_range = from >= max_lane; break;
      case Shuffle::down: from = l + int(by), in_range = from <= max_lane; break;
      case Shuffle::bfly: from = l ^ int(by), in_range = from <= max_lane; break;
      case Shuffle::idx: from = min_lane | int(by & ~segment), in_range = from <= max_lane; break;
    }
    if (!in_range) from = l;
    if (!((w.mask >> from) & 1)) absent |= 1u << l;
    value[l] = a[from & 31];
    valid |= uint32_t(in_range) << l;
  });
  if (absent)
    finding(w, op, Report::Kind::warp_hazard, absent,
            "shfl takes the value of a lane that does not take part");
  write_lanes(w, w.lanes<uint32_t>(op.slot[0]),
              [&](int l) { return (w.mask >> l) & 1 ? value[l] : 0; });
  if (op.slot[5] != Op::kNone) write_predicate(w, op.slot[5], valid);
  return Flow::next;
}

void decode_shfl(Decode& d) {
  d.mods.require_one_of({"sync"});
  d.op.immediate = d.mods.require_one_of({"up", "down", "bfly", "idx"});
  d.mods.type({Type::b32});
  d.expect_operands(5, 5);
  const Operand& result = d.operand(0);
  const bool pair = result.kind == Operand::Kind::pair;
  d.op.slot[0] = d.out(pair ? result.items[0] : result, 4);
  d.op.slot[5] = pair ? d.predicate_out(result.items[1]) : Op::kNone;
  for (int i = 1; i <= 4; ++i) d.op.slot[i] = d.in(i, 4);
  d.op.kind = InstructionClass::warp;
  d.op.run = run_shuffle;
}

// --- vote.sync ---

void decode_vote(Decode& d) {
  d.mods.require_one_of({"sync"});
  const int mode = d.mods.require_one_of({"all", "any", "uni", "ballot"});
  d.mods.type({mode == 3 ? Type::b32 : Type::pred});
  d.expect_operands(3, 3);
  bool negated;
  d.op.slot[0] = mode == 3 ? d.out(0, 4) : d.predicate_out(d.operand(0));
  d.op.slot[1] = d.predicate_in(d.operand(1), &negated);
  d.op.slot[2] = d.in(2, 4);
  d.op.immediate = mode | (negated ? 8 : 0);
  d.op.kind = InstructionClass::warp;
  d.op.run = [](Warp& w, const Op& op) {
    uint32_t members;
    if (!gather_members(w, op, op.slot[2], &members)) return Flow::wait;
    const uint32_t votes = (w.predicate(op.slot[1]) ^ (op.immediate & 8 ? kAllLanes : 0)) & w.mask;
    switch (op.immediate & 7) {
      case 0: write_predicate(w, op.slot[0], votes == w.mask ? kAllLanes : 0); break;
      case 1: write_predicate(w, op.slot[0], votes ? kAllLanes : 0); break;
      case 2: write_predicate(w, op.slot[0], votes == w.mask || !votes ? kAllLanes : 0); break;
      default: write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int) { return votes; });
    }
    return Flow::next;
  };
}

// --- match.sync ---

template <typename T>
Flow run_match(Warp& w, const Op& op) {
  uint32_t members;
  if (!gather_members(w, op, op.slot[2], &members)) return Flow::wait;
  const T* a = w.lanes<T>(op.slot[1]);
  uint32_t same[kLanes] = {};
  for_active(w.mask, [&](int l) {
    for_active(w.mask, [&](int other) { same[l] |= uint32_t(a[l] == a[other]) << other; });
  });
  const bool all = same[std::countr_zero(w.mask)] == w.mask;
  if (op.immediate) {  // match.all: the mask if all agree, else 0
    write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int) { return all ? w.mask : 0; });
    if (op.slot[3] != Op::kNone) write_predicate(w, op.slot[3], all ? kAllLanes : 0);
  } else {
    write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int l) { return same[l]; });
  }
  return Flow::next;
}

void decode_match(Decode& d) {
  d.op.immediate = d.mods.require_one_of({"any", "all"});
  d.mods.require_one_of({"sync"});
  const bool is_wide = d.mods.type({Type::b32, Type::b64}) == Type::b64;
  d.expect_operands(3, 3);
  const Operand& result = d.operand(0);
  const bool pair = result.kind == Operand::Kind::pair;
  if (pair && !d.op.immediate) d.fail("has no predicate result");
  d.op.slot[0] = d.out(pair ? result.items[0] : result, 4);
  d.op.slot[3] = pair ? d.predicate_out(result.items[1]) : Op::kNone;
  d.op.slot[1] = d.in(1, is_wide ? 8 : 4), d.op.slot[2] = d.in(2, 4);
  d.op.kind = InstructionClass::warp;
  d.op.run = is_wide ? run_match<uint64_t> : run_match<uint32_t>;
}

// --- redux.sync ---

constexpr auto redux_add = [](uint32_t a, uint32_t b) { return a + b; };
constexpr auto redux_and = [](uint32_t a, uint32_t b) { return a & b; };
constexpr auto redux_or = [](uint32_t a, uint32_t b) { return a | b; };
constexpr auto redux_xor = [](uint32_t a, uint32_t b) { return a ^ b; };
constexpr auto redux_min = [](auto a, auto b) { return a < b ? a : b; };
constexpr auto redux_max = [](auto a, auto b) { return a > b ? a : b; };

template <typename T, auto F>
Flow run_redux(Warp& w, const Op& op) {
  uint32_t members;
  if (!gather_members(w, op, op.slot[2], &members)) return Flow::wait;
  const T* a = w.lanes<T>(op.slot[1]);
  T total{};
  bool first = true;
  for_active(w.mask, [&](int l) { total = first ? a[l] : T(F(total, a[l])), first = false; });
  write_lanes(w, w.lanes<T>(op.slot[0]), [&](int) { return total; });
  return Flow::next;
}

// f32 minimum and maximum: a NaN is passed over, or with .NaN wins; .abs compares magnitudes.
Flow run_redux_float(Warp& w, const Op& op) {
  uint32_t members;
  if (!gather_members(w, op, op.slot[2], &members)) return Flow::wait;
  const bool is_max = op.immediate & 1, abs = op.immediate & 2, keep_nan = op.immediate & 4;
  float total = std::numeric_limits<float>::quiet_NaN();
  bool nan = false;
  for_active(w.mask, [&](int l) {
    float v = w.lanes<float>(op.slot[1])[l];
    if (abs) v = std::fabs(v);
    if (v != v) {
      nan = true;
    } else if (total != total || (v == total ? std::signbit(v) != is_max : (v > total) == is_max)) {
      total = v;  // -0 is below +0
    }
  });
  if ((nan && keep_nan) || total != total) total = std::bit_cast<float>(0x7fffffffu);
  write_lanes(w, w.lanes<float>(op.slot[0]), [&](int) { return total; });
  return Flow::next;
}

void decode_redux(Decode& d) {
  d.mods.require_one_of({"sync"});
  const int what = d.mods.require_one_of({"add", "min", "max", "and", "or", "xor"});
  const bool abs = d.mods.take("abs"), nan = d.mods.take("NaN");
  const Type type = what >= 3   ? d.mods.type({Type::b32})
                    : what == 0 ? d.mods.type({Type::u32, Type::s32})
                                : d.mods.type({Type::u32, Type::s32, Type::f32});
  d.expect_operands(3, 3);
  d.op.slot[0] = d.out(0, 4), d.op.slot[1] = d.in(1, 4), d.op.slot[2] = d.in(2, 4);
  d.op.kind = InstructionClass::warp;
  const bool is_signed = type == Type::s32;
  if (type == Type::f32) {
    d.op.immediate = (what == 2 ? 1 : 0) | (abs ? 2 : 0) | (nan ? 4 : 0);
    d.op.run = run_redux_float;
    return;
  }
  if (abs || nan) d.fail("has .abs or .NaN without .f32");
  switch (what) {
    case 0: d.op.run = run_redux<uint32_t, redux_add>; break;
    case 1:
      d.op.run = is_signed ? run_redux<int32_t, redux_min> : run_redux<uint32_t, redux_min>;
      break;
    case 2:
      d.op.run = is_signed ? run_redux<int32_t, redux_max> : run_redux<uint32_t, redux_max>;
      break;
    case 3: d.op.run = run_redux<uint32_t, redux_and>; break;
    case 4: d.op.run = run_redux<uint32_t, redux_or>; break;
    default: d.op.run = run_redux<uint32_t, redux_xor>;
  }
}

// --- elect.sync, activemask ---

void decode_elect(Decode& d) {
  d.mods.require_one_of({"sync"});
  d.expect_operands(2, 2);
  const Operand& result = d.operand(0);
  if (result.kind != Operand::Kind::pair) d.fail("takes a result d|p");
  d.op.slot[0] = d.out(result.items[0], 4);
  d.op.slot[1] = d.predicate_out(result.items[1]);
  d.op.slot[2] = d.in(1, 4);
  d.op.kind = InstructionClass::warp;
  d.op.run = [](Warp& w, const Op& op) {
    uint32_t members;
    if (!gather_members(w, op, op.slot[2], &members)) return Flow::wait;
    const uint32_t leader = uint32_t(std::countr_zero(w.mask));
    write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int) { return leader; });
    write_predicate(w, op.slot[1], 1u << leader);
    return Flow::next;
  };
}

void decode_activemask(Decode& d) {
  d.mods.type({Type::b32});
  d.expect_operands(1, 1);
  d.op.slot[0] = d.out(0, 4);
  d.op.kind = InstructionClass::warp;
  d.op.run = [](Warp& w, const Op& op) {
    const uint32_t active = w.mask;
    write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int) { return active; });
    return Flow::next;
  };
}

}  // namespace

std::initializer_list<DecodeEntry> warp_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {
      {"shfl", decode_shfl},   {"vote", decode_vote},   {"match", decode_match},
      {"redux", decode_redux}, {"elect", decode_elect}, {"activemask", decode_activemask}};
  return all;
}

}  // namespace ptxsim
