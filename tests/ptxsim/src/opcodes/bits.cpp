// SPDX-License-Identifier: Apache-2.0
// Integers as bits: counting, finding, fields, extension: PTX ISA 9.7.1.
#include <algorithm>

#include "engine/lanes.h"

namespace ptxsim {
namespace {

using ptx::Type;

void finish(Decode& d, Run run, int bytes, int sources) {
  d.op.run = run;
  d.op.kind = InstructionClass::integer;
  decode_same(d, bytes, sources);
}

template <auto narrow, auto wide>  // counts of 32 and of 64 bits
void decode_count(Decode& d) {
  const bool is_wide = d.mods.type({Type::b32, Type::b64}) == Type::b64;
  d.op.run =
      is_wide ? Run(run_unary<uint32_t, uint64_t, wide>) : run_unary<uint32_t, uint32_t, narrow>;
  d.op.kind = InstructionClass::integer;
  d.expect_operands(2, 2);
  d.op.slot[0] = d.out(0, 4), d.op.slot[1] = d.in(1, is_wide ? 8 : 4);
}
constexpr auto decode_popc = decode_count<[](uint32_t a) { return uint32_t(std::popcount(a)); },
                                          [](uint64_t a) { return uint32_t(std::popcount(a)); }>;
constexpr auto decode_clz = decode_count<[](uint32_t a) { return uint32_t(std::countl_zero(a)); },
                                         [](uint64_t a) { return uint32_t(std::countl_zero(a)); }>;

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

}  // namespace

std::initializer_list<DecodeEntry> bit_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {
      {"popc", decode_popc}, {"clz", decode_clz},   {"bfind", decode_bfind},
      {"fns", decode_fns},   {"brev", decode_brev}, {"bfe", decode_bfe},
      {"bfi", decode_bfi},   {"bmsk", decode_bmsk}, {"szext", decode_szext}};
  return all;
}

}  // namespace ptxsim
