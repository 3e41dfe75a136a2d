// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "checks/races.h"
#include "counters/counters.h"
#include "engine/lanes.h"
#include "engine/waits.h"
#include "opcodes/mbarrier.h"

namespace ptxsim {

using ptx::Operand;
using ptx::Type;

// pending 20 | expected 20 | tx 21, two's complement | phase 1 | 2 bits that mark an mbarrier
Mbarrier Mbarrier::load(uint64_t bits, bool* is_valid) {
  Mbarrier m;
  m.pending = uint32_t(bits) & kMaxCount;
  m.expected = uint32_t(bits >> 20) & kMaxCount;
  m.tx = int32_t(uint32_t(bits >> 40) << 11) >> 11;
  m.phase = uint32_t(bits >> 61) & 1;
  *is_valid = bits >> 62 == 2;
  return m;
}

uint64_t Mbarrier::store() const {
  return uint64_t(pending) | uint64_t(expected) << 20 | uint64_t(uint32_t(tx) & 0x1fffff) << 40 |
         uint64_t(phase) << 61 | uint64_t(2) << 62;
}

namespace {

Mbarrier load_from(const Block& block, uint32_t offset, bool* is_valid) {
  uint64_t bits;
  memcpy(&bits, block.shared.data() + offset, 8);
  return Mbarrier::load(bits, is_valid);
}

void store_to(Block& block, uint32_t offset, const Mbarrier& m) {
  const uint64_t bits = m.store();
  memcpy(block.shared.data() + offset, &bits, 8);
}

}  // namespace

uint64_t step_mbarrier(Launch& launch, Block& block, uint32_t offset, MbarrierStep step,
                       uint32_t count, uint32_t tx, Warp* w, const Op* op, int lane) {
  bool is_valid;
  Mbarrier m = load_from(block, offset, &is_valid);
  const uint64_t before = m.store();
  auto misuse = [&](const std::string& what) {
    if (w) fault(*w, *op, Report::Kind::barrier_misuse, 1u << lane, what);
    throw Fault{{Report::Kind::barrier_misuse,
                 true,
                 launch.kernel,
                 block.index,
                 {},
                 0,
                 "",
                 what + ", by an asynchronous operation"}};
  };
  if (!is_valid)
    misuse("the mbarrier at shared offset " + std::to_string(offset) + " is not initialised");
  const bool arrives = step == MbarrierStep::arrive || step == MbarrierStep::arrive_expect_tx ||
                       step == MbarrierStep::arrive_drop;
  m.tx += step == MbarrierStep::complete_tx ? -int32_t(tx) : int32_t(tx);
  if (m.tx > int32_t(Mbarrier::kMaxCount) || m.tx < -int32_t(Mbarrier::kMaxCount))
    misuse("the mbarrier's transaction count leaves its range");
  if (step == MbarrierStep::arrive_drop) {
    if (m.expected < count)
      misuse("mbarrier.arrive_drop of more arrivals than the mbarrier expects");
    m.expected -= count;
  }
  if (arrives) {
    if (count > m.pending)
      misuse("the mbarrier gets " + std::to_string(count) +
             " arrivals while its phase is pending " + std::to_string(m.pending));
    m.pending -= count;
  }
  if (launch.races && arrives) launch.races->release_mbarrier(*w, lane, block, offset);
  if (m.is_complete()) {
    m.complete_phase();
    ++launch.counters->mbarrier_phases;
    if (launch.races) launch.races->end_phase(block, offset);
  }
  store_to(block, offset, m);
  ++launch.progress;
  return before;
}

void raise_mbarrier(Block& block, uint32_t offset, const Warp& w, const Op& op, int lane) {
  bool is_valid;
  Mbarrier m = load_from(block, offset, &is_valid);
  if (!is_valid || m.pending == Mbarrier::kMaxCount)
    fault(w, op, Report::Kind::barrier_misuse, 1u << lane,
          "this is no mbarrier that could take one more arrival");
  ++m.pending;
  store_to(block, offset, m);
}

bool mbarrier_phase_complete(Block& block, uint32_t offset, uint32_t parity) {
  bool is_valid;
  const Mbarrier m = load_from(block, offset, &is_valid);
  return !is_valid || m.phase != parity;  // an invalid one: the instruction runs and says so
}

std::string describe_mbarrier(const Block& block, uint32_t offset) {
  bool is_valid;
  const Mbarrier m = load_from(block, offset, &is_valid);
  if (!is_valid) return "not initialised";
  return "current phase " + std::to_string(m.phase) + ", " + std::to_string(m.pending) + " of " +
         std::to_string(m.expected) + " arrivals and " + std::to_string(m.tx) + " bytes pending";
}

namespace {

struct MbarrierForm {
  AddressForm address;
  MbarrierStep step;
  uint32_t token = Op::kNone, count = Op::kNone, tx = Op::kNone;
  bool by_parity = false, may_block = false;
  Order order;
};

Place mbarrier_place(Warp& w, const Op& op, int lane, SpaceKind space, uint64_t address) {
  const Place p = locate(w, op, space, lane, address, 8, Access::Kind::atomic);
  if (!p.shared_block)
    fault(w, op, Report::Kind::out_of_bounds, 1u << lane,
          "an mbarrier lies in shared memory; this address does not");
  if (p.shared_offset % 8)
    fault(w, op, Report::Kind::misaligned, 1u << lane, "an mbarrier is aligned to 8 bytes");
  return p;
}

// `strong`: to the race checker the operations are like atomics; making and unmaking an mbarrier is
// like a plain write, which has to come before or after all of them.
template <typename F>
void for_each_mbarrier(Warp& w, const Op& op, const AddressForm& address, bool strong, const F& f) {
  uint64_t addresses[kLanes];
  Place places[kLanes];
  read_addresses(w, address, addresses);
  for_active(w.mask,
             [&](int l) { places[l] = mbarrier_place(w, op, l, address.space, addresses[l]); });
  Access access;
  access.kind = Access::Kind::write, access.is_strong = strong, access.bytes = 8;
  if (RaceChecker* races = w.launch().races) races->access(w, op, places, access);
  for_active(w.mask, [&](int l) { f(l, *places[l].shared_block, places[l].shared_offset); });
}

Flow run_step(Warp& w, const Op& op) {
  const auto& f = *static_cast<const MbarrierForm*>(op.form);
  for_each_mbarrier(w, op, f.address, true, [&](int l, Block& block, uint32_t offset) {
    const uint32_t count = f.count == Op::kNone ? 1 : w.lanes<uint32_t>(f.count)[l];
    const uint32_t tx = f.tx == Op::kNone ? 0 : w.lanes<uint32_t>(f.tx)[l];
    const uint64_t token = step_mbarrier(w.launch(), block, offset, f.step, count, tx, &w, &op, l);
    if (f.token != Op::kNone) w.lanes<uint64_t>(f.token)[l] = token;
  });
  return Flow::next;
}

Flow run_init(Warp& w, const Op& op) {
  const auto& f = *static_cast<const MbarrierForm*>(op.form);
  for_each_mbarrier(w, op, f.address, false, [&](int l, Block& block, uint32_t offset) {
    if (!block.mbarriers.insert(offset).second)
      finding(w, op, Report::Kind::barrier_misuse, 1u << l,
              "there is an mbarrier already; mbarrier.inval has to end it first");
    Mbarrier m;
    m.pending = m.expected = w.lanes<uint32_t>(f.count)[l];
    if (m.expected == 0 || m.expected > Mbarrier::kMaxCount)
      fault(w, op, Report::Kind::barrier_misuse, 1u << l,
            "mbarrier.init with a count of " + std::to_string(m.expected));
    store_to(block, offset, m);
    mark_shared(block, offset, 8, true);
    if (RaceChecker* races = w.launch().races) races->start_mbarrier(block, offset);
  });
  return Flow::next;
}

Flow run_invalidate(Warp& w, const Op& op) {
  const auto& f = *static_cast<const MbarrierForm*>(op.form);
  for_each_mbarrier(w, op, f.address, false, [&](int l, Block& block, uint32_t offset) {
    bool is_valid;
    load_from(block, offset, &is_valid);
    if (!is_valid)
      fault(w, op, Report::Kind::barrier_misuse, 1u << l,
            "mbarrier.inval of something that is no mbarrier");
    memset(block.shared.data() + offset, 0, 8);
    block.mbarriers.erase(offset);
  });
  return Flow::next;
}

// True where the phase asked for is over. try_wait may wait for that, and does, but for one time in
// eight, so that loops around it are seen to work.
Flow run_wait(Warp& w, const Op& op) {
  const auto& f = *static_cast<const MbarrierForm*>(op.form);
  uint32_t done = 0;
  Wait wait{Wait::Kind::mbarrier, 0, 0, 0, 0};
  for_each_mbarrier(w, op, f.address, true, [&](int l, Block& block, uint32_t offset) {
    if (&block != w.block)
      fault(w, op, Report::Kind::barrier_misuse, 1u << l,
            "a block may wait at its own mbarriers only");
    bool is_valid;
    const Mbarrier m = load_from(block, offset, &is_valid);
    if (!is_valid)
      fault(w, op, Report::Kind::barrier_misuse, 1u << l,
            "waits at something that is no initialised mbarrier");
    bool token_valid;
    const uint32_t parity = f.by_parity
                                ? w.lanes<uint32_t>(f.count)[l] & 1
                                : Mbarrier::load(w.lanes<uint64_t>(f.count)[l], &token_valid).phase;
    if (m.phase != parity) {
      done |= 1u << l;
      if (w.launch().races && f.order.acquires)
        w.launch().races->acquire_mbarrier(w, 1u << l, block, offset);
    } else {
      wait.address = offset, wait.generation = parity;
      w.launch().poll(w, kSharedWindow | offset);
    }
  });
  if (done != w.mask && done == 0 && f.may_block && !w.launch().schedule.random.one_in(8)) {
    w.fragment->wait = wait;
    return Flow::wait;
  }
  write_predicate(w, op.slot[0], done);
  return Flow::next;
}

void decode_wait(Decode& d, MbarrierForm& f, bool may_block) {
  f.may_block = may_block;
  f.by_parity = d.mods.take("parity");
  f.order.is_strong = true;
  SpaceKind space = take_space(d);
  f.order.acquires = d.mods.take_one_of({"acquire", "relaxed"}) != 1;
  d.mods.take_one_of({"cta", "cluster"});
  if (space == SpaceKind::generic) space = take_space(d);
  d.mods.type({Type::b64});
  d.expect_operands(3, may_block ? 4 : 3);
  d.op.slot[0] = d.predicate_out(d.operand(0));
  f.address = decode_address(d, d.operand(1), space);
  f.count = d.in(2, f.by_parity ? 4 : 8);
  if (d.operands() == 4) d.in(3, 4);  // a time limit, which the scheduler decides
  d.op.run = run_wait;
}

// Of a token: what was pending before the arrival that returned it.
void decode_pending_count(Decode& d) {
  d.mods.type({Type::b64});
  d.expect_operands(2, 2);
  d.op.slot[0] = d.out(0, 4), d.op.slot[1] = d.in(1, 8);
  d.op.run = [](Warp& w, const Op& op) {
    const uint64_t* tokens = w.lanes<uint64_t>(op.slot[1]);
    uint32_t wrong = 0;
    for_active(w.mask, [&](int l) {
      bool is_valid;
      w.lanes<uint32_t>(op.slot[0])[l] = Mbarrier::load(tokens[l], &is_valid).pending;
      wrong |= uint32_t(!is_valid) << l;
    });
    if (wrong)
      fault(w, op, Report::Kind::barrier_misuse, wrong, "takes the token of an mbarrier's arrival");
    return Flow::next;
  };
}

void decode_mbarrier(Decode& d) {
  d.op.kind = InstructionClass::mbarrier;
  if (d.mods.take("pending_count")) return decode_pending_count(d);
  MbarrierForm& f = d.form<MbarrierForm>();
  const int what = d.mods.require_one_of({"init", "inval", "arrive", "arrive_drop", "expect_tx",
                                          "complete_tx", "test_wait", "try_wait"});
  if (what >= 6) return decode_wait(d, f, what == 7);
  if (what < 2) {
    const SpaceKind space = take_space(d);
    d.mods.type({Type::b64});
    d.expect_operands(what == 0 ? 2 : 1, what == 0 ? 2 : 1);
    f.address = decode_address(d, d.operand(0), space);
    if (what == 0) f.count = d.in(1, 4);
    d.op.run = what == 0 ? run_init : run_invalidate;
    return;
  }
  const bool is_arrival = what == 2 || what == 3;
  const bool expects = what == 4 || (is_arrival && d.mods.take("expect_tx"));
  if (is_arrival) d.mods.take("noComplete");
  // ptxas takes the space before or after the semantics.
  SpaceKind space = take_space(d);
  d.mods.take_one_of({"release", "relaxed"});
  d.mods.take_one_of({"cta", "cluster"});
  if (space == SpaceKind::generic) space = take_space(d);
  d.mods.type({Type::b64});
  int at = 0;
  if (is_arrival && d.operand(0).kind != Operand::Kind::address)
    f.token = d.out(d.operand(at++), 8);
  f.address = decode_address(d, d.operand(at++), space);
  if (at < d.operands())
    (expects || what == 5 ? f.tx : f.count) = d.in(at++, 4);
  else if (expects || what == 5)
    d.fail("takes a count");
  d.expect_operands(at, at);
  f.step = what == 4   ? MbarrierStep::expect_tx
           : what == 5 ? MbarrierStep::complete_tx
           : what == 3 ? MbarrierStep::arrive_drop
           : expects   ? MbarrierStep::arrive_expect_tx
                       : MbarrierStep::arrive;
  d.op.run = run_step;
}

}  // namespace

std::initializer_list<DecodeEntry> mbarrier_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {{"mbarrier", decode_mbarrier}};
  return all;
}

}  // namespace ptxsim
