// SPDX-License-Identifier: Apache-2.0
// Comparison and selection: PTX ISA 9.7.6 and 9.7.7.
#include "engine/lanes.h"
#include "opcodes/numbers.h"

namespace ptxsim {
namespace {

using ptx::Operand;
using ptx::Type;

enum class Compare : uint8_t {
  eq,
  ne,
  lt,
  le,
  gt,
  ge,
  lo,
  ls,
  hi,
  hs,
  equ,
  neu,
  ltu,
  leu,
  gtu,
  geu,
  num,
  nan
};

template <Compare kCompare>
constexpr auto compare = [](auto a, auto b) -> bool {
  using T = decltype(a);
  bool unordered = false;
  if constexpr (std::is_floating_point_v<T>) unordered = a != a || b != b;
  switch (kCompare) {
    case Compare::eq: return a == b;
    case Compare::ne: return !unordered && a != b;
    case Compare::lt:
    case Compare::lo: return a < b;
    case Compare::le:
    case Compare::ls: return a <= b;
    case Compare::gt:
    case Compare::hi: return a > b;
    case Compare::ge:
    case Compare::hs: return a >= b;
    case Compare::equ: return unordered || a == b;
    case Compare::neu: return unordered || a != b;
    case Compare::ltu: return unordered || a < b;
    case Compare::leu: return unordered || a <= b;
    case Compare::gtu: return unordered || a > b;
    case Compare::geu: return unordered || a >= b;
    case Compare::num: return !unordered;
    case Compare::nan: return unordered;
  }
  return false;
};

// A comparison of 32 lanes; half types are widened, and subnormals flushed where .ftz asks for it.
using CompareLanes = uint32_t (*)(const Warp&, uint32_t slot_a, uint32_t slot_b, bool ftz);

template <typename T, typename Read, Compare kCompare>
uint32_t compare_lanes(const Warp& w, uint32_t slot_a, uint32_t slot_b, bool ftz) {
  const T *a = w.lanes<T>(slot_a), *b = w.lanes<T>(slot_b);
  return lane_mask(
      [&](int l) { return compare<kCompare>(Read::read(a[l], ftz), Read::read(b[l], ftz)); });
}

struct ReadSame {
  template <typename T>
  static T read(T v, bool ftz) {
    if constexpr (std::is_same_v<T, float>) return ftz ? flush(v) : v;
    return v;
  }
};
struct ReadF16 {
  static float read(uint16_t v, bool ftz) {
    return ftz ? flush_f16(f16_to_float(v)) : f16_to_float(v);
  }
};
struct ReadBf16 {
  static float read(uint16_t v, bool) { return bf16_to_float(v); }
};

template <typename T, typename Read>
CompareLanes pick_compare(Compare c) {
  switch (c) {
#define PTXSIM_CASE(name)                                           \
  case Compare::name: return compare_lanes<T, Read, Compare::name>;
    PTXSIM_CASE(eq)
    PTXSIM_CASE(ne)
    PTXSIM_CASE(lt)
    PTXSIM_CASE(le)
    PTXSIM_CASE(gt)
    PTXSIM_CASE(ge)
    PTXSIM_CASE(lo)
    PTXSIM_CASE(ls)
    PTXSIM_CASE(hi)
    PTXSIM_CASE(hs)
    PTXSIM_CASE(equ)
    PTXSIM_CASE(neu)
    PTXSIM_CASE(ltu)
    PTXSIM_CASE(leu) PTXSIM_CASE(gtu) PTXSIM_CASE(geu) PTXSIM_CASE(num) PTXSIM_CASE(nan)
#undef PTXSIM_CASE
  }
  return nullptr;
}

struct CompareForm {
  CompareLanes compare = nullptr;
  bool ftz = false;
  int combine = -1;  // 0 and, 1 or, 2 xor with predicate slot[4]
  bool combine_negated = false;
};

uint32_t combine(const Warp& w, const Op& op, const CompareForm& form, uint32_t value) {
  if (form.combine < 0) return value;
  const uint32_t c = w.predicate(op.slot[4]) ^ (form.combine_negated ? kAllLanes : 0);
  return form.combine == 0 ? value & c : form.combine == 1 ? value | c : value ^ c;
}

Compare decode_comparison(Decode& d, CompareForm& form) {
  const auto c =
      Compare(d.mods.require_one_of({"eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs",
                                     "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"}));
  form.combine = d.mods.take_one_of({"and", "or", "xor"});
  form.ftz = d.mods.take("ftz");
  return c;
}

void decode_compare_type(Decode& d, CompareForm& form, Compare c, Type type) {
  switch (type) {
    case Type::b16:
    case Type::u16: form.compare = pick_compare<uint16_t, ReadSame>(c); break;
    case Type::b32:
    case Type::u32: form.compare = pick_compare<uint32_t, ReadSame>(c); break;
    case Type::b64:
    case Type::u64: form.compare = pick_compare<uint64_t, ReadSame>(c); break;
    case Type::s16: form.compare = pick_compare<int16_t, ReadSame>(c); break;
    case Type::s32: form.compare = pick_compare<int32_t, ReadSame>(c); break;
    case Type::s64: form.compare = pick_compare<int64_t, ReadSame>(c); break;
    case Type::f32: form.compare = pick_compare<float, ReadSame>(c); break;
    case Type::f64: form.compare = pick_compare<double, ReadSame>(c); break;
    case Type::f16: form.compare = pick_compare<uint16_t, ReadF16>(c); break;
    case Type::bf16: form.compare = pick_compare<uint16_t, ReadBf16>(c); break;
    default: d.fail("does not compare this type");
  }
  const bool is_float =
      type == Type::f16 || type == Type::bf16 || type == Type::f32 || type == Type::f64;
  if (c >= Compare::equ && !is_float) d.fail("compares floats only");
  if (c >= Compare::lo && c <= Compare::hs &&
      !(type == Type::u16 || type == Type::u32 || type == Type::u64))
    d.fail("compares unsigned integers only");
  const bool is_bits = type == Type::b16 || type == Type::b32 || type == Type::b64;
  if (is_bits && c > Compare::ne) d.fail("compares bits for equality only");
  if (form.ftz && type != Type::f32 && type != Type::f16)
    d.fail("has .ftz without a type that it fits");
}

constexpr std::initializer_list<Type> kCompared = {
    Type::b16, Type::b32, Type::b64, Type::u16, Type::u32, Type::u64, Type::s16,
    Type::s32, Type::s64, Type::f32, Type::f64, Type::f16, Type::bf16};

// Both halves of packed operands.
std::pair<uint32_t, uint32_t> compare_halves(const Warp& w, const Op& op, const CompareForm& form) {
  const uint32_t *a = w.lanes<uint32_t>(op.slot[1]), *b = w.lanes<uint32_t>(op.slot[2]);
  alignas(64) uint16_t halves[4][kLanes];
  for (int l = 0; l < kLanes; ++l) {
    halves[0][l] = uint16_t(a[l]), halves[1][l] = uint16_t(b[l]);
    halves[2][l] = uint16_t(a[l] >> 16), halves[3][l] = uint16_t(b[l] >> 16);
  }
  Warp view;  // the comparison reads its operands as registers of a frame
  view.registers = reinterpret_cast<uint8_t*>(halves);
  return {form.compare(view, 0, 64, form.ftz), form.compare(view, 128, 192, form.ftz)};
}

void decode_setp(Decode& d) {
  CompareForm& form = d.form<CompareForm>();
  const Compare c = decode_comparison(d, form);
  d.op.kind = InstructionClass::predicate;
  const int sources = form.combine < 0 ? 3 : 4;
  d.expect_operands(sources, sources);
  const Operand& result = d.operand(0);
  const bool has_second = result.kind == Operand::Kind::pair;
  if (form.combine >= 0) d.op.slot[4] = d.predicate_in(d.operand(3), &form.combine_negated);
  d.op.slot[0] = d.predicate_out(has_second ? result.items[0] : result);
  if (has_second) d.op.slot[3] = d.predicate_out(result.items[1]);
  d.op.immediate = has_second;

  const bool f16x2 = d.mods.peek() == "f16x2", bf16x2 = d.mods.peek() == "bf16x2";
  if (f16x2 || bf16x2) {  // p|q are the results of the two halves
    d.mods.take(d.mods.peek());
    if (!has_second) d.fail("takes a result p|q");
    decode_compare_type(d, form, c, f16x2 ? Type::f16 : Type::bf16);
    d.op.slot[1] = d.in(1, 4), d.op.slot[2] = d.in(2, 4);
    d.op.run = [](Warp& w, const Op& op) {
      const auto& form = *static_cast<const CompareForm*>(op.form);
      const auto [low, high] = compare_halves(w, op, form);
      write_predicate(w, op.slot[0], combine(w, op, form, low));
      write_predicate(w, op.slot[3], combine(w, op, form, high));
      return Flow::next;
    };
    return;
  }
  const Type type = d.mods.type(kCompared);
  decode_compare_type(d, form, c, type);
  if (has_second && (type == Type::f16 || type == Type::bf16)) d.fail("takes one result");
  const int bytes = ptx::size_of(type);
  d.op.slot[1] = d.in(1, bytes), d.op.slot[2] = d.in(2, bytes);
  d.op.run = [](Warp& w, const Op& op) {
    const auto& form = *static_cast<const CompareForm*>(op.form);
    const uint32_t value = form.compare(w, op.slot[1], op.slot[2], form.ftz);
    const uint32_t first = combine(w, op, form, value);
    if (op.immediate) write_predicate(w, op.slot[3], combine(w, op, form, ~value));
    write_predicate(w, op.slot[0], first);
    return Flow::next;
  };
}

// Which results `set` has for a source: integers of 32 bits or fp32, and the ISA's tables for
// halves.
bool may_set(Type result, Type source, bool ftz) {
  switch (result) {
    case Type::u32:
    case Type::s32: return true;
    case Type::u16:
    case Type::s16: return source == Type::f16 || source == Type::bf16;
    case Type::f32: return source != Type::f16 && source != Type::bf16;
    case Type::f16: return source != Type::bf16;
    default: return !ftz;
  }
}

Flow run_set_halves(Warp& w, const Op& op) {
  const auto& form = *static_cast<const CompareForm*>(op.form);
  auto [low, high] = compare_halves(w, op, form);
  low = combine(w, op, form, low), high = combine(w, op, form, high);
  const uint32_t one = uint32_t(op.immediate);
  write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int l) {
    return ((low >> l) & 1 ? one : 0) | ((high >> l) & 1 ? one << 16 : 0);
  });
  return Flow::next;
}

template <typename T>
Flow run_set(Warp& w, const Op& op) {
  const auto& form = *static_cast<const CompareForm*>(op.form);
  const uint32_t value = combine(w, op, form, form.compare(w, op.slot[1], op.slot[2], form.ftz));
  write_lanes(w, w.lanes<T>(op.slot[0]),
              [&](int l) { return (value >> l) & 1 ? T(op.immediate) : T(0); });
  return Flow::next;
}

void decode_set(Decode& d) {
  CompareForm& form = d.form<CompareForm>();
  const Compare c = decode_comparison(d, form);
  d.op.kind = InstructionClass::predicate;
  const int count = form.combine < 0 ? 3 : 4;
  d.expect_operands(count, count);
  const Type result = d.mods.type({Type::u32, Type::s32, Type::f32, Type::u16, Type::s16, Type::f16,
                                   Type::bf16, Type::f16x2, Type::bf16x2});
  const bool packed_result = result == Type::f16x2 || result == Type::bf16x2;
  const bool f16x2 = d.mods.take("f16x2"), packed = f16x2 || d.mods.take("bf16x2");
  if (packed) {
    const Type own = f16x2 ? Type::f16x2 : Type::bf16x2;
    if (result != own && result != Type::u32 && result != Type::s32)
      d.fail("does not have this result for two halves");
    decode_compare_type(d, form, c, f16x2 ? Type::f16 : Type::bf16);
  }
  const Type type = packed ? Type::b32 : d.mods.type(kCompared);
  if (!packed) {
    decode_compare_type(d, form, c, type);
    if (packed_result || !may_set(result, type, form.ftz))
      d.fail("does not have this result for its source");
  }
  const int bytes = ptx::size_of(type), result_bytes = ptx::size_of(result);
  d.op.slot[0] = d.out(0, result_bytes);
  d.op.slot[1] = d.in(1, bytes), d.op.slot[2] = d.in(2, bytes);
  if (form.combine >= 0) d.op.slot[4] = d.predicate_in(d.operand(3), &form.combine_negated);
  switch (result) {
    case Type::f32: d.op.immediate = 0x3f800000; break;
    case Type::f16:
    case Type::f16x2: d.op.immediate = 0x3c00; break;
    case Type::bf16:
    case Type::bf16x2: d.op.immediate = 0x3f80; break;
    default: d.op.immediate = packed ? 0xffff : -1;
  }
  d.op.run = packed ? run_set_halves : result_bytes == 2 ? run_set<uint16_t> : run_set<uint32_t>;
}

template <typename T>
Flow run_select(Warp& w, const Op& op) {
  const T *a = w.lanes<T>(op.slot[1]), *b = w.lanes<T>(op.slot[2]);
  const uint32_t p = w.predicate(op.slot[3]) ^ (op.immediate ? kAllLanes : 0);
  write_lanes(w, w.lanes<T>(op.slot[0]), [&](int l) { return (p >> l) & 1 ? a[l] : b[l]; });
  return Flow::next;
}

void decode_selp(Decode& d) {
  const Type type = d.mods.type({Type::b16, Type::b32, Type::b64, Type::u16, Type::u32, Type::u64,
                                 Type::s16, Type::s32, Type::s64, Type::f32, Type::f64});
  const int bytes = ptx::size_of(type);
  d.op.run = bytes == 2   ? run_select<uint16_t>
             : bytes == 4 ? run_select<uint32_t>
                          : run_select<uint64_t>;
  d.op.kind = InstructionClass::predicate;
  d.expect_operands(4, 4);
  bool negated;
  d.op.slot[0] = d.out(0, bytes), d.op.slot[1] = d.in(1, bytes), d.op.slot[2] = d.in(2, bytes);
  d.op.slot[3] = d.predicate_in(d.operand(3), &negated);
  d.op.immediate = negated;
}

// d = c >= 0 ? a : b, with -0 counting as 0 and NaN choosing b.
void decode_slct(Decode& d) {
  const bool ftz = d.mods.take("ftz");
  const Type type = d.mods.type({Type::b16, Type::b32, Type::b64, Type::u16, Type::u32, Type::u64,
                                 Type::s16, Type::s32, Type::s64, Type::f32, Type::f64});
  const bool by_float = ftz ? d.mods.type({Type::f32}) == Type::f32
                            : d.mods.type({Type::s32, Type::f32}) == Type::f32;
  const int bytes = ptx::size_of(type);
  d.op.immediate = (by_float ? 1 : 0) | (ftz ? 2 : 0);
  d.op.slot[4] = uint32_t(bytes);
  d.op.kind = InstructionClass::predicate;
  d.expect_operands(4, 4);
  d.op.slot[0] = d.out(0, bytes), d.op.slot[1] = d.in(1, bytes), d.op.slot[2] = d.in(2, bytes);
  d.op.slot[3] = d.in(3, 4);
  d.op.run = [](Warp& w, const Op& op) {
    uint32_t take = lane_mask([&](int l) {
      if (!(op.immediate & 1)) return w.lanes<int32_t>(op.slot[3])[l] >= 0;
      const float c = w.lanes<float>(op.slot[3])[l];
      return (op.immediate & 2 ? flush(c) : c) >= 0.f;
    });
    auto run = [&](auto* out, auto* a, auto* b) {
      write_lanes(w, out, [&](int l) { return (take >> l) & 1 ? a[l] : b[l]; });
    };
    if (op.slot[4] == 2)
      run(w.lanes<uint16_t>(op.slot[0]), w.lanes<uint16_t>(op.slot[1]),
          w.lanes<uint16_t>(op.slot[2]));
    else if (op.slot[4] == 4)
      run(w.lanes<uint32_t>(op.slot[0]), w.lanes<uint32_t>(op.slot[1]),
          w.lanes<uint32_t>(op.slot[2]));
    else
      run(w.lanes<uint64_t>(op.slot[0]), w.lanes<uint64_t>(op.slot[1]),
          w.lanes<uint64_t>(op.slot[2]));
    return Flow::next;
  };
}

}  // namespace

std::initializer_list<DecodeEntry> compare_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {
      {"setp", decode_setp}, {"set", decode_set}, {"selp", decode_selp}, {"slct", decode_slct}};
  return all;
}

}  // namespace ptxsim
