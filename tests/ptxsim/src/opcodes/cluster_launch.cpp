// SPDX-License-Identifier: Apache-2.0
// clusterlaunchcontrol (PTX ISA 9.7.13.18): a running cluster takes over the work of one that has
// not started, by cancelling it. The 16-byte answer is opaque to kernels: here two words, the first
// with bit 63 set and x if a cluster was cancelled, the second with y and z.
#include <cstring>

#include "checks/races.h"
#include "engine/lanes.h"
#include "engine/operands.h"
#include "opcodes/mbarrier.h"

namespace ptxsim {
namespace {

using ptx::Operand;
using ptx::Type;

constexpr uint64_t kCancelled = uint64_t(1) << 63;
constexpr uint32_t kAnswerBytes = 16;

struct CancelForm {
  AddressForm answer, mbarrier;
  bool multicast = false;
};

Flow run_try_cancel(Warp& w, const Op& op) {
  const auto& f = *static_cast<const CancelForm*>(op.form);
  Launch& launch = w.launch();
  uint64_t answers[kLanes], barriers[kLanes];
  read_addresses(w, f.answer, answers);
  read_addresses(w, f.mbarrier, barriers);
  // One instruction of the warp, as with TMA: lanes that ask for the same answer ask once.
  const uint32_t issuing = distinct_lanes(
      w.mask, [&](int a, int b) { return answers[a] == answers[b] && barriers[a] == barriers[b]; });
  for_active(issuing, [&](int l) {
    const Place answer =
        locate(w, op, f.answer.space, l, answers[l], kAnswerBytes, Access::Kind::write);
    const Place barrier = locate(w, op, f.mbarrier.space, l, barriers[l], 8, Access::Kind::atomic);
    if (!answer.shared_block || !barrier.shared_block || answer.shared_offset % kAnswerBytes)
      fault(w, op, Report::Kind::misaligned, 1u << l,
            "takes shared addresses, that of the answer a multiple of 16");
    std::vector<Block*> targets;
    if (f.multicast)
      for (Block& block : w.block->cluster->blocks) targets.push_back(&block);
    else
      targets.push_back(answer.shared_block);
    const Agent agent = launch.races ? launch.races->start_agent(w, 1u << l, false, true) : Agent{};
    const uint32_t to = answer.shared_offset, at = barrier.shared_offset;
    w.block->cluster->pending.push_back(
        {[=, &launch, &op] {
           uint64_t words[2] = {};
           Dim3 first;
           if (launch.cancel_cluster(&first)) {
             words[0] = kCancelled | first.x;
             words[1] = first.y | uint64_t(first.z) << 32;
           }
           for (Block* block : targets) {
             if (launch.races)
               launch.races->agent_shared(agent, -1, op, *block, to, kAnswerBytes, true);
             memcpy(block->shared.data() + to, words, kAnswerBytes);
             mark_shared(*block, to, kAnswerBytes, true);
             if (launch.races) launch.races->complete_mbarrier(agent, op, *block, at);
             step_mbarrier(launch, *block, at, MbarrierStep::complete_tx, 0, kAnswerBytes, nullptr,
                           nullptr, -1);
           }
         },
         0, &w, AsyncOp::Kind::bulk, 1u << l, agent});
  });
  return Flow::next;
}

struct Answer { uint64_t words[2]; };

void decode_query(Decode& d) {
  d.op.kind = InstructionClass::async_control;
  if (d.mods.take("is_canceled")) {
    d.mods.type({Type::pred});
    d.mods.type({Type::b128});
    d.expect_operands(2, 2);
    d.op.slot[0] = d.predicate_out(d.operand(0));
    d.op.slot[1] = d.in(1, kAnswerBytes);
    d.op.run = [](Warp& w, const Op& op) {
      const Answer* a = w.lanes<Answer>(op.slot[1]);
      write_predicate(w, op.slot[0],
                      lane_mask([&](int l) { return (a[l].words[0] & kCancelled) != 0; }));
      return Flow::next;
    };
    return;
  }
  const int which = d.mods.require_one_of(
      {"get_first_ctaid", "get_first_ctaid::x", "get_first_ctaid::y", "get_first_ctaid::z"});
  const bool vector = which == 0;
  if (vector) d.mods.require_one_of({"v4"});
  d.mods.type({Type::b32});
  d.mods.type({Type::b128});
  d.expect_operands(2, 2);
  auto& slots = d.form<std::vector<uint32_t>>();
  if (vector)
    for (const Operand& item : d.operand(0).items) slots.push_back(d.out(item, 4));
  else
    slots.push_back(d.out(0, 4));
  if (vector && slots.size() != 4) d.fail("takes a vector of 4");
  d.op.slot[1] = d.in(1, kAnswerBytes);
  d.op.immediate = vector ? 0 : which - 1;
  d.op.run = [](Warp& w, const Op& op) {
    const auto& slots = *static_cast<const std::vector<uint32_t>*>(op.form);
    const Answer* a = w.lanes<Answer>(op.slot[1]);
    for_active(w.mask, [&](int l) {
      if (!(a[l].words[0] & kCancelled))
        fault(w, op, Report::Kind::illegal_instruction, 1u << l,
              "asks for the block of a cluster that was not cancelled");
    });
    for (size_t i = 0; i < slots.size() && i < 3; ++i) {
      const int part = slots.size() == 4 ? int(i) : int(op.immediate);
      write_lanes(w, w.lanes<uint32_t>(slots[i]), [&](int l) {
        return part == 0   ? uint32_t(a[l].words[0])
               : part == 1 ? uint32_t(a[l].words[1])
                           : uint32_t(a[l].words[1] >> 32);
      });
    }
    return Flow::next;
  };
}

void decode_cluster_launch(Decode& d) {
  if (d.mods.require_one_of({"try_cancel", "query_cancel"}) == 1) return decode_query(d);
  d.mods.require_one_of({"async"});
  CancelForm& f = d.form<CancelForm>();
  const SpaceKind space = take_space(d);
  d.mods.require_one_of({"mbarrier::complete_tx::bytes"});
  f.multicast = d.mods.take("multicast::cluster::all");
  d.mods.type({Type::b128});
  d.expect_operands(2, 2);
  f.answer = decode_address(d, d.operand(0), space);
  f.mbarrier = decode_address(d, d.operand(1), space);
  d.op.between_blocks = true;
  d.op.kind = InstructionClass::bulk;
  d.op.run = run_try_cancel;
}

}  // namespace

std::initializer_list<DecodeEntry> cluster_launch_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {
      {"clusterlaunchcontrol", decode_cluster_launch}};
  return all;
}

}  // namespace ptxsim
