// SPDX-License-Identifier: Apache-2.0
// Integer arithmetic: PTX ISA 9.7.1 and 9.7.2 (extended precision).
#include <algorithm>

#include "engine/lanes.h"

namespace ptxsim {
namespace {

using ptx::Type;
using Wide = unsigned __int128;

#define PTXSIM_PICK(name, arity, expression)                       \
  template <typename T>                                            \
  struct name {                                                    \
    static constexpr Run run = [](Warp& w, const Op& op) -> Flow { \
      return arity<T, expression>(w, op);                          \
    };                                                             \
  };

template <typename T, auto F>
Flow same1(Warp& w, const Op& op) {
  return run_unary<T, T, F>(w, op);
}
template <typename T, auto F>
Flow same2(Warp& w, const Op& op) {
  return run_binary<T, T, T, F>(w, op);
}
template <typename T, auto F>
Flow same3(Warp& w, const Op& op) {
  return run_ternary<T, T, T, T, F>(w, op);
}

template <typename T>
struct DoubleWidth;
template <> struct DoubleWidth<uint16_t> { using type = uint32_t; };
template <> struct DoubleWidth<int16_t> { using type = int32_t; };
template <> struct DoubleWidth<uint32_t> { using type = uint64_t; };
template <> struct DoubleWidth<int32_t> { using type = int64_t; };
template <> struct DoubleWidth<uint64_t> { using type = Wide; };
template <> struct DoubleWidth<int64_t> { using type = __int128; };

constexpr auto add = [](auto a, auto b) { return a + b; };
constexpr auto sub = [](auto a, auto b) { return a - b; };
constexpr auto mul_lo = [](auto a, auto b) { return uint64_t(a) * uint64_t(b); };
constexpr auto mul_hi = [](auto a, auto b) {
  using W = typename DoubleWidth<decltype(a)>::type;
  return (W(a) * W(b)) >> (8 * sizeof(a));
};
constexpr auto mad_lo = [](auto a, auto b, auto c) {
  return uint64_t(a) * uint64_t(b) + uint64_t(c);
};
constexpr auto mad_hi = [](auto a, auto b, auto c) { return decltype(a)(mul_hi(a, b)) + c; };
// Division by zero gives what the hardware was seen to give: all ones; remainder: the dividend.
constexpr auto divide = [](auto a, auto b) -> decltype(a) {
  using T = decltype(a);
  if (b == 0) return T(-1);
  if constexpr (T(-1) < T(0))
    if (b == T(-1)) return T(0 - a);
  return T(a / b);
};
constexpr auto remainder = [](auto a, auto b) -> decltype(a) {
  using T = decltype(a);
  if (b == 0) return a;
  if constexpr (T(-1) < T(0))
    if (b == T(-1)) return T(0);
  return T(a % b);
};
constexpr auto absolute = [](auto a) { return a < 0 ? 0 - a : a; };
constexpr auto negate = [](auto a) { return 0 - a; };
constexpr auto minimum = [](auto a, auto b) { return a < b ? a : b; };
constexpr auto maximum = [](auto a, auto b) { return a > b ? a : b; };

PTXSIM_PICK(Add, same2, add)
PTXSIM_PICK(Sub, same2, sub)
PTXSIM_PICK(MulLo, same2, mul_lo)
PTXSIM_PICK(MulHi, same2, mul_hi)
PTXSIM_PICK(MadLo, same3, mad_lo)
PTXSIM_PICK(MadHi, same3, mad_hi)
PTXSIM_PICK(Div, same2, divide)
PTXSIM_PICK(Rem, same2, remainder)
PTXSIM_PICK(Abs, same1, absolute)
PTXSIM_PICK(Neg, same1, negate)
PTXSIM_PICK(Min, same2, minimum)
PTXSIM_PICK(Max, same2, maximum)
#undef PTXSIM_PICK

constexpr std::initializer_list<Type> kIntegers = {Type::u16, Type::u32, Type::u64,
                                                   Type::s16, Type::s32, Type::s64};

void finish(Decode& d, Run run, int bytes, int sources) {
  d.op.run = run;
  d.op.kind = InstructionClass::integer;
  decode_same(d, bytes, sources);
}

// add.sat and sub.sat exist for s32 alone.
constexpr auto clamp32 = [](int64_t v) {
  return int32_t(std::clamp<int64_t>(v, INT32_MIN, INT32_MAX));
};
constexpr auto add_sat = [](int32_t a, int32_t b) { return clamp32(int64_t(a) + b); };
constexpr auto sub_sat = [](int32_t a, int32_t b) { return clamp32(int64_t(a) - b); };

// Two 16-bit halves of a register.
template <typename T, auto F>
Flow halves(Warp& w, const Op& op) {
  const uint32_t *a = w.lanes<uint32_t>(op.slot[1]), *b = w.lanes<uint32_t>(op.slot[2]);
  write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int l) {
    const uint32_t lo = uint16_t(F(T(a[l]), T(b[l])));
    return lo | uint32_t(uint16_t(F(T(a[l] >> 16), T(b[l] >> 16)))) << 16;
  });
  return Flow::next;
}

// a + b + carry in; the carry is a predicate of the frame.
template <typename T, bool kSubtract, bool kUse, bool kSet>
Flow run_carry(Warp& w, const Op& op) {
  const T *a = w.lanes<T>(op.slot[1]), *b = w.lanes<T>(op.slot[2]);
  const uint32_t in = kUse ? w.predicate(op.slot[3]) : 0;
  uint32_t out = 0;
  T value[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    const T c = (in >> l) & 1;
    const Wide sum = kSubtract ? Wide(a[l]) - b[l] - c : Wide(a[l]) + b[l] + c;
    value[l] = T(sum);
    out |= uint32_t((sum >> (8 * sizeof(T))) & 1) << l;
  }
  write_lanes(w, w.lanes<T>(op.slot[0]), [&](int l) { return value[l]; });
  if (kSet) write_predicate(w, op.slot[3], out);
  return Flow::next;
}

template <bool kSubtract>
void decode_carry(Decode& d, bool use, bool set) {
  const Type type = d.mods.type({Type::u32, Type::s32, Type::u64, Type::s64});
  const bool is_wide = ptx::size_of(type) == 8;
  d.op.run = is_wide ? (use ? (set ? run_carry<uint64_t, kSubtract, true, true>
                                   : run_carry<uint64_t, kSubtract, true, false>)
                            : run_carry<uint64_t, kSubtract, false, true>)
                     : (use ? (set ? run_carry<uint32_t, kSubtract, true, true>
                                   : run_carry<uint32_t, kSubtract, true, false>)
                            : run_carry<uint32_t, kSubtract, false, true>);
  d.op.kind = InstructionClass::integer;
  decode_same(d, ptx::size_of(type), 2);
  d.op.slot[3] = d.scratch_predicate();
}

template <bool kHigh>
Flow run_mad_carry(Warp& w, const Op& op) {  // mad{c}.{lo,hi}{.cc}.u32; immediate: 1 use, 2 set
  const uint32_t *a = w.lanes<uint32_t>(op.slot[1]), *b = w.lanes<uint32_t>(op.slot[2]),
                 *c = w.lanes<uint32_t>(op.slot[3]);
  const uint32_t in = op.immediate & 1 ? w.predicate(op.slot[4]) : 0;
  uint32_t out = 0, value[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    uint64_t product = uint64_t(a[l]) * b[l];
    if (kHigh && op.immediate & 4) product = uint64_t(int64_t(int32_t(a[l])) * int32_t(b[l]));
    const uint64_t sum =
        uint64_t(uint32_t(kHigh ? product >> 32 : product)) + c[l] + ((in >> l) & 1);
    value[l] = uint32_t(sum);
    out |= uint32_t(sum >> 32) << l;
  }
  write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int l) { return value[l]; });
  if (op.immediate & 2) write_predicate(w, op.slot[4], out);
  return Flow::next;
}

template <template <typename> typename Pick>
void decode_plain(Decode& d, std::initializer_list<Type> types, int sources) {
  const Type type = d.mods.type(types);
  finish(d, pick_integer<Pick>(type), ptx::size_of(type), sources);
}

}  // namespace

// These opcodes have integer and float forms; float.cpp asks here for the integer ones.
bool decode_integer_form(Decode& d) {
  const std::string& opcode = d.instruction.opcode;
  const auto& all = d.instruction.modifiers;
  Type type;
  if (all.empty() || !ptx::parse_type(all.back(), &type)) {
    if (all.empty() || (all.back() != "u16x2" && all.back() != "s16x2")) return false;
    const bool is_signed = all.back() == "s16x2";
    d.mods.take(all.back());
    if (opcode == "add")
      finish(d, halves<uint16_t, add>, 4, 2);
    else if (opcode == "min")
      finish(d, is_signed ? halves<int16_t, minimum> : halves<uint16_t, minimum>, 4, 2);
    else if (opcode == "max")
      finish(d, is_signed ? halves<int16_t, maximum> : halves<uint16_t, maximum>, 4, 2);
    else
      d.fail("does not exist for two halves");
    return true;
  }
  if (std::find(kIntegers.begin(), kIntegers.end(), type) == kIntegers.end()) return false;

  if (opcode == "add" || opcode == "sub") {
    const bool subtract = opcode == "sub";
    if (d.mods.take("cc")) {
      subtract ? decode_carry<true>(d, false, true) : decode_carry<false>(d, false, true);
    } else if (d.mods.take("sat")) {
      d.mods.type({Type::s32});
      finish(d,
             subtract ? Run(run_binary<int32_t, int32_t, int32_t, sub_sat>)
                      : Run(run_binary<int32_t, int32_t, int32_t, add_sat>),
             4, 2);
    } else {
      subtract ? decode_plain<Sub>(d, kIntegers, 2) : decode_plain<Add>(d, kIntegers, 2);
    }
  } else if (opcode == "mul" || opcode == "mad") {
    const bool with_add = opcode == "mad";
    const int part = d.mods.require_one_of({"lo", "hi", "wide"});
    if (with_add && d.mods.take("cc")) {
      const Type t = d.mods.type({Type::u32, Type::s32});
      d.op.immediate = 2 | (t == Type::s32 ? 4 : 0);
      if (part == 2) d.fail("does not exist");
      finish(d, part ? run_mad_carry<true> : run_mad_carry<false>, 4, 3);
      d.op.slot[4] = d.scratch_predicate();
      return true;
    }
    if (with_add && part == 1 && d.mods.take("sat")) {
      d.mods.type({Type::s32});
      constexpr auto sat = [](int32_t a, int32_t b, int32_t c) {
        return clamp32(((int64_t(a) * b) >> 32) + c);
      };
      finish(d, run_ternary<int32_t, int32_t, int32_t, int32_t, sat>, 4, 3);
      return true;
    }
    const Type t = d.mods.type(kIntegers);
    if (part < 2) {
      Run run = with_add ? (part ? pick_integer<MadHi>(t) : pick_integer<MadLo>(t))
                         : (part ? pick_integer<MulHi>(t) : pick_integer<MulLo>(t));
      finish(d, run, ptx::size_of(t), with_add ? 3 : 2);
      return true;
    }
    constexpr auto wide16u = [](uint16_t a, uint16_t b) { return uint32_t(a) * b; };
    constexpr auto wide16s = [](int16_t a, int16_t b) { return int32_t(a) * b; };
    constexpr auto wide32u = [](uint32_t a, uint32_t b) { return uint64_t(a) * b; };
    constexpr auto wide32s = [](int32_t a, int32_t b) { return int64_t(a) * b; };
    constexpr auto mad16u = [](uint16_t a, uint16_t b, uint32_t c) { return uint32_t(a) * b + c; };
    constexpr auto mad16s = [](int16_t a, int16_t b, int32_t c) { return int32_t(a) * b + c; };
    constexpr auto mad32u = [](uint32_t a, uint32_t b, uint64_t c) { return uint64_t(a) * b + c; };
    constexpr auto mad32s = [](int32_t a, int32_t b, int64_t c) { return int64_t(a) * b + c; };
    switch (t) {
      case Type::u16:
        d.op.run = with_add ? Run(run_ternary<uint32_t, uint16_t, uint16_t, uint32_t, mad16u>)
                            : run_binary<uint32_t, uint16_t, uint16_t, wide16u>;
        break;
      case Type::s16:
        d.op.run = with_add ? Run(run_ternary<int32_t, int16_t, int16_t, int32_t, mad16s>)
                            : run_binary<int32_t, int16_t, int16_t, wide16s>;
        break;
      case Type::u32:
        d.op.run = with_add ? Run(run_ternary<uint64_t, uint32_t, uint32_t, uint64_t, mad32u>)
                            : run_binary<uint64_t, uint32_t, uint32_t, wide32u>;
        break;
      case Type::s32:
        d.op.run = with_add ? Run(run_ternary<int64_t, int32_t, int32_t, int64_t, mad32s>)
                            : run_binary<int64_t, int32_t, int32_t, wide32s>;
        break;
      default: d.fail("does not exist for 64-bit types");
    }
    const int bytes = ptx::size_of(t);
    d.op.kind = InstructionClass::integer;
    d.expect_operands(with_add ? 4 : 3, with_add ? 4 : 3);
    d.op.slot[0] = d.out(0, 2 * bytes);
    d.op.slot[1] = d.in(1, bytes), d.op.slot[2] = d.in(2, bytes);
    if (with_add) d.op.slot[3] = d.in(3, 2 * bytes);
  } else if (opcode == "div") {
    decode_plain<Div>(d, kIntegers, 2);
  } else if (opcode == "abs") {
    decode_plain<Abs>(d, {Type::s16, Type::s32, Type::s64}, 1);
  } else if (opcode == "neg") {
    decode_plain<Neg>(d, {Type::s16, Type::s32, Type::s64}, 1);
  } else if (opcode == "min" || opcode == "max") {
    const bool is_min = opcode == "min";
    if (d.mods.take("relu")) {
      d.mods.type({Type::s32});
      constexpr auto min_relu = [](int32_t a, int32_t b) { return std::max(0, std::min(a, b)); };
      constexpr auto max_relu = [](int32_t a, int32_t b) { return std::max(0, std::max(a, b)); };
      finish(d,
             is_min ? Run(run_binary<int32_t, int32_t, int32_t, min_relu>)
                    : Run(run_binary<int32_t, int32_t, int32_t, max_relu>),
             4, 2);
    } else {
      is_min ? decode_plain<Min>(d, kIntegers, 2) : decode_plain<Max>(d, kIntegers, 2);
    }
  } else {
    return false;
  }
  return true;
}

namespace {

void decode_addc(Decode& d) {
  const bool set = d.mods.take("cc");
  d.instruction.opcode == "addc" ? decode_carry<false>(d, true, set)
                                 : decode_carry<true>(d, true, set);
}

void decode_madc(Decode& d) {
  const int part = d.mods.require_one_of({"lo", "hi"});
  d.op.immediate = 1 | (d.mods.take("cc") ? 2 : 0);
  if (d.mods.type({Type::u32, Type::s32}) == Type::s32) d.op.immediate |= 4;
  finish(d, part ? run_mad_carry<true> : run_mad_carry<false>, 4, 3);
  d.op.slot[4] = d.scratch_predicate();
}

void decode_rem(Decode& d) { decode_plain<Rem>(d, kIntegers, 2); }

constexpr int64_t low24(uint32_t v) { return int64_t(v & 0xffffff); }
constexpr int64_t low24(int32_t v) { return int64_t(int32_t(uint32_t(v) << 8) >> 8); }

void decode_mul24(Decode& d) {
  const bool with_add = d.instruction.opcode == "mad24";
  const bool high = d.mods.require_one_of({"lo", "hi"}) == 1;
  const bool is_signed = d.mods.type({Type::u32, Type::s32}) == Type::s32;
  // .hi is bits 47..16 of the 48-bit product.
  constexpr auto ulo = [](uint32_t a, uint32_t b, uint32_t c) {
    return uint32_t(low24(a) * low24(b)) + c;
  };
  constexpr auto uhi = [](uint32_t a, uint32_t b, uint32_t c) {
    return uint32_t((low24(a) * low24(b)) >> 16) + c;
  };
  constexpr auto slo = [](int32_t a, int32_t b, int32_t c) {
    return int32_t(low24(a) * low24(b)) + c;
  };
  constexpr auto shi = [](int32_t a, int32_t b, int32_t c) {
    return int32_t((low24(a) * low24(b)) >> 16) + c;
  };
  d.op.run = is_signed ? (high ? Run(run_ternary<int32_t, int32_t, int32_t, int32_t, shi>)
                               : run_ternary<int32_t, int32_t, int32_t, int32_t, slo>)
                       : (high ? Run(run_ternary<uint32_t, uint32_t, uint32_t, uint32_t, uhi>)
                               : run_ternary<uint32_t, uint32_t, uint32_t, uint32_t, ulo>);
  d.op.kind = InstructionClass::integer;
  decode_same(d, 4, with_add ? 3 : 2);
  if (!with_add) d.op.slot[3] = d.constant(0, 4);
}

constexpr auto sad = [](auto a, auto b, auto c) { return c + (a < b ? b - a : a - b); };
template <typename T>
struct Sad {
  static constexpr Run run = run_ternary<T, T, T, T, sad>;
};
void decode_sad(Decode& d) { decode_plain<Sad>(d, kIntegers, 3); }

void decode_popc(Decode& d) {
  const bool is_wide = d.mods.type({Type::b32, Type::b64}) == Type::b64;
  constexpr auto narrow = [](uint32_t a) { return uint32_t(std::popcount(a)); };
  constexpr auto wide = [](uint64_t a) { return uint32_t(std::popcount(a)); };
  d.op.run =
      is_wide ? Run(run_unary<uint32_t, uint64_t, wide>) : run_unary<uint32_t, uint32_t, narrow>;
  d.op.kind = InstructionClass::integer;
  d.expect_operands(2, 2);
  d.op.slot[0] = d.out(0, 4), d.op.slot[1] = d.in(1, is_wide ? 8 : 4);
}

void decode_clz(Decode& d) {
  const bool is_wide = d.mods.type({Type::b32, Type::b64}) == Type::b64;
  constexpr auto narrow = [](uint32_t a) { return uint32_t(std::countl_zero(a)); };
  constexpr auto wide = [](uint64_t a) { return uint32_t(std::countl_zero(a)); };
  d.op.run =
      is_wide ? Run(run_unary<uint32_t, uint64_t, wide>) : run_unary<uint32_t, uint32_t, narrow>;
  d.op.kind = InstructionClass::integer;
  d.expect_operands(2, 2);
  d.op.slot[0] = d.out(0, 4), d.op.slot[1] = d.in(1, is_wide ? 8 : 4);
}

// The position of the highest bit that differs from the sign, or ~0; .shiftamt: of the shift to the
// top.
template <typename T, bool kShift>
uint32_t find_highest(T a) {
  using U = std::make_unsigned_t<T>;
  constexpr int bits = 8 * sizeof(T);
  const U u = std::is_signed_v<T> && a < 0 ? U(~U(a)) : U(a);
  if (u == 0) return 0xffffffff;
  const uint32_t at = uint32_t(bits - 1 - std::countl_zero(u));
  return kShift ? uint32_t(bits - 1) - at : at;
}
template <typename T, bool kShift>
constexpr auto bfind = [](T a) { return find_highest<T, kShift>(a); };

void decode_bfind(Decode& d) {
  const bool shift = d.mods.take("shiftamt");
  const Type type = d.mods.type({Type::u32, Type::u64, Type::s32, Type::s64});
  switch (type) {
    case Type::u32:
      d.op.run = shift ? Run(run_unary<uint32_t, uint32_t, bfind<uint32_t, true>>)
                       : run_unary<uint32_t, uint32_t, bfind<uint32_t, false>>;
      break;
    case Type::s32:
      d.op.run = shift ? Run(run_unary<uint32_t, int32_t, bfind<int32_t, true>>)
                       : run_unary<uint32_t, int32_t, bfind<int32_t, false>>;
      break;
    case Type::u64:
      d.op.run = shift ? Run(run_unary<uint32_t, uint64_t, bfind<uint64_t, true>>)
                       : run_unary<uint32_t, uint64_t, bfind<uint64_t, false>>;
      break;
    default:
      d.op.run = shift ? Run(run_unary<uint32_t, int64_t, bfind<int64_t, true>>)
                       : run_unary<uint32_t, int64_t, bfind<int64_t, false>>;
      break;
  }
  d.op.kind = InstructionClass::integer;
  d.expect_operands(2, 2);
  d.op.slot[0] = d.out(0, 4), d.op.slot[1] = d.in(1, ptx::size_of(type));
}

// The n-th set bit of mask from base on, upwards for n > 0 and downwards for n < 0; n = 0: base
// itself.
constexpr auto find_nth = [](uint32_t mask, uint32_t base, int32_t n) -> uint32_t {
  if (n == 0) return (base < 32 && (mask >> base) & 1) ? base : 0xffffffff;
  const int step = n > 0 ? 1 : -1;
  int left = n > 0 ? n : -n;
  for (int at = int(base); at >= 0 && at < 32; at += step)
    if ((mask >> at) & 1 && --left == 0) return uint32_t(at);
  return 0xffffffff;
};
void decode_fns(Decode& d) {
  d.mods.type({Type::b32});
  finish(d, run_ternary<uint32_t, uint32_t, uint32_t, int32_t, find_nth>, 4, 3);
}

template <typename T>
T reverse_bits(T v) {
  T out = 0;
  for (size_t i = 0; i < 8 * sizeof(T); ++i) out |= T((v >> i) & 1) << (8 * sizeof(T) - 1 - i);
  return out;
}
void decode_brev(Decode& d) {
  const bool is_wide = d.mods.type({Type::b32, Type::b64}) == Type::b64;
  constexpr auto narrow = [](uint32_t a) { return reverse_bits(a); };
  constexpr auto wide = [](uint64_t a) { return reverse_bits(a); };
  finish(d,
         is_wide ? Run(run_unary<uint64_t, uint64_t, wide>) : run_unary<uint32_t, uint32_t, narrow>,
         is_wide ? 8 : 4, 1);
}

// len bits from pos on, sign-extended for signed types: PTX ISA 9.7.1.19.
template <typename T>
T extract_field(T a, uint32_t pos, uint32_t len) {
  using U = std::make_unsigned_t<T>;
  constexpr uint32_t bits = 8 * sizeof(T);
  pos &= 0xff, len &= 0xff;
  if (len == 0) return 0;
  bool sign = false;
  if (std::is_signed_v<T>) {
    const uint32_t top = std::min(pos + len - 1, bits - 1);
    sign = (U(a) >> top) & 1;
  }
  U out = 0;
  for (uint32_t i = 0; i < bits; ++i)
    out |= U(i < len && pos + i < bits ? (U(a) >> (pos + i)) & 1 : sign) << i;
  return T(out);
}
template <typename T>
constexpr auto bfe = [](T a, uint32_t pos, uint32_t len) { return extract_field(a, pos, len); };

void decode_bfe(Decode& d) {
  const Type type = d.mods.type({Type::u32, Type::u64, Type::s32, Type::s64});
  switch (type) {
    case Type::u32:
      d.op.run = run_ternary<uint32_t, uint32_t, uint32_t, uint32_t, bfe<uint32_t>>;
      break;
    case Type::s32:
      d.op.run = run_ternary<int32_t, int32_t, uint32_t, uint32_t, bfe<int32_t>>;
      break;
    case Type::u64:
      d.op.run = run_ternary<uint64_t, uint64_t, uint32_t, uint32_t, bfe<uint64_t>>;
      break;
    default: d.op.run = run_ternary<int64_t, int64_t, uint32_t, uint32_t, bfe<int64_t>>; break;
  }
  d.op.kind = InstructionClass::integer;
  d.expect_operands(4, 4);
  const int bytes = ptx::size_of(type);
  d.op.slot[0] = d.out(0, bytes), d.op.slot[1] = d.in(1, bytes);
  d.op.slot[2] = d.in(2, 4), d.op.slot[3] = d.in(3, 4);
}

template <typename T>
Flow run_bfi(Warp& w, const Op& op) {
  const T *a = w.lanes<T>(op.slot[1]), *b = w.lanes<T>(op.slot[2]);
  const uint32_t *pos = w.lanes<uint32_t>(op.slot[3]), *len = w.lanes<uint32_t>(op.slot[4]);
  write_lanes(w, w.lanes<T>(op.slot[0]), [&](int l) {
    constexpr uint32_t bits = 8 * sizeof(T);
    const uint32_t p = pos[l] & 0xff, n = len[l] & 0xff;
    if (p >= bits || n == 0) return b[l];
    const T ones = n >= bits ? ~T(0) : T((T(1) << n) - 1), field = T(ones << p);
    return T((b[l] & ~field) | ((a[l] << p) & field));
  });
  return Flow::next;
}
void decode_bfi(Decode& d) {
  const bool is_wide = d.mods.type({Type::b32, Type::b64}) == Type::b64;
  const int bytes = is_wide ? 8 : 4;
  d.op.run = is_wide ? run_bfi<uint64_t> : run_bfi<uint32_t>;
  d.op.kind = InstructionClass::integer;
  d.expect_operands(5, 5);
  d.op.slot[0] = d.out(0, bytes);
  d.op.slot[1] = d.in(1, bytes), d.op.slot[2] = d.in(2, bytes);
  d.op.slot[3] = d.in(3, 4), d.op.slot[4] = d.in(4, 4);
}

void decode_bmsk(Decode& d) {
  const bool wrap = d.mods.require_one_of({"clamp", "wrap"}) == 1;
  d.mods.type({Type::b32});
  constexpr auto clamp = [](uint32_t pos, uint32_t len) -> uint32_t {
    if (pos >= 32) return 0;
    return uint32_t((len >= 32 ? 0xffffffffu : (1u << len) - 1) << pos);
  };
  constexpr auto wrapped = [](uint32_t pos, uint32_t len) -> uint32_t {
    return uint32_t(((1u << (len & 31)) - 1) << (pos & 31));
  };
  finish(d,
         wrap ? Run(run_binary<uint32_t, uint32_t, uint32_t, wrapped>)
              : run_binary<uint32_t, uint32_t, uint32_t, clamp>,
         4, 2);
}

void decode_szext(Decode& d) {
  const bool wrap = d.mods.require_one_of({"clamp", "wrap"}) == 1;
  const bool is_signed = d.mods.type({Type::u32, Type::s32}) == Type::s32;
  d.op.immediate = (wrap ? 1 : 0) | (is_signed ? 2 : 0);
  finish(
      d,
      [](Warp& w, const Op& op) {
        const uint32_t *a = w.lanes<uint32_t>(op.slot[1]), *n = w.lanes<uint32_t>(op.slot[2]);
        write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int l) -> uint32_t {
          const uint32_t bits = op.immediate & 1 ? n[l] & 31 : n[l];
          if (bits == 0) return 0;
          if (bits >= 32) return a[l];
          const uint32_t shifted = a[l] << (32 - bits);
          return op.immediate & 2 ? uint32_t(int32_t(shifted) >> (32 - bits))
                                  : shifted >> (32 - bits);
        });
        return Flow::next;
      },
      4, 2);
}

// Sum of four (dp4a) or two (dp2a) products of bytes, each operand signed or unsigned.
void decode_dot(Decode& d) {
  const bool four = d.instruction.opcode == "dp4a";
  const bool high = !four && d.mods.require_one_of({"lo", "hi"}) == 1;
  const bool a_signed = d.mods.type({Type::u32, Type::s32}) == Type::s32;
  const bool b_signed = d.mods.type({Type::u32, Type::s32}) == Type::s32;
  d.op.immediate = (four ? 1 : 0) | (high ? 2 : 0) | (a_signed ? 4 : 0) | (b_signed ? 8 : 0);
  finish(
      d,
      [](Warp& w, const Op& op) {
        const uint32_t *a = w.lanes<uint32_t>(op.slot[1]), *b = w.lanes<uint32_t>(op.slot[2]),
                       *c = w.lanes<uint32_t>(op.slot[3]);
        auto byte = [](uint32_t v, int i, bool sign) {
          const uint32_t u = (v >> (8 * i)) & 0xff;
          return sign ? int32_t(int8_t(u)) : int32_t(u);
        };
        auto half = [](uint32_t v, int i, bool sign) {
          const uint32_t u = (v >> (16 * i)) & 0xffff;
          return sign ? int32_t(int16_t(u)) : int32_t(u);
        };
        write_lanes(w, w.lanes<uint32_t>(op.slot[0]), [&](int l) {
          uint32_t sum = c[l];
          const bool sa = op.immediate & 4, sb = op.immediate & 8;
          if (op.immediate & 1)
            for (int i = 0; i < 4; ++i) sum += uint32_t(byte(a[l], i, sa) * byte(b[l], i, sb));
          else
            for (int i = 0; i < 2; ++i)
              sum += uint32_t(half(a[l], i, sa)) *
                     uint32_t(byte(b[l], i + (op.immediate & 2 ? 2 : 0), sb));
          return sum;
        });
        return Flow::next;
      },
      4, 3);
}

}  // namespace

std::initializer_list<DecodeEntry> integer_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {
      {"addc", decode_addc},   {"subc", decode_addc},   {"madc", decode_madc},
      {"rem", decode_rem},     {"mul24", decode_mul24}, {"mad24", decode_mul24},
      {"sad", decode_sad},     {"popc", decode_popc},   {"clz", decode_clz},
      {"bfind", decode_bfind}, {"fns", decode_fns},     {"brev", decode_brev},
      {"bfe", decode_bfe},     {"bfi", decode_bfi},     {"bmsk", decode_bmsk},
      {"szext", decode_szext}, {"dp4a", decode_dot},    {"dp2a", decode_dot}};
  return all;
}

}  // namespace ptxsim
