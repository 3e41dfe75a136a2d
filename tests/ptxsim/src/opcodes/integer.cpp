// SPDX-License-Identifier: Apache-2.0
// Integer arithmetic: PTX ISA 9.7.1.
#include <algorithm>

#include "engine/lanes.h"
#include "opcodes/integer.h"

namespace ptxsim {
namespace {

using ptx::Type;
using Wide = unsigned __int128;

template <typename T>
struct DoubleWidth;
template <> struct DoubleWidth<uint16_t> { using type = uint32_t; };
template <> struct DoubleWidth<int16_t> { using type = int32_t; };
template <> struct DoubleWidth<uint32_t> { using type = uint64_t; };
template <> struct DoubleWidth<int32_t> { using type = int64_t; };
template <> struct DoubleWidth<uint64_t> { using type = Wide; };
template <> struct DoubleWidth<int64_t> { using type = __int128; };

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
Flow wide2(Warp& w, const Op& op) {
  return run_binary<typename DoubleWidth<T>::type, T, T, F>(w, op);
}
template <typename T, auto F>
Flow wide3(Warp& w, const Op& op) {
  using W = typename DoubleWidth<T>::type;
  return run_ternary<W, T, T, W, F>(w, op);
}
template <typename T, auto F>
Flow same3(Warp& w, const Op& op) {
  return run_ternary<T, T, T, T, F>(w, op);
}

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

constexpr auto minimum_relu = [](auto a, auto b) {
  return std::max(decltype(a)(0), minimum(a, b));
};
constexpr auto maximum_relu = [](auto a, auto b) {
  return std::max(decltype(a)(0), maximum(a, b));
};
constexpr auto mul_wide = [](auto a, auto b) {
  using W = typename DoubleWidth<decltype(a)>::type;
  return W(a) * W(b);
};
constexpr auto mad_wide = [](auto a, auto b, auto c) {
  return decltype(c)(a) * decltype(c)(b) + c;
};

PTXSIM_PICK(Add, same2, add)
PTXSIM_PICK(Sub, same2, sub)
PTXSIM_PICK(MulLo, same2, mul_lo)
PTXSIM_PICK(MulHi, same2, mul_hi)
PTXSIM_PICK(MadLo, same3, mad_lo)
PTXSIM_PICK(MadHi, same3, mad_hi)
PTXSIM_PICK(MulWide, wide2, mul_wide)
PTXSIM_PICK(MadWide, wide3, mad_wide)
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

// .sat exists for s32 alone.
constexpr auto clamp32 = [](int64_t v) {
  return int32_t(std::clamp<int64_t>(v, INT32_MIN, INT32_MAX));
};
constexpr auto add_sat = [](int32_t a, int32_t b) { return clamp32(int64_t(a) + b); };
constexpr auto sub_sat = [](int32_t a, int32_t b) { return clamp32(int64_t(a) - b); };
constexpr auto mad_hi_sat = [](int32_t a, int32_t b, int32_t c) {
  return clamp32(((int64_t(a) * b) >> 32) + c);
};

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

template <template <typename> typename Pick>
void decode_plain(Decode& d, std::initializer_list<Type> types, int sources) {
  const Type type = d.mods.type(types);
  finish(d, pick_integer<Pick>(type), ptx::size_of(type), sources);
}

void decode_sum(Decode& d, bool subtract) {
  if (d.mods.take("cc")) return decode_carry_out(d);
  if (d.mods.take("sat")) {
    d.mods.type({Type::s32});
    return finish(d, subtract ? same2<int32_t, sub_sat> : same2<int32_t, add_sat>, 4, 2);
  }
  subtract ? decode_plain<Sub>(d, kIntegers, 2) : decode_plain<Add>(d, kIntegers, 2);
}

void decode_wide_product(Decode& d, bool with_add) {
  const Type type = d.mods.type({Type::u16, Type::s16, Type::u32, Type::s32});
  const int bytes = ptx::size_of(type);
  d.op.run = with_add ? pick_integer<MadWide>(type) : pick_integer<MulWide>(type);
  d.op.kind = InstructionClass::integer;
  d.expect_operands(with_add ? 4 : 3, with_add ? 4 : 3);
  d.op.slot[0] = d.out(0, 2 * bytes);
  d.op.slot[1] = d.in(1, bytes), d.op.slot[2] = d.in(2, bytes);
  if (with_add) d.op.slot[3] = d.in(3, 2 * bytes);
}

void decode_product(Decode& d, bool with_add) {
  const int part = d.mods.require_one_of({"lo", "hi", "wide"});
  if (part == 2) return decode_wide_product(d, with_add);
  if (with_add && d.mods.take("cc")) return decode_mad_carry(d, part == 1, false, true);
  if (with_add && part == 1 && d.mods.take("sat")) {
    d.mods.type({Type::s32});
    return finish(d, same3<int32_t, mad_hi_sat>, 4, 3);
  }
  if (with_add)
    part ? decode_plain<MadHi>(d, kIntegers, 3) : decode_plain<MadLo>(d, kIntegers, 3);
  else
    part ? decode_plain<MulHi>(d, kIntegers, 2) : decode_plain<MulLo>(d, kIntegers, 2);
}

template <auto kPick, auto kPickRelu, template <typename> typename Pick>
void decode_integer_extreme(Decode& d) {
  const bool relu = d.mods.take("relu");
  if (d.mods.take("u16x2")) {
    if (relu) d.fail("takes .relu with signed types only");
    return finish(d, halves<uint16_t, kPick>, 4, 2);
  }
  if (d.mods.take("s16x2"))
    return finish(d, relu ? halves<int16_t, kPickRelu> : halves<int16_t, kPick>, 4, 2);
  if (!relu) return decode_plain<Pick>(d, kIntegers, 2);
  d.mods.type({Type::s32});
  finish(d, same2<int32_t, kPickRelu>, 4, 2);
}

bool has_integer_type(const ptx::Instruction& instruction) {
  if (instruction.modifiers.empty()) return false;
  const std::string& last = instruction.modifiers.back();
  if (last == "u16x2" || last == "s16x2") return true;
  Type type;
  return ptx::parse_type(last, &type) &&
         std::find(kIntegers.begin(), kIntegers.end(), type) != kIntegers.end();
}

}  // namespace

bool decode_integer_form(Decode& d) {
  if (!has_integer_type(d.instruction)) return false;
  const std::string& opcode = d.instruction.opcode;
  if (opcode == "add" && (d.mods.take("u16x2") || d.mods.take("s16x2")))
    finish(d, halves<uint16_t, add>, 4, 2);
  else if (opcode == "add" || opcode == "sub")
    decode_sum(d, opcode == "sub");
  else if (opcode == "mul" || opcode == "mad")
    decode_product(d, opcode == "mad");
  else if (opcode == "div")
    decode_plain<Div>(d, kIntegers, 2);
  else if (opcode == "abs")
    decode_plain<Abs>(d, {Type::s16, Type::s32, Type::s64}, 1);
  else if (opcode == "neg")
    decode_plain<Neg>(d, {Type::s16, Type::s32, Type::s64}, 1);
  else if (opcode == "min")
    decode_integer_extreme<minimum, minimum_relu, Min>(d);
  else if (opcode == "max")
    decode_integer_extreme<maximum, maximum_relu, Max>(d);
  else
    return false;
  return true;
}

namespace {

void decode_rem(Decode& d) { decode_plain<Rem>(d, kIntegers, 2); }

constexpr int64_t low24(uint32_t v) { return int64_t(v & 0xffffff); }
constexpr int64_t low24(int32_t v) { return int64_t(int32_t(uint32_t(v) << 8) >> 8); }
constexpr auto mad24_lo = [](auto a, auto b, auto c) { return low24(a) * low24(b) + c; };
// .hi is bits 47..16 of the 48-bit product.
constexpr auto mad24_hi = [](auto a, auto b, auto c) { return ((low24(a) * low24(b)) >> 16) + c; };
constexpr auto mad24_hi_sat = [](int32_t a, int32_t b, int32_t c) {
  return clamp32(mad24_hi(a, b, c));
};

void decode_mul24(Decode& d) {
  const bool with_add = d.instruction.opcode == "mad24";
  const bool high = d.mods.require_one_of({"lo", "hi"}) == 1;
  const bool sat = with_add && high && d.mods.take("sat");
  const bool is_signed = sat ? d.mods.type({Type::s32}) == Type::s32
                             : d.mods.type({Type::u32, Type::s32}) == Type::s32;
  if (sat)
    d.op.run = same3<int32_t, mad24_hi_sat>;
  else if (is_signed)
    d.op.run = high ? same3<int32_t, mad24_hi> : same3<int32_t, mad24_lo>;
  else
    d.op.run = high ? same3<uint32_t, mad24_hi> : same3<uint32_t, mad24_lo>;
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
      {"rem", decode_rem}, {"mul24", decode_mul24}, {"mad24", decode_mul24},
      {"sad", decode_sad}, {"dp4a", decode_dot},    {"dp2a", decode_dot}};
  return all;
}

}  // namespace ptxsim
