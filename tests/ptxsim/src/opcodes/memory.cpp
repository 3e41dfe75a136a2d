// SPDX-License-Identifier: Apache-2.0
// ld and st: PTX ISA 9.7.9.8 to 9.7.9.12.
#include <algorithm>
#include <cstring>

#include "checks/races.h"
#include "checks/taint.h"
#include "engine/lanes.h"
#include "engine/memory.h"
#include "engine/operands.h"

namespace ptxsim {

using ptx::Operand;
using ptx::Type;

// --- Address operands, shared with the other files of memory instructions ---

AddressForm decode_address(Decode& d, const Operand& operand, SpaceKind space) {
  const Address a = d.address(operand);
  AddressForm form;
  form.space = space;
  form.offset = a.offset;
  switch (a.base) {
    case Address::Base::register32: form.slot = a.slot, form.is_wide = false; break;
    case Address::Base::register64: form.slot = a.slot, form.is_wide = true; break;
    case Address::Base::constant:
      form.slot = Op::kNone;
      if (a.is_kernel_param) form.space = SpaceKind::param_kernel;
      if (a.is_local_param) form.space = SpaceKind::param_local;
  }
  return form;
}

void read_addresses(const Warp& w, const AddressForm& form, uint64_t* out) {
  if (form.slot == Op::kNone) {
    for (int l = 0; l < kLanes; ++l) out[l] = uint64_t(form.offset);
  } else if (form.is_wide) {
    const uint64_t* base = w.lanes<uint64_t>(form.slot);
    for (int l = 0; l < kLanes; ++l) out[l] = base[l] + uint64_t(form.offset);
  } else {  // 32-bit addresses wrap
    const uint32_t* base = w.lanes<uint32_t>(form.slot);
    for (int l = 0; l < kLanes; ++l) out[l] = uint32_t(base[l] + uint32_t(form.offset));
  }
}

SpaceKind take_space(Decode& d) {
  static constexpr std::pair<const char*, SpaceKind> kSpaces[] = {
      {"global", SpaceKind::global},
      {"shared", SpaceKind::shared},
      {"shared::cta", SpaceKind::shared},
      {"shared::cluster", SpaceKind::shared},
      {"local", SpaceKind::local},
      {"const", SpaceKind::constant},
      {"param", SpaceKind::param_kernel},
      {"param::entry", SpaceKind::param_kernel},
      {"param::func", SpaceKind::param_local}};
  for (const auto& [name, space] : kSpaces)
    if (d.mods.take(name)) return space;
  return SpaceKind::generic;
}

Order take_order(Decode& d) {
  Order order;
  const int kind =
      d.mods.take_one_of({"weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"});
  order.is_strong = kind > 0;
  order.acquires = kind == 3 || kind == 5;
  order.releases = kind == 4 || kind == 5;
  if (kind == 6) d.mods.require_one_of({"relaxed"});
  if (kind >= 2)
    order.scope = Order::Scope(d.mods.require_one_of({"cta", "cluster", "gpu", "sys"}));
  if (kind == 1) order.scope = Order::Scope::sys;
  return order;
}

namespace {

struct MemoryForm {
  AddressForm address;
  Access access;
  Order order;
  uint32_t count = 1, element = 4;
  bool is_signed = false;
  uint32_t slots[8] = {}, sizes[8] = {};  // registers and their bytes
};

template <typename T>
inline void spread(Warp& w, const MemoryForm& f, const Place* places) {
  for (uint32_t i = 0; i < f.count; ++i) {
    T* out = w.lanes<T>(f.slots[i]);
    for_active(w.mask, [&](int l) { memcpy(out + l, places[l].data + i * sizeof(T), sizeof(T)); });
  }
}

Place element_of(const Place& whole, uint32_t offset) {
  return {whole.data + offset, whole.shared_block, whole.shared_offset + offset, whole.allocation};
}

void taint_elements(Warp& w, const MemoryForm& f, const Place* places, uint32_t lanes) {
  for (uint32_t i = 0; i < f.count; ++i) {
    uint32_t bad = 0;
    for_active(lanes, [&](int l) {
      bad |= uint32_t(!is_written(element_of(places[l], i * f.element), f.element)) << l;
    });
    set_taint(w, f.slots[i], taint_of(w, f.slots[i]) | bad);
  }
}

// What is stored of values that nothing wrote is as unwritten as they are.
void untaint_stored(Warp& w, const MemoryForm& f, const Place* places) {
  for (uint32_t i = 0; i < f.count; ++i)
    for_active(taint_of(w, f.slots[i]), [&](int l) {
      const Place p = element_of(places[l], i * f.element);
      if (p.shared_block) mark_shared(*p.shared_block, p.shared_offset, f.element, false);
    });
}

Flow run_load(Warp& w, const Op& op) {
  const auto& f = *static_cast<const MemoryForm*>(op.form);
  uint64_t addresses[kLanes];
  Place places[kLanes];
  uint32_t unwritten = 0;
  Access access = f.access;
  access.unwritten = &unwritten;
  read_addresses(w, f.address, addresses);
  access_memory(w, op, f.address.space, addresses, access, places);
  if (unwritten) taint_elements(w, f, places, unwritten);
  if (f.element == f.sizes[0]) {
    if (f.element == 4)
      spread<uint32_t>(w, f, places);
    else if (f.element == 8)
      spread<uint64_t>(w, f, places);
    else if (f.element == 2)
      spread<uint16_t>(w, f, places);
    else
      spread<unsigned __int128>(w, f, places);
  } else {  // widened: sign or zeros
    for (uint32_t i = 0; i < f.count; ++i)
      for_active(w.mask, [&](int l) {
        int64_t value = 0;
        memcpy(&value, places[l].data + i * f.element, f.element);
        const int shift = 64 - 8 * int(f.element);
        if (f.is_signed) value = int64_t(uint64_t(value) << shift) >> shift;
        memcpy(w.registers + f.slots[i] + uint32_t(l) * f.sizes[i], &value, f.sizes[i]);
      });
  }
  if (f.order.is_strong) {
    if (w.launch().races) w.launch().races->order(w, f.order, places, true);
    w.launch().poll(w, addresses[std::countr_zero(w.mask)]);
  }
  return Flow::next;
}

// Of lanes that write one place one wins, and nothing says which: PTX ISA 8.2.
void check_one_writer(Warp& w, const Op& op, const MemoryForm& f, const Place* places) {
  int lanes[kLanes], n = 0;
  bool ascends = true;
  for_active(w.mask, [&](int l) {
    ascends &= n == 0 || places[l].data > places[lanes[n - 1]].data;
    lanes[n++] = l;
  });
  if (ascends) return;
  std::sort(lanes, lanes + n, [&](int a, int b) { return places[a].data < places[b].data; });
  uint32_t differ = 0;
  for (int k = 1; k < n; ++k) {
    const uint32_t a = uint32_t(lanes[k - 1]), b = uint32_t(lanes[k]);
    if (places[a].data != places[b].data) continue;
    for (uint32_t i = 0; i < f.count; ++i) {
      const uint8_t* value = w.registers + f.slots[i];
      if (memcmp(value + a * f.sizes[i], value + b * f.sizes[i], f.element))
        differ |= 1u << a | 1u << b;
    }
  }
  if (differ)
    finding(w, op, Report::Kind::warp_hazard, differ,
            "lanes write different values to one place, and any of them may stay");
}

Flow run_store(Warp& w, const Op& op) {
  const auto& f = *static_cast<const MemoryForm*>(op.form);
  uint64_t addresses[kLanes];
  Place places[kLanes];
  read_addresses(w, f.address, addresses);
  access_memory(w, op, f.address.space, addresses, f.access, places);
  if (f.order.is_strong && w.launch().races) w.launch().races->order(w, f.order, places, false);
  if (w.launch().races) check_one_writer(w, op, f, places);
  if (!w.taint.empty()) untaint_stored(w, f, places);
  for (uint32_t i = 0; i < f.count; ++i)
    for_active(w.mask, [&](int l) {
      memcpy(places[l].data + i * f.element, w.registers + f.slots[i] + uint32_t(l) * f.sizes[i],
             f.element);
    });
  ++w.launch().progress;
  return Flow::next;
}

InstructionClass class_of(SpaceKind space, bool load) {
  switch (space) {
    case SpaceKind::shared:
      return load ? InstructionClass::load_shared : InstructionClass::store_shared;
    case SpaceKind::local:
      return load ? InstructionClass::load_local : InstructionClass::store_local;
    case SpaceKind::param_kernel:
    case SpaceKind::param_local:
    case SpaceKind::constant: return InstructionClass::load_param;
    default: return load ? InstructionClass::load_global : InstructionClass::store_global;
  }
}

// Caches are not simulated: every access reaches memory, so what steers them changes nothing.
struct Hints { bool of_levels = false, of_l2 = false, coherent = true; };

Hints take_hints(Decode& d, bool load) {
  Hints h;
  if (load ? d.mods.take_one_of({"ca", "cg", "cs", "lu", "cv"}) >= 0
           : d.mods.take_one_of({"wb", "cg", "cs", "wt"}) >= 0)
    return h;
  h.coherent = !(load && d.mods.take("nc"));
  const bool l1 = d.mods.take_one_of({"L1::evict_normal", "L1::evict_unchanged", "L1::evict_first",
                                      "L1::evict_last", "L1::no_allocate"}) >= 0;
  h.of_l2 = d.mods.take_one_of({"L2::evict_normal", "L2::evict_first", "L2::evict_last"}) >= 0;
  const bool policy = d.mods.take("L2::cache_hint");
  const bool prefetch = load && d.mods.take_one_of({"L2::64B", "L2::128B", "L2::256B"}) >= 0;
  h.of_levels = l1 || h.of_l2 || policy || prefetch;
  return h;
}

void check_access(Decode& d, const MemoryForm& f, SpaceKind space, const Hints& hints, bool load) {
  const bool is_global = space == SpaceKind::global, is_generic = space == SpaceKind::generic;
  const uint32_t bytes = f.element * f.count;
  const bool cached = d.instruction.opcode == "ldu";  // cached and read-only
  if (bytes > 16 || (cached && f.count == 8))
    if (bytes != 32 || f.element > 8 || !(is_global || is_generic) || cached)
      d.fail("is wider than 16 bytes, as 32 bytes of .global may be");
  if ((hints.of_levels && !is_global && !is_generic) || (!hints.coherent && !is_global) ||
      (hints.of_l2 && bytes != 32))
    d.fail("has a cache hint that this space or width does not take");
  if (!f.order.is_strong) return;
  const bool io = d.mods.has("mmio");
  if (!is_global && !is_generic && (space != SpaceKind::shared || io))
    d.fail("has an order that this space does not take");
  if ((load ? f.order.releases : f.order.acquires) || cached)
    d.fail("has an order that this opcode does not take");
}

void decode_access(Decode& d) {
  const bool load = d.instruction.opcode != "st";
  if (!load && d.mods.take("async")) return decode_async_store(d);
  MemoryForm& f = d.form<MemoryForm>();
  f.order = take_order(d);
  SpaceKind space = take_space(d);
  if (!f.order.is_strong) f.order = take_order(d);  // ptxas takes the space first, too
  const Hints hints = take_hints(d, load);
  d.mods.take("unified");
  const int vector = d.mods.take_one_of({"v2", "v4", "v8"});
  f.count = vector < 0 ? 1 : 2u << vector;
  const Type type = d.mods.type({Type::b8, Type::b16, Type::b32, Type::b64, Type::b128, Type::u8,
                                 Type::u16, Type::u32, Type::u64, Type::s8, Type::s16, Type::s32,
                                 Type::s64, Type::f32, Type::f64});
  f.element = uint32_t(ptx::size_of(type));
  f.is_signed = type == Type::s8 || type == Type::s16 || type == Type::s32;
  check_access(d, f, space, hints, load);
  d.expect_operands(2, 3);
  if (d.operands() == 3) d.in(2, 8);  // the cache policy
  const Operand &address = d.operand(load ? 1 : 0), &value = d.operand(load ? 0 : 1);
  f.address = decode_address(d, address, space);
  // A function's own parameters are .param without a qualifier, too.
  const bool is_vector = value.kind == Operand::Kind::vector;
  if (is_vector ? value.items.size() != f.count : f.count != 1)
    d.fail("has another number of values than its vector");
  for (uint32_t i = 0; i < f.count; ++i) {
    int size;
    {
      const Operand& one = is_vector ? value.items[i] : value;
      f.slots[i] =
          load ? d.wide_out(one, int(f.element), &size) : d.wide(one, int(f.element), &size);
    }
    f.sizes[i] = uint32_t(size);
    if (load && f.sizes[i] != f.sizes[0]) d.fail("takes registers of one size");
  }
  f.access.kind = load ? Access::Kind::read : Access::Kind::write;
  f.access.bytes = uint8_t(f.element * f.count);
  f.access.is_strong = f.order.is_strong;
  d.op.between_blocks = f.order.is_strong && (f.address.space == SpaceKind::global ||
                                              f.address.space == SpaceKind::generic);
  d.op.kind = class_of(f.address.space, load);
  d.op.run = load ? run_load : run_store;
}

}  // namespace

std::initializer_list<DecodeEntry> memory_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {
      {"ld", decode_access}, {"ldu", decode_access}, {"st", decode_access}};
  return all;
}

}  // namespace ptxsim
