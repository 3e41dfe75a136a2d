// SPDX-License-Identifier: Apache-2.0
// st.async and red.async (PTX ISA 9.7.9.12, 9.7.13.7): a value goes to shared memory of the cluster
// and its bytes complete a transaction of the mbarrier beside it.
#include <cstring>

#include "checks/races.h"
#include "engine/lanes.h"
#include "engine/operands.h"
#include "opcodes/mbarrier.h"
#include "opcodes/reduce.h"

namespace ptxsim {
namespace {

using ptx::Operand;
using ptx::Type;

struct AsyncStoreForm {
  AddressForm to, mbarrier;
  uint32_t count = 1, element = 4, slots[4] = {};
  Reduce reduce = Reduce::none;
  TensorType type = TensorType::u32;
};

Flow run_async_store(Warp& w, const Op& op) {
  const auto& f = *static_cast<const AsyncStoreForm*>(op.form);
  Launch& launch = w.launch();
  uint64_t to[kLanes], barriers[kLanes];
  read_addresses(w, f.to, to);
  read_addresses(w, f.mbarrier, barriers);
  const uint32_t bytes = f.element * f.count;
  const Agent agent = launch.races ? launch.races->start_agent(w, w.mask, true, false) : Agent{};
  for_active(w.mask, [&](int l) {
    const auto kind = f.reduce == Reduce::none ? Access::Kind::write : Access::Kind::atomic;
    const Place place = locate(w, op, SpaceKind::shared, l, to[l], bytes, kind);
    const Place barrier = locate(w, op, SpaceKind::shared, l, barriers[l], 8, Access::Kind::atomic);
    if (place.shared_offset % bytes || barrier.shared_offset % 8)
      fault(w, op, Report::Kind::misaligned, 1u << l,
            "takes addresses that are multiples of sizes");
    if (barrier.shared_block != place.shared_block)
      fault(w, op, Report::Kind::barrier_misuse, 1u << l,
            "the mbarrier is in another block than the value goes to");
    struct { uint8_t bytes[32]; } value;
    for (uint32_t i = 0; i < f.count; ++i)
      memcpy(value.bytes + i * f.element, w.registers + f.slots[i] + uint32_t(l) * f.element,
             f.element);
    w.block->cluster->pending.push_back(
        {[=, &launch, &op, &f] {
           if (launch.races)
             launch.races->agent_shared(agent, l, op, *place.shared_block, place.shared_offset,
                                        bytes, f.reduce == Reduce::none);
           if (f.reduce == Reduce::none)
             memcpy(place.data, value.bytes, bytes);
           else
             reduce_element(f.reduce, f.type, place.data, value.bytes);
           mark_shared(*place.shared_block, place.shared_offset, bytes, true);
           if (launch.races)
             launch.races->complete_mbarrier(agent, op, *place.shared_block, barrier.shared_offset);
           step_mbarrier(launch, *place.shared_block, barrier.shared_offset,
                         MbarrierStep::complete_tx, 0, bytes, nullptr, nullptr, -1);
         },
         0, &w, AsyncOp::Kind::bulk, 1u << l, agent});
  });
  return Flow::next;
}

void decode_operands(Decode& d, AsyncStoreForm& f) {
  d.expect_operands(3, 3);
  f.to = decode_address(d, d.operand(0), SpaceKind::shared);
  const Operand& value = d.operand(1);
  const bool is_vector = value.kind == Operand::Kind::vector;
  if (is_vector ? value.items.size() != f.count : f.count != 1)
    d.fail("has another number of values than its vector");
  for (uint32_t i = 0; i < f.count; ++i)
    f.slots[i] = d.in(is_vector ? value.items[i] : value, int(f.element));
  f.mbarrier = decode_address(d, d.operand(2), SpaceKind::shared);
  d.op.kind = InstructionClass::store_shared;
  d.op.run = run_async_store;
}

}  // namespace

void decode_async_store(Decode& d) {
  AsyncStoreForm& f = d.form<AsyncStoreForm>();
  d.mods.take("weak");
  d.mods.take("shared::cluster");
  d.mods.require_one_of({"mbarrier::complete_tx::bytes"});
  const int vector = d.mods.take_one_of({"v2", "v4"});
  f.count = vector < 0 ? 1 : 2u << vector;
  f.element = uint32_t(ptx::size_of(d.mods.type(
      {Type::b32, Type::b64, Type::u32, Type::u64, Type::s32, Type::s64, Type::f32, Type::f64})));
  if (f.count * f.element > 16) d.fail("is wider than 16 bytes");
  decode_operands(d, f);
}

void decode_async_reduction(Decode& d) {
  AsyncStoreForm& f = d.form<AsyncStoreForm>();
  d.mods.require_one_of({"relaxed"});
  d.mods.require_one_of({"cluster"});
  d.mods.take("shared::cluster");
  d.mods.require_one_of({"mbarrier::complete_tx::bytes"});
  f.reduce = take_reduction(d);
  const Type type = f.reduce >= Reduce::and_                             ? d.mods.type({Type::b32})
                    : f.reduce == Reduce::inc || f.reduce == Reduce::dec ? d.mods.type({Type::u32})
                    : f.reduce == Reduce::add
                        ? d.mods.type({Type::u32, Type::s32, Type::u64, Type::s64})
                        : d.mods.type({Type::u32, Type::s32});
  f.element = uint32_t(ptx::size_of(type));
  f.type = type == Type::s32 ? TensorType::s32 : f.element == 8 ? TensorType::u64 : TensorType::u32;
  decode_operands(d, f);
}

}  // namespace ptxsim
