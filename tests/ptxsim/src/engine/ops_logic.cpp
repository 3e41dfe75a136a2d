// SPDX-License-Identifier: Apache-2.0
// Logic, shifts, comparison, selection and moves: PTX ISA 9.7.6 to 9.7.9.
#include "engine/calls.h"
#include "engine/lanes.h"
#include "engine/numbers.h"

namespace ptxsim {
namespace {

using ptx::Operand;
using ptx::Type;

// --- and, or, xor, not, cnot ---

constexpr auto bit_and = [](auto a, auto b) { return a & b; };
constexpr auto bit_or = [](auto a, auto b) { return a | b; };
constexpr auto bit_xor = [](auto a, auto b) { return a ^ b; };

template <auto F>
Flow run_predicates(Warp& w, const Op& op) {
  const uint32_t a = w.predicate(op.slot[1]) ^ (op.immediate & 1 ? kAllLanes : 0);
  const uint32_t b = w.predicate(op.slot[2]) ^ (op.immediate & 2 ? kAllLanes : 0);
  write_predicate(w, op.slot[0], F(a, b));
  return Flow::next;
}

template <auto F>
void decode_bitwise(Decode& d) {
  const Type type = d.mods.type({Type::pred, Type::b16, Type::b32, Type::b64});
  d.expect_operands(3, 3);
  if (type == Type::pred) {
    bool na, nb;
    d.op.slot[0] = d.predicate_out(d.operand(0));
    d.op.slot[1] = d.predicate_in(d.operand(1), &na);
    d.op.slot[2] = d.predicate_in(d.operand(2), &nb);
    d.op.immediate = (na ? 1 : 0) | (nb ? 2 : 0);
    d.op.run = run_predicates<F>;
    d.op.kind = InstructionClass::predicate;
    return;
  }
  d.op.run = type == Type::b16   ? Run(run_binary<uint16_t, uint16_t, uint16_t, F>)
             : type == Type::b32 ? Run(run_binary<uint32_t, uint32_t, uint32_t, F>)
                                 : Run(run_binary<uint64_t, uint64_t, uint64_t, F>);
  d.op.kind = InstructionClass::integer;
  decode_same(d, ptx::size_of(type), 2);
}

constexpr auto bit_not = [](auto a) { return ~a; };
constexpr auto is_zero = [](auto a) { return a == 0 ? 1 : 0; };

void decode_not(Decode& d) {
  const bool cnot = d.instruction.opcode == "cnot";
  const Type type = d.mods.type({Type::pred, Type::b16, Type::b32, Type::b64});
  if (type == Type::pred) {
    if (cnot) d.fail("does not exist");
    bool negated;
    d.expect_operands(2, 2);
    d.op.slot[0] = d.predicate_out(d.operand(0));
    d.op.slot[1] = d.predicate_in(d.operand(1), &negated);
    d.op.immediate = negated;
    d.op.kind = InstructionClass::predicate;
    d.op.run = [](Warp& w, const Op& op) {
      write_predicate(w, op.slot[0], w.predicate(op.slot[1]) ^ (op.immediate ? 0 : kAllLanes));
      return Flow::next;
    };
    return;
  }
  switch (ptx::size_of(type)) {
    case 2:
      d.op.run = cnot ? Run(run_unary<uint16_t, uint16_t, is_zero>)
                      : run_unary<uint16_t, uint16_t, bit_not>;
      break;
    case 4:
      d.op.run = cnot ? Run(run_unary<uint32_t, uint32_t, is_zero>)
                      : run_unary<uint32_t, uint32_t, bit_not>;
      break;
    default:
      d.op.run = cnot ? Run(run_unary<uint64_t, uint64_t, is_zero>)
                      : run_unary<uint64_t, uint64_t, bit_not>;
  }
  d.op.kind = InstructionClass::integer;
  decode_same(d, ptx::size_of(type), 1);
}

// Bit i of the table is the result for inputs (a, b, c) = the bits of i.
uint32_t lookup3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t out = 0;
  if (table & 0x01) out |= ~a & ~b & ~c;
  if (table & 0x02) out |= ~a & ~b & c;
  if (table & 0x04) out |= ~a & b & ~c;
  if (table & 0x08) out |= ~a & b & c;
  if (table & 0x10) out |= a & ~b & ~c;
  if (table & 0x20) out |= a & ~b & c;
  if (table & 0x40) out |= a & b & ~c;
  if (table & 0x80) out |= a & b & c;
  return out;
}

void decode_lop3(Decode& d) {
  const int combine = d.mods.take_one_of({"or", "and"});  // with a predicate result
  d.mods.type({Type::b32});
  d.op.kind = InstructionClass::integer;
  if (combine >= 0) {
    d.expect_operands(6, 6);
    const Operand& result = d.operand(0);
    if (result.kind != Operand::Kind::pair) d.fail("takes a result d|p");
    d.op.slot[0] = d.out(result.items[0], 4);
    d.op.slot[4] = d.predicate_out(result.items[1]);
    bool negated;
    d.op.slot[5] = d.predicate_in(d.operand(5), &negated);
    d.op.slot[6] = uint32_t(combine) | (negated ? 2 : 0);
    d.op.run = [](Warp& w, const Op& op) {
      const uint32_t *a = w.lanes<uint32_t>(op.slot[1]), *b = w.lanes<uint32_t>(op.slot[2]),
                     *c = w.lanes<uint32_t>(op.slot[3]);
      uint32_t value[kLanes];
      for (int l = 0; l < kLanes; ++l) value[l] = lookup3(a[l], b[l], c[l], uint32_t(op.immediate));
      const uint32_t nonzero = lane_mask([&](int l) { return value[l] != 0; });
      const uint32_t q = w.predicate(op.slot[5]) ^ (op.slot[6] & 2 ? kAllLanes : 0);
      write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int l) { return value[l]; });
      write_predicate(w, op.slot[4], op.slot[6] & 1 ? nonzero & q : nonzero | q);
      return Flow::next;
    };
  } else {
    d.expect_operands(5, 5);
    d.op.slot[0] = d.out(0, 4);
    d.op.run = [](Warp& w, const Op& op) {
      const uint32_t *a = w.lanes<uint32_t>(op.slot[1]), *b = w.lanes<uint32_t>(op.slot[2]),
                     *c = w.lanes<uint32_t>(op.slot[3]);
      write_lanes(w, w.lanes<uint32_t>(op.slot[0]),
                  [&](int l) { return lookup3(a[l], b[l], c[l], uint32_t(op.immediate)); });
      return Flow::next;
    };
  }
  for (int i = 1; i <= 3; ++i) d.op.slot[i] = d.in(i, 4);
  d.op.immediate = d.integer(4);
}

// --- Shifts: amounts past the width clamp ---

template <typename T>
constexpr auto shift_left = [](T a, uint32_t n) { return n >= 8 * sizeof(T) ? T(0) : T(a << n); };
template <typename T>
constexpr auto shift_right = [](T a, uint32_t n) {
  constexpr uint32_t bits = 8 * sizeof(T);
  return n < bits ? T(a >> n) : (a < T(0) ? T(-1) : T(0));
};

void decode_shift(Decode& d) {
  const bool left = d.instruction.opcode == "shl";
  const Type type = left ? d.mods.type({Type::b16, Type::b32, Type::b64})
                         : d.mods.type({Type::b16, Type::b32, Type::b64, Type::u16, Type::u32,
                                        Type::u64, Type::s16, Type::s32, Type::s64});
  const int bytes = ptx::size_of(type);
  if (left) {
    d.op.run = bytes == 2   ? Run(run_binary<uint16_t, uint16_t, uint32_t, shift_left<uint16_t>>)
               : bytes == 4 ? Run(run_binary<uint32_t, uint32_t, uint32_t, shift_left<uint32_t>>)
                            : Run(run_binary<uint64_t, uint64_t, uint32_t, shift_left<uint64_t>>);
  } else {
    switch (type) {
      case Type::s16:
        d.op.run = run_binary<int16_t, int16_t, uint32_t, shift_right<int16_t>>;
        break;
      case Type::s32:
        d.op.run = run_binary<int32_t, int32_t, uint32_t, shift_right<int32_t>>;
        break;
      case Type::s64:
        d.op.run = run_binary<int64_t, int64_t, uint32_t, shift_right<int64_t>>;
        break;
      case Type::u16:
      case Type::b16:
        d.op.run = run_binary<uint16_t, uint16_t, uint32_t, shift_right<uint16_t>>;
        break;
      case Type::u32:
      case Type::b32:
        d.op.run = run_binary<uint32_t, uint32_t, uint32_t, shift_right<uint32_t>>;
        break;
      default: d.op.run = run_binary<uint64_t, uint64_t, uint32_t, shift_right<uint64_t>>;
    }
  }
  d.op.kind = InstructionClass::integer;
  d.expect_operands(3, 3);
  d.op.slot[0] = d.out(0, bytes), d.op.slot[1] = d.in(1, bytes), d.op.slot[2] = d.in(2, 4);
}

// The 64 bits b:a shifted; the upper word of a left shift, the lower one of a right shift.
void decode_shf(Decode& d) {
  const bool left = d.mods.require_one_of({"l", "r"}) == 0;
  const bool wrap = d.mods.require_one_of({"clamp", "wrap"}) == 1;
  d.mods.type({Type::b32});
  d.op.immediate = (left ? 1 : 0) | (wrap ? 2 : 0);
  d.op.kind = InstructionClass::integer;
  decode_same(d, 4, 3);
  d.op.run = [](Warp& w, const Op& op) {
    const uint32_t *a = w.lanes<uint32_t>(op.slot[1]), *b = w.lanes<uint32_t>(op.slot[2]),
                   *c = w.lanes<uint32_t>(op.slot[3]);
    write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int l) {
      const uint64_t both = uint64_t(b[l]) << 32 | a[l];
      const uint32_t n = op.immediate & 2 ? c[l] & 31 : (c[l] < 32 ? c[l] : 32);
      return op.immediate & 1 ? uint32_t((both << n) >> 32) : uint32_t(both >> n);
    });
    return Flow::next;
  };
}

// --- prmt ---

void decode_prmt(Decode& d) {
  d.op.immediate = d.mods.take_one_of({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"});
  // The mode may stand after the type as well as before it in older texts; nvcc puts it after.
  d.mods.type({Type::b32});
  if (d.op.immediate < 0)
    d.op.immediate = d.mods.take_one_of({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"});
  d.op.kind = InstructionClass::integer;
  decode_same(d, 4, 3);
  d.op.run = [](Warp& w, const Op& op) {
    const uint32_t *a = w.lanes<uint32_t>(op.slot[1]), *b = w.lanes<uint32_t>(op.slot[2]),
                   *c = w.lanes<uint32_t>(op.slot[3]);
    const int mode = int(op.immediate);
    write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int l) {
      const uint64_t bytes = uint64_t(b[l]) << 32 | a[l];
      uint32_t out = 0;
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t s = c[l] & 3;
        uint32_t pick = 0;
        bool sign = false;
        switch (mode) {
          case -1: pick = (c[l] >> (4 * i)) & 7, sign = (c[l] >> (4 * i)) & 8; break;
          case 0: pick = s + i; break;                  // f4e
          case 1: pick = (8 + s - i) & 7; break;        // b4e
          case 2: pick = s; break;                      // rc8
          case 3: pick = i > s ? i : s; break;          // ecl
          case 4: pick = i < s ? i : s; break;          // ecr
          case 5: pick = 2 * (s & 1) + (i & 1); break;  // rc16
        }
        uint32_t byte = (bytes >> (8 * pick)) & 0xff;
        if (sign) byte = byte & 0x80 ? 0xff : 0;
        out |= byte << (8 * i);
      }
      return out;
    });
    return Flow::next;
  };
}

// --- Comparison ---

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
  if (form.ftz && type != Type::f32 && type != Type::f16)
    d.fail("has .ftz without a type that it fits");
}

constexpr std::initializer_list<Type> kCompared = {
    Type::b16, Type::b32, Type::b64, Type::u16, Type::u32, Type::u64, Type::s16,
    Type::s32, Type::s64, Type::f32, Type::f64, Type::f16, Type::bf16};

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
      const uint32_t *a = w.lanes<uint32_t>(op.slot[1]), *b = w.lanes<uint32_t>(op.slot[2]);
      alignas(64) uint16_t halves[4][kLanes];
      for (int l = 0; l < kLanes; ++l) {
        halves[0][l] = uint16_t(a[l]), halves[1][l] = uint16_t(b[l]);
        halves[2][l] = uint16_t(a[l] >> 16), halves[3][l] = uint16_t(b[l] >> 16);
      }
      Warp view;  // the comparison reads its operands as registers of a frame
      view.registers = reinterpret_cast<uint8_t*>(halves);
      const uint32_t low = form.compare(view, 0, 64, form.ftz),
                     high = form.compare(view, 128, 192, form.ftz);
      write_predicate(w, op.slot[0], combine(w, op, form, low));
      write_predicate(w, op.slot[3], combine(w, op, form, high));
      return Flow::next;
    };
    return;
  }
  const Type type = d.mods.type(kCompared);
  decode_compare_type(d, form, c, type);
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

void decode_set(Decode& d) {
  CompareForm& form = d.form<CompareForm>();
  const Compare c = decode_comparison(d, form);
  d.op.kind = InstructionClass::predicate;
  const int count = form.combine < 0 ? 3 : 4;
  d.expect_operands(count, count);
  const Type result =
      d.mods.type({Type::u32, Type::s32, Type::f32, Type::u16, Type::s16, Type::f16, Type::bf16});
  const Type type = d.mods.type(kCompared);
  decode_compare_type(d, form, c, type);
  const int bytes = ptx::size_of(type);
  d.op.slot[0] = d.out(0, ptx::size_of(result));
  d.op.slot[1] = d.in(1, bytes), d.op.slot[2] = d.in(2, bytes);
  if (form.combine >= 0) d.op.slot[4] = d.predicate_in(d.operand(3), &form.combine_negated);
  d.op.slot[5] = uint32_t(ptx::size_of(result));
  d.op.immediate = result == Type::f32    ? 0x3f800000
                   : result == Type::f16  ? 0x3c00
                   : result == Type::bf16 ? 0x3f80
                                          : 0xffffffff;
  d.op.run = [](Warp& w, const Op& op) {
    const auto& form = *static_cast<const CompareForm*>(op.form);
    const uint32_t value = combine(w, op, form, form.compare(w, op.slot[1], op.slot[2], form.ftz));
    const auto pick = [&](int l) { return (value >> l) & 1 ? uint32_t(op.immediate) : 0; };
    if (op.slot[5] == 2)
      write_lanes(w, w.lanes<uint16_t>(op.slot[0]), [&](int l) { return uint16_t(pick(l)); });
    else
      write_lanes(w, w.lanes<uint32_t>(op.slot[0]), pick);
    return Flow::next;
  };
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
  const bool by_float = d.mods.type({Type::s32, Type::f32}) == Type::f32;
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

// --- Moves ---

template <typename T>
Flow run_move(Warp& w, const Op& op) {
  const T* a = w.lanes<T>(op.slot[1]);
  write_lanes(w, w.lanes<T>(op.slot[0]), [&](int l) { return a[l]; });
  return Flow::next;
}

struct Bits128 { uint64_t lo, hi; };

Run move_of(int bytes) {
  return bytes == 2   ? run_move<uint16_t>
         : bytes == 4 ? run_move<uint32_t>
         : bytes == 8 ? run_move<uint64_t>
                      : run_move<Bits128>;
}

struct PackForm { uint32_t bytes, part, parts, slots[8], whole; };

// mov.b32 d, {a, b} and its inverse.
void decode_pack(Decode& d, int bytes, bool pack) {
  PackForm& form = d.form<PackForm>();
  const Operand& vector = d.operand(pack ? 1 : 0);
  form.parts = uint32_t(vector.items.size());
  if (form.parts != 2 && form.parts != 4) d.fail("takes vectors of 2 or 4");
  form.bytes = uint32_t(bytes), form.part = form.bytes / form.parts;
  if (form.part == 0) d.fail("cannot cut its type in so many parts");
  const bool byte_parts = form.part == 1;  // .b8 parts live in 16-bit or wider registers
  for (uint32_t i = 0; i < form.parts; ++i) {
    int size;
    if (byte_parts) {
      form.slots[i] =
          pack ? d.wide(vector.items[i], 1, &size) : d.wide_out(vector.items[i], 1, &size);
      form.slots[4 + i] = uint32_t(size);
    } else {
      form.slots[i] =
          pack ? d.in(vector.items[i], int(form.part)) : d.out(vector.items[i], int(form.part));
      form.slots[4 + i] = form.part;
    }
  }
  form.whole = pack ? d.out(0, bytes) : d.in(1, bytes);
  d.op.kind = InstructionClass::move;
  d.op.immediate = pack;
  d.op.run = [](Warp& w, const Op& op) {
    const auto& f = *static_cast<const PackForm*>(op.form);
    uint8_t value[kLanes][16] = {};
    if (op.immediate) {
      for (int l = 0; l < kLanes; ++l)
        for (uint32_t i = 0; i < f.parts; ++i)
          memcpy(&value[l][i * f.part], w.registers + f.slots[i] + uint32_t(l) * f.slots[4 + i],
                 f.part);
      for_active(w.mask, [&](int l) {
        memcpy(w.registers + f.whole + uint32_t(l) * f.bytes, value[l], f.bytes);
      });
    } else {
      for (int l = 0; l < kLanes; ++l)
        memcpy(value[l], w.registers + f.whole + uint32_t(l) * f.bytes, f.bytes);
      for (uint32_t i = 0; i < f.parts; ++i)
        for_active(w.mask, [&](int l) {
          uint8_t wide[8] = {};
          memcpy(wide, &value[l][i * f.part], f.part);
          memcpy(w.registers + f.slots[i] + uint32_t(l) * f.slots[4 + i], wide, f.slots[4 + i]);
        });
    }
    return Flow::next;
  };
}

// Clocks count executed instructions of the launch, so that waiting loops end the same way every
// time.
bool decode_clock(Decode& d, int bytes) {
  if (d.operand(1).kind != Operand::Kind::special) return false;
  const auto special = ptx::Special(d.operand(1).id);
  int shift = 0;
  switch (special) {
    case ptx::Special::clock:
    case ptx::Special::clock64:
    case ptx::Special::globaltimer:
    case ptx::Special::globaltimer_lo: break;
    case ptx::Special::clock_hi:
    case ptx::Special::globaltimer_hi: shift = 32; break;
    default: return false;
  }
  d.op.immediate = shift;
  d.op.slot[0] = d.out(0, bytes);
  d.op.kind = InstructionClass::move;
  d.op.run = bytes == 8 ? Run([](Warp& w, const Op& op) {
    const uint64_t now = clock_of(w);
    write_lanes(w, w.lanes<uint64_t>(op.slot[0]), [&](int) { return now; });
    return Flow::next;
  })
                        : Run([](Warp& w, const Op& op) {
                            const uint32_t now = uint32_t(clock_of(w) >> op.immediate);
                            write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int) { return now; });
                            return Flow::next;
                          });
  return true;
}

void decode_mov(Decode& d) {
  const Type type = d.mods.type({Type::pred, Type::b16, Type::b32, Type::b64, Type::b128, Type::u16,
                                 Type::u32, Type::u64, Type::s16, Type::s32, Type::s64, Type::f16,
                                 Type::f16x2, Type::bf16, Type::bf16x2, Type::f32, Type::f64});
  d.expect_operands(2, 2);
  d.op.kind = InstructionClass::move;
  if (type == Type::pred) {
    bool negated;
    d.op.slot[0] = d.predicate_out(d.operand(0));
    d.op.slot[1] = d.predicate_in(d.operand(1), &negated);
    d.op.immediate = negated;
    d.op.run = [](Warp& w, const Op& op) {
      write_predicate(w, op.slot[0], w.predicate(op.slot[1]) ^ (op.immediate ? kAllLanes : 0));
      return Flow::next;
    };
    return;
  }
  const int bytes = ptx::size_of(type);
  if (d.operand(1).kind == Operand::Kind::vector) return decode_pack(d, bytes, true);
  if (d.operand(0).kind == Operand::Kind::vector) return decode_pack(d, bytes, false);
  if (decode_clock(d, bytes)) return;
  d.op.run = move_of(bytes);
  d.op.slot[0] = d.out(0, bytes), d.op.slot[1] = d.in(1, bytes);
}

}  // namespace

std::initializer_list<DecodeEntry> logic_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {{"and", decode_bitwise<bit_and>},
                                                         {"or", decode_bitwise<bit_or>},
                                                         {"xor", decode_bitwise<bit_xor>},
                                                         {"not", decode_not},
                                                         {"cnot", decode_not},
                                                         {"lop3", decode_lop3},
                                                         {"shl", decode_shift},
                                                         {"shr", decode_shift},
                                                         {"shf", decode_shf},
                                                         {"prmt", decode_prmt},
                                                         {"setp", decode_setp},
                                                         {"set", decode_set},
                                                         {"selp", decode_selp},
                                                         {"slct", decode_slct},
                                                         {"mov", decode_mov}};
  return all;
}

}  // namespace ptxsim
