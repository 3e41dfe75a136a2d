// SPDX-License-Identifier: Apache-2.0
// atom and red: PTX ISA 9.7.13.5 and 9.7.13.6. Lanes take their turn in ascending order; any order
// is allowed, and the result of a kernel that depends on it depends on the schedule anyway.
#include <cmath>
#include <cstring>

#include "checks/races.h"
#include "engine/lanes.h"
#include "engine/operands.h"
#include "opcodes/numbers.h"

namespace ptxsim {
namespace {

using ptx::Operand;
using ptx::Type;

enum class AtomicOp : uint8_t { exch, cas, add, inc, dec, min, max, and_, or_, xor_ };

struct AtomicForm {
  AddressForm address;
  Access access;
  Order order;
  AtomicOp what;
  // old value, operand, cas's second operand -> new value; all in the low bits of 64.
  uint64_t (*apply)(uint64_t old, uint64_t b, uint64_t c);
  uint32_t element = 4, count = 1;  // bytes and number of elements, for vectors
  uint32_t out[8], in[8], second = Op::kNone;
};

template <typename T, AtomicOp kOp>
uint64_t apply_integer(uint64_t old_bits, uint64_t b_bits, uint64_t c_bits) {
  using U = std::make_unsigned_t<T>;
  const T old = T(U(old_bits)), b = T(U(b_bits)), c = T(U(c_bits));
  T out{};
  switch (kOp) {
    case AtomicOp::exch: out = b; break;
    case AtomicOp::cas: out = old == b ? c : old; break;
    case AtomicOp::add: out = T(U(old) + U(b)); break;
    case AtomicOp::inc: out = old >= b ? T(0) : T(old + 1); break;
    case AtomicOp::dec: out = old == 0 || old > b ? b : T(old - 1); break;
    case AtomicOp::min: out = old < b ? old : b; break;
    case AtomicOp::max: out = old > b ? old : b; break;
    case AtomicOp::and_: out = T(old & b); break;
    case AtomicOp::or_: out = T(old | b); break;
    case AtomicOp::xor_: out = T(old ^ b); break;
  }
  return uint64_t(U(out));
}

template <typename F>
uint64_t apply_halves(uint64_t old, uint64_t b, int halves, const F& f) {
  uint64_t out = 0;
  for (int i = 0; i < halves; ++i)
    out |= uint64_t(f(uint16_t(old >> (16 * i)), uint16_t(b >> (16 * i)))) << (16 * i);
  return out;
}

enum class Float : uint8_t { f32, f64, f16, f16x2, bf16, bf16x2 };

// Half sums are exact in fp32 up to its rounding, and rounding twice changes nothing: 24 >= 2 * 11
// + 2.
template <Float kType, AtomicOp kOp>
uint64_t apply_float(uint64_t old, uint64_t b, uint64_t) {
  auto pick = [](auto x, auto y) {
    if constexpr (kOp == AtomicOp::add) return x + y;
    if (x != x || y != y) return x != x ? y : x;  // of a NaN and a number the number
    if (x == y) return std::signbit(x) == (kOp == AtomicOp::min) ? x : y;  // -0 is below +0
    return (x < y) == (kOp == AtomicOp::min) ? x : y;
  };
  if constexpr (kType == Float::f32)
    return std::bit_cast<uint32_t>(
        pick(std::bit_cast<float>(uint32_t(old)), std::bit_cast<float>(uint32_t(b))));
  if constexpr (kType == Float::f64)
    return std::bit_cast<uint64_t>(pick(std::bit_cast<double>(old), std::bit_cast<double>(b)));
  constexpr bool bf = kType == Float::bf16 || kType == Float::bf16x2;
  constexpr int halves = kType == Float::f16x2 || kType == Float::bf16x2 ? 2 : 1;
  return apply_halves(old, b, halves, [&](uint16_t x, uint16_t y) {
    return bf ? float_to_bf16(pick(bf16_to_float(x), bf16_to_float(y)))
              : float_to_f16(pick(f16_to_float(x), f16_to_float(y)));
  });
}

uint64_t read_register(const Warp& w, uint32_t slot, uint32_t bytes, int lane) {
  uint64_t v = 0;
  memcpy(&v, w.registers + slot + uint32_t(lane) * bytes, bytes);
  return v;
}

Flow run_atomic(Warp& w, const Op& op) {
  const auto& f = *static_cast<const AtomicForm*>(op.form);
  uint64_t addresses[kLanes];
  Place places[kLanes];
  read_addresses(w, f.address, addresses);
  access_memory(w, op, f.address.space, addresses, f.access, places);
  if (RaceChecker* races = w.launch().races) races->order(w, f.order, places, false);
  const uint32_t bytes = f.element;
  bool changes = false;
  for_active(w.mask, [&](int l) {
    for (uint32_t i = 0; i < f.count; ++i) {
      uint8_t* at = places[l].data + i * bytes;
      if (bytes == 16) {  // .b128: exchange and compare-and-swap of 16 bytes
        uint8_t old[16];
        memcpy(old, at, 16);
        const uint8_t* b = w.registers + f.in[0] + uint32_t(l) * 16;
        const bool write = f.what == AtomicOp::exch || memcmp(old, b, 16) == 0;
        changes |= write;
        if (write)
          memcpy(at, f.what == AtomicOp::exch ? b : w.registers + f.second + uint32_t(l) * 16, 16);
        if (f.out[0] != Op::kNone) memcpy(w.registers + f.out[0] + uint32_t(l) * 16, old, 16);
        continue;
      }
      uint64_t old = 0;
      memcpy(&old, at, bytes);
      const uint64_t second = f.second == Op::kNone ? 0 : read_register(w, f.second, bytes, l);
      const uint64_t value = f.apply(old, read_register(w, f.in[i], bytes, l), second);
      changes |= memcmp(at, &value, bytes) != 0;
      memcpy(at, &value, bytes);
      if (f.out[i] != Op::kNone) memcpy(w.registers + f.out[i] + uint32_t(l) * bytes, &old, bytes);
    }
  });
  if (RaceChecker* races = w.launch().races) races->order(w, f.order, places, true);
  if (changes)
    ++w.launch().progress;
  else
    w.launch().poll(w, addresses[std::countr_zero(w.mask)]);
  return Flow::next;
}

using Apply = uint64_t (*)(uint64_t, uint64_t, uint64_t);

template <AtomicOp kOp>
Apply pick_type(const std::string& type) {
  const bool bits_only = kOp == AtomicOp::exch || kOp == AtomicOp::cas || kOp == AtomicOp::and_ ||
                         kOp == AtomicOp::or_ || kOp == AtomicOp::xor_;
  if constexpr (kOp == AtomicOp::inc || kOp == AtomicOp::dec)
    return type == "u32" ? apply_integer<uint32_t, kOp> : nullptr;
  if (bits_only) {
    if (type == "b16" && kOp == AtomicOp::cas) return apply_integer<uint16_t, kOp>;
    if (type == "b32") return apply_integer<uint32_t, kOp>;
    if (type == "b64") return apply_integer<uint64_t, kOp>;
    return nullptr;
  }
  if (type == "u32") return apply_integer<uint32_t, kOp>;
  if (type == "s32") return apply_integer<int32_t, kOp>;
  if (type == "u64") return apply_integer<uint64_t, kOp>;
  if (type == "s64" && kOp != AtomicOp::add) return apply_integer<int64_t, kOp>;
  if constexpr (kOp == AtomicOp::add || kOp == AtomicOp::min || kOp == AtomicOp::max) {
    if (type == "f32") return apply_float<Float::f32, kOp>;
    if (type == "f64" && kOp == AtomicOp::add) return apply_float<Float::f64, kOp>;
    if (type == "f16") return apply_float<Float::f16, kOp>;
    if (type == "bf16") return apply_float<Float::bf16, kOp>;
    if (type == "f16x2") return apply_float<Float::f16x2, kOp>;
    if (type == "bf16x2") return apply_float<Float::bf16x2, kOp>;
  }
  return nullptr;
}

Apply pick(AtomicOp what, const std::string& type) {
  switch (what) {
    case AtomicOp::exch: return pick_type<AtomicOp::exch>(type);
    case AtomicOp::cas: return pick_type<AtomicOp::cas>(type);
    case AtomicOp::add: return pick_type<AtomicOp::add>(type);
    case AtomicOp::inc: return pick_type<AtomicOp::inc>(type);
    case AtomicOp::dec: return pick_type<AtomicOp::dec>(type);
    case AtomicOp::min: return pick_type<AtomicOp::min>(type);
    case AtomicOp::max: return pick_type<AtomicOp::max>(type);
    case AtomicOp::and_: return pick_type<AtomicOp::and_>(type);
    case AtomicOp::or_: return pick_type<AtomicOp::or_>(type);
    default: return pick_type<AtomicOp::xor_>(type);
  }
}

void decode_atomic(Decode& d) {
  const bool returns = d.instruction.opcode == "atom";
  if (!returns && d.mods.take("async")) return decode_async_reduction(d);
  AtomicForm& f = d.form<AtomicForm>();
  f.order.scope = Order::Scope::gpu;  // .relaxed.gpu is what no word means
  auto take_scope = [&] {
    const int scope = d.mods.take_one_of({"cta", "cluster", "gpu", "sys"});
    if (scope >= 0) f.order.scope = Order::Scope(scope);
    return scope >= 0;
  };
  auto take_semantics = [&] {
    const int semantics = d.mods.take_one_of({"relaxed", "acquire", "release", "acq_rel"});
    f.order.acquires |= semantics == 1 || semantics == 3;
    f.order.releases |= semantics >= 2;
    return semantics >= 0;
  };
  const bool ordered = take_semantics(), scoped = take_scope();
  const SpaceKind space = take_space(d);
  if (!scoped) take_scope();  // ptxas takes the space first, too
  f.what = AtomicOp(d.mods.require_one_of(
      {"exch", "cas", "add", "inc", "dec", "min", "max", "and", "or", "xor"}));
  // ptxas takes the order behind the operation, too, where cooperative_groups has it.
  if (!ordered && take_semantics()) take_scope();
  f.order.is_strong = true;
  const bool noftz = d.mods.take("noftz");  // sums of halves keep subnormals
  const bool hint = d.mods.take("L2::cache_hint");
  const int vector = d.mods.take_one_of({"v2", "v4", "v8"});
  f.count = vector < 0 ? 1 : 2u << vector;
  const std::string type(d.mods.peek());
  Type parsed;
  if (!ptx::parse_type(type, &parsed)) d.fail("expects a type");
  f.element = uint32_t(ptx::size_of(parsed));
  f.apply = pick(f.what, type);
  const bool wide = type == "b128" && (f.what == AtomicOp::exch || f.what == AtomicOp::cas);
  if (!returns && (f.order.acquires || f.what == AtomicOp::exch || f.what == AtomicOp::cas))
    d.fail("does not exist without a result");
  const bool is_half = type.find("f16") != std::string::npos;
  const bool is_float = is_half || type == "f32";
  const bool in_global = space == SpaceKind::global || space == SpaceKind::generic;
  const bool vectorised = is_half ? f.count * f.element <= 16
                                  : type == "f32" && f.what == AtomicOp::add && f.count <= 4;
  const bool is_extreme = f.what == AtomicOp::min || f.what == AtomicOp::max;
  if ((!f.apply && !wide) || (is_extreme && is_float && f.count == 1) || noftz != is_half ||
      (hint && !in_global) || (f.count > 1 && !(vectorised && in_global)))
    d.fail("does not exist for this type and space");
  d.mods.take(type);

  const int sources = f.what == AtomicOp::cas ? 2 : 1, least = (returns ? 2 : 1) + sources;
  d.expect_operands(least, least + 1);
  int at = 0;
  for (uint32_t& slot : f.out) slot = Op::kNone;
  if (returns) {
    const Operand& result = d.operand(at++);
    if (f.count > 1 && (result.kind != Operand::Kind::vector || result.items.size() != f.count))
      d.fail("takes a vector result");
    for (uint32_t i = 0; i < f.count; ++i)
      f.out[i] = d.out(f.count > 1 ? result.items[i] : result, int(f.element));
  }
  f.address = decode_address(d, d.operand(at++), space);
  const Operand& value = d.operand(at++);
  for (uint32_t i = 0; i < f.count; ++i)
    f.in[i] = d.in(f.count > 1 ? value.items.at(i) : value, int(f.element));
  if (sources == 2) f.second = d.in(at++, int(f.element));
  if (at < d.operands()) d.in(at, 8);  // the cache policy
  f.access.kind = Access::Kind::atomic;
  f.access.bytes = uint8_t(f.element * f.count);
  f.access.is_strong = true;
  d.op.between_blocks = f.address.space != SpaceKind::shared;
  d.op.kind = InstructionClass::atomic;
  d.op.run = run_atomic;
}

}  // namespace

std::initializer_list<DecodeEntry> atomic_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {{"atom", decode_atomic},
                                                         {"red", decode_atomic}};
  return all;
}

}  // namespace ptxsim
