// SPDX-License-Identifier: Apache-2.0
// Logic, shifts, permutation and moves: PTX ISA 9.7.8 and 9.7.9.
#include "engine/calls.h"
#include "engine/lanes.h"

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
  d.mods.type({Type::b32});
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
  const bool is_wide = special == ptx::Special::clock64 || special == ptx::Special::globaltimer;
  if (is_wide != (bytes == 8)) d.fail("has another size than its special register");
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
  const Type type =
      d.mods.type({Type::pred, Type::b16, Type::b32, Type::b64, Type::b128, Type::u16, Type::u32,
                   Type::u64, Type::s16, Type::s32, Type::s64, Type::f32, Type::f64});
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
                                                         {"mov", decode_mov}};
  return all;
}

}  // namespace ptxsim
