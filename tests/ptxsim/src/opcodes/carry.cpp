// SPDX-License-Identifier: Apache-2.0
// Extended-precision arithmetic: PTX ISA 9.7.2. The carry is a predicate of the frame, one bit a
// lane.
#include "engine/lanes.h"
#include "opcodes/integer.h"

namespace ptxsim {
namespace {

using ptx::Type;
using Wide = unsigned __int128;

struct CarryForm {
  bool subtract = false, high = false, is_signed = false, use = false, set = false;
};

template <typename T>
Flow run_sum(Warp& w, const Op& op) {
  const auto& f = *static_cast<const CarryForm*>(op.form);
  const T *a = w.lanes<T>(op.slot[1]), *b = w.lanes<T>(op.slot[2]);
  const uint32_t in = f.use ? w.predicate(op.slot[4]) : 0;
  uint32_t out = 0;
  T value[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    const T c = (in >> l) & 1;
    const Wide sum = f.subtract ? Wide(a[l]) - b[l] - c : Wide(a[l]) + b[l] + c;
    value[l] = T(sum);
    out |= uint32_t((sum >> (8 * sizeof(T))) & 1) << l;
  }
  write_lanes(w, w.lanes<T>(op.slot[0]), [&](int l) { return value[l]; });
  if (f.set) write_predicate(w, op.slot[4], out);
  return Flow::next;
}

template <typename T>
Flow run_product(Warp& w, const Op& op) {
  const auto& f = *static_cast<const CarryForm*>(op.form);
  const T *a = w.lanes<T>(op.slot[1]), *b = w.lanes<T>(op.slot[2]), *c = w.lanes<T>(op.slot[3]);
  const uint32_t in = f.use ? w.predicate(op.slot[4]) : 0;
  constexpr int kBits = 8 * sizeof(T);
  uint32_t out = 0;
  T value[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    using S = std::make_signed_t<T>;
    const Wide product =
        f.is_signed ? Wide(__int128(S(a[l])) * __int128(S(b[l]))) : Wide(a[l]) * b[l];
    const Wide sum = Wide(T(f.high ? product >> kBits : product)) + c[l] + ((in >> l) & 1);
    value[l] = T(sum);
    out |= uint32_t((sum >> kBits) & 1) << l;
  }
  write_lanes(w, w.lanes<T>(op.slot[0]), [&](int l) { return value[l]; });
  if (f.set) write_predicate(w, op.slot[4], out);
  return Flow::next;
}

CarryForm& decode_carry(Decode& d, int sources, bool use, bool set) {
  CarryForm& f = d.form<CarryForm>();
  f.use = use, f.set = set;
  const Type type = d.mods.type({Type::u32, Type::s32, Type::u64, Type::s64});
  f.is_signed = type == Type::s32 || type == Type::s64;
  const bool is_wide = ptx::size_of(type) == 8;
  d.op.run = sources == 2 ? (is_wide ? run_sum<uint64_t> : run_sum<uint32_t>)
                          : (is_wide ? run_product<uint64_t> : run_product<uint32_t>);
  d.op.kind = InstructionClass::integer;
  decode_same(d, ptx::size_of(type), sources);
  d.op.slot[4] = d.scratch_predicate();
  return f;
}

void decode_addc(Decode& d) {
  const bool set = d.mods.take("cc");
  decode_carry(d, 2, true, set).subtract = d.instruction.opcode == "subc";
}

void decode_madc(Decode& d) {
  const bool high = d.mods.require_one_of({"lo", "hi"}) == 1;
  decode_mad_carry(d, high, true, d.mods.take("cc"));
}

}  // namespace

void decode_carry_out(Decode& d) {
  decode_carry(d, 2, false, true).subtract = d.instruction.opcode == "sub";
}

void decode_mad_carry(Decode& d, bool high, bool use, bool set) {
  decode_carry(d, 3, use, set).high = high;
}

std::initializer_list<DecodeEntry> carry_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {
      {"addc", decode_addc}, {"subc", decode_addc}, {"madc", decode_madc}};
  return all;
}

}  // namespace ptxsim
