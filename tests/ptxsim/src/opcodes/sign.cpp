// SPDX-License-Identifier: Apache-2.0
// Sign, minimum and maximum, and classes of floats: PTX ISA 9.7.3 and 9.7.4.
#include <bit>
#include <cmath>
#include <limits>

#include "engine/lanes.h"
#include "opcodes/integer.h"
#include "opcodes/numbers.h"
#include "tensor/formats.h"

namespace ptxsim {
namespace {

using ptx::Type;

constexpr uint32_t kNan32 = 0x7fffffff;  // what arithmetic on NaN gives

// On the bits: NaN payloads stay. `immediate` has the sign bits.
template <typename T, bool kNegate>
Flow run_sign(Warp& w, const Op& op) {
  const T* a = w.lanes<T>(op.slot[1]);
  const T mask = T(op.immediate);
  write_lanes(w, w.lanes<T>(op.slot[0]),
              [&](int l) { return T(kNegate ? a[l] ^ mask : a[l] & ~mask); });
  return Flow::next;
}

// .ftz: what has no exponent loses its significand. slot[2]: the bits of an exponent.
template <typename T, bool kNegate>
Flow run_sign_flushed(Warp& w, const Op& op) {
  const T* a = w.lanes<T>(op.slot[1]);
  const int width = int(op.slot[3]);  // of an element
  write_lanes(w, w.lanes<T>(op.slot[0]), [&](int l) {
    T out = 0;
    for (int at = 0; at < 8 * int(sizeof(T)); at += width) {
      const uint32_t sign = 1u << (width - 1), v = uint32_t(a[l] >> at) & (sign | (sign - 1));
      const uint32_t kept = v & op.slot[2] ? v : v & sign;
      out |= T(T(kNegate ? kept ^ sign : kept & ~sign) << at);
    }
    return out;
  });
  return Flow::next;
}

template <bool kNegate>
void decode_sign(Decode& d) {
  if (decode_integer_form(d)) return;
  const bool ftz = d.mods.take("ftz");
  const Type type =
      ftz ? d.mods.type({Type::f32, Type::f16, Type::f16x2})
          : d.mods.type({Type::f32, Type::f64, Type::f16, Type::f16x2, Type::bf16, Type::bf16x2});
  const int bytes = ptx::size_of(type);
  const bool pair = type == Type::f16x2 || type == Type::bf16x2;
  d.op.kind = bytes == 8            ? InstructionClass::float64
              : bytes == 4 && !pair ? InstructionClass::float32
                                    : InstructionClass::half;
  decode_same(d, bytes, 1);
  if (ftz) {
    d.op.slot[2] = type == Type::f32 ? 0x7f800000 : 0x7c00;
    d.op.slot[3] = type == Type::f32 ? 32 : 16;
    d.op.run =
        bytes == 2 ? run_sign_flushed<uint16_t, kNegate> : run_sign_flushed<uint32_t, kNegate>;
    return;
  }
  d.op.immediate = bytes == 8   ? std::numeric_limits<int64_t>::min()
                   : bytes == 2 ? 0x8000
                   : pair       ? 0x80008000
                                : 0x80000000;
  d.op.run = bytes == 2   ? run_sign<uint16_t, kNegate>
             : bytes == 4 ? run_sign<uint32_t, kNegate>
                          : run_sign<uint64_t, kNegate>;
}

struct ExtremeForm {
  enum class Sign : uint8_t { kept, dropped, exclusive_or } sign = Sign::kept;
  bool ftz = false, nan = false, max = false, three = false;
  Format format = Format::f16;  // of 16-bit types
};

// A NaN operand loses, unless .NaN lets it win; -0 is below +0.
template <typename T>
T extreme(const ExtremeForm& f, T a, T b) {
  if (a != a || b != b) {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    return (a != a && b != b) || f.nan ? nan : a != a ? b : a;
  }
  if (a == b) return std::signbit(a) == f.max ? b : a;
  return (a < b) == f.max ? b : a;
}

template <typename T>
T extreme_signed(const ExtremeForm& f, T a, T b) {
  if (f.sign == ExtremeForm::Sign::kept) return extreme(f, a, b);
  const bool negative =
      f.sign == ExtremeForm::Sign::exclusive_or && std::signbit(a) != std::signbit(b);
  const T v = extreme(f, std::fabs(a), std::fabs(b));
  return negative ? -v : v;
}

Flow run_extreme32(Warp& w, const Op& op) {
  const auto& f = *static_cast<const ExtremeForm*>(op.form);
  const float *a = w.lanes<float>(op.slot[1]), *b = w.lanes<float>(op.slot[2]),
              *c = w.lanes<float>(op.slot[3]);
  write_lanes(w, w.lanes<float>(op.slot[0]), [&](int l) {
    auto read = [&](float v) { return f.ftz ? flush(v) : v; };
    float v = extreme_signed(f, read(a[l]), read(b[l]));
    if (f.three) v = extreme_signed(f, v, read(c[l]));
    return v != v ? std::bit_cast<float>(kNan32) : v;
  });
  return Flow::next;
}

Flow run_extreme64(Warp& w, const Op& op) {
  const auto& f = *static_cast<const ExtremeForm*>(op.form);
  const double *a = w.lanes<double>(op.slot[1]), *b = w.lanes<double>(op.slot[2]);
  write_lanes(w, w.lanes<double>(op.slot[0]), [&](int l) { return extreme_signed(f, a[l], b[l]); });
  return Flow::next;
}

template <typename T>
Flow run_extreme16(Warp& w, const Op& op) {
  const auto& f = *static_cast<const ExtremeForm*>(op.form);
  const T *a = w.lanes<T>(op.slot[1]), *b = w.lanes<T>(op.slot[2]);
  auto one = [&](uint16_t x, uint16_t y) -> uint16_t {
    float u = f.format == Format::f16 ? f16_to_float(x) : bf16_to_float(x);
    float v = f.format == Format::f16 ? f16_to_float(y) : bf16_to_float(y);
    if (f.ftz) u = flush_f16(u), v = flush_f16(v);
    const float r = extreme_signed(f, u, v);
    if (r != r) return 0x7fff;
    return f.format == Format::f16 ? float_to_f16(r) : float_to_bf16(r);
  };
  write_lanes(w, w.lanes<T>(op.slot[0]), [&](int l) -> T {
    const uint16_t low = one(uint16_t(a[l]), uint16_t(b[l]));
    if constexpr (sizeof(T) == 2) return low;
    return T(low | uint32_t(one(uint16_t(a[l] >> 16), uint16_t(b[l] >> 16))) << 16);
  });
  return Flow::next;
}

void decode_extreme(Decode& d) {
  if (decode_integer_form(d)) return;
  ExtremeForm& f = d.form<ExtremeForm>();
  f.ftz = d.mods.take("ftz");
  f.nan = d.mods.take("NaN");
  if (d.mods.take("xorsign")) {
    d.mods.require_one_of({"abs"});
    f.sign = ExtremeForm::Sign::exclusive_or;
  } else if (d.mods.take("abs")) {
    f.sign = ExtremeForm::Sign::dropped;
  }
  const Type type =
      d.mods.type({Type::f32, Type::f64, Type::f16, Type::f16x2, Type::bf16, Type::bf16x2});
  const int bytes = ptx::size_of(type);
  const bool bf = type == Type::bf16 || type == Type::bf16x2;
  f.three = type == Type::f32 && d.operands() == 4;
  f.max = d.instruction.opcode == "max";
  f.format = bf ? Format::bf16 : Format::f16;
  const bool plain = !f.ftz && !f.nan && f.sign == ExtremeForm::Sign::kept;
  if ((type == Type::f64 && !plain) || (bf && f.ftz) ||
      (f.sign == ExtremeForm::Sign::dropped) != (f.three && f.sign != ExtremeForm::Sign::kept))
    d.fail("has a modifier that does not exist with these operands");
  d.op.run = type == Type::f32   ? run_extreme32
             : type == Type::f64 ? run_extreme64
             : bytes == 2        ? run_extreme16<uint16_t>
                                 : run_extreme16<uint32_t>;
  d.op.kind = type == Type::f32   ? InstructionClass::float32
              : type == Type::f64 ? InstructionClass::float64
                                  : InstructionClass::half;
  decode_same(d, bytes, f.three ? 3 : 2);
  if (!f.three) d.op.slot[3] = d.op.slot[2];
}

void decode_copysign(Decode& d) {  // the sign of a on the magnitude of b
  const Type type = d.mods.type({Type::f32, Type::f64});
  constexpr auto narrow = [](uint32_t a, uint32_t b) {
    return (a & 0x80000000u) | (b & 0x7fffffffu);
  };
  constexpr auto wide = [](uint64_t a, uint64_t b) { return (a >> 63 << 63) | (b << 1 >> 1); };
  d.op.run = type == Type::f32 ? Run(run_binary<uint32_t, uint32_t, uint32_t, narrow>)
                               : run_binary<uint64_t, uint64_t, uint64_t, wide>;
  d.op.kind = InstructionClass::float32;
  decode_same(d, ptx::size_of(type), 2);
}

void decode_testp(Decode& d) {
  d.op.immediate =
      d.mods.require_one_of({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
  const bool wide = d.mods.type({Type::f32, Type::f64}) == Type::f64;
  d.expect_operands(2, 2);
  d.op.slot[0] = d.predicate_out(d.operand(0));
  d.op.slot[1] = d.in(1, wide ? 8 : 4);
  d.op.slot[2] = wide;
  d.op.kind = InstructionClass::predicate;
  d.op.run = [](Warp& w, const Op& op) {
    write_predicate(w, op.slot[0], lane_mask([&](int l) {
                      const int c = op.slot[2] ? std::fpclassify(w.lanes<double>(op.slot[1])[l])
                                               : std::fpclassify(w.lanes<float>(op.slot[1])[l]);
                      switch (op.immediate) {
                        case 0: return c != FP_NAN && c != FP_INFINITE;
                        case 1: return c == FP_INFINITE;
                        case 2: return c != FP_NAN;
                        case 3: return c == FP_NAN;
                        case 4: return c == FP_NORMAL;
                        default: return c == FP_SUBNORMAL;
                      }
                    }));
    return Flow::next;
  };
}

}  // namespace

std::initializer_list<DecodeEntry> sign_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {
      {"abs", decode_sign<false>}, {"neg", decode_sign<true>},    {"min", decode_extreme},
      {"max", decode_extreme},     {"copysign", decode_copysign}, {"testp", decode_testp}};
  return all;
}

}  // namespace ptxsim
