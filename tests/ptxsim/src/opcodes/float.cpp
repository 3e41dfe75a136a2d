// SPDX-License-Identifier: Apache-2.0
// Sums and products of floats: PTX ISA 9.7.3 to 9.7.5. fp32 and fp64 are the host's arithmetic;
// half types are computed in double, rounded to odd there and once to the type, which is the
// correctly rounded result.
#include "opcodes/float.h"

#include "opcodes/integer.h"

namespace ptxsim {
namespace {

using ptx::Type;

// x + y rounded to odd: the error, if any, goes into the last bit, so that a later rounding to
// fewer bits sees on which side of a tie the exact sum lies.
double add_odd(double x, double y) {
  const double sum = x + y;
  if (!std::isfinite(sum)) return sum;
  const double back = sum - x, error = (x - (sum - back)) + (y - back);
  if (error == 0 || (std::bit_cast<uint64_t>(sum) & 1)) return sum;
  return std::nextafter(sum, error > 0 ? INFINITY : -INFINITY);
}

template <Arithmetic kOp>
uint16_t compute_half(const FloatForm& f, uint16_t a, uint16_t b, uint16_t c) {
  const double smallest = f.format == Format::f16 ? 0x1p-14 : 0x1p-126;
  auto read = [&](uint16_t v) {
    const double x = decode(f.format, v);
    return f.ftz && std::fabs(x) < smallest ? std::copysign(0.0, x) : x;
  };
  const double x = read(a), y = read(b), z = read(c);
  double v;
  if constexpr (kOp == Arithmetic::add)
    v = add_odd(x, y);
  else if constexpr (kOp == Arithmetic::sub)
    v = add_odd(x, -y);
  else if constexpr (kOp == Arithmetic::mul)
    v = x * y;
  else
    v = add_odd(x * y, z);
  if (f.sat) v = v > 0 ? std::fmin(v, 1.0) : 0.0;
  EncodeOptions options;
  options.relu = f.relu;
  uint64_t code = encode(f.format, v, options);
  if (f.ftz && std::fabs(decode(f.format, code)) < smallest) code &= 0x8000;
  return uint16_t(code);
}

template <Arithmetic kOp, typename T, int kSources>
Flow run_half(Warp& w, const Op& op) {
  const auto& f = *static_cast<const FloatForm*>(op.form);
  const T *a = w.lanes<T>(op.slot[1]), *b = w.lanes<T>(op.slot[2]),
          *c = w.lanes<T>(op.slot[kSources > 2 ? 3 : 1]);
  write_lanes(w, w.lanes<T>(op.slot[0]), [&](int l) -> T {
    const uint16_t low = compute_half<kOp>(f, uint16_t(a[l]), uint16_t(b[l]), uint16_t(c[l]));
    if constexpr (sizeof(T) == 2) return low;
    return T(low | uint32_t(compute_half<kOp>(f, uint16_t(a[l] >> 16), uint16_t(b[l] >> 16),
                                              uint16_t(c[l] >> 16)))
                       << 16);
  });
  return Flow::next;
}

// Two fp32 in a 64-bit register.
template <Arithmetic kOp, int kSources>
Flow run_pair(Warp& w, const Op& op) {
  const auto& f = *static_cast<const FloatForm*>(op.form);
  struct Pair { float x, y; };
  const Pair *a = w.lanes<Pair>(op.slot[1]), *b = w.lanes<Pair>(op.slot[2]),
             *c = w.lanes<Pair>(op.slot[kSources > 2 ? 3 : 1]);
  const auto one = [&](float x, float y, float z) {
    if (f.ftz) x = flush(x), y = flush(y), z = flush(z);
    return finish(f, compute<kOp>(x, y, z));
  };
  fesetround(f.rounding);
  write_lanes(w, w.lanes<Pair>(op.slot[0]), [&](int l) {
    return Pair{one(a[l].x, b[l].x, c[l].x), one(a[l].y, b[l].y, c[l].y)};
  });
  fesetround(FE_TONEAREST);
  return Flow::next;
}

// fp32 sums with 16-bit operands, which are fp32 values.
template <Arithmetic kOp, int kSources>
Flow run_mixed(Warp& w, const Op& op) {
  const auto& f = *static_cast<const FloatForm*>(op.form);
  float wide[2][kLanes];
  for (int i = 0; i < kSources - 1; ++i) {
    const uint16_t* from = w.lanes<uint16_t>(op.slot[1 + i]);
    for (int l = 0; l < kLanes; ++l)
      wide[i][l] = f.format == Format::f16 ? f16_to_float(from[l]) : bf16_to_float(from[l]);
  }
  const float* last = w.lanes<float>(op.slot[kSources]);
  const float* second = kSources > 2 ? wide[1] : last;
  return f.rounding == FE_TONEAREST ? compute_nearest<kOp>(w, op, wide[0], second, last)
                                    : compute_directed<kOp>(w, op, wide[0], second, last);
}

template <Arithmetic kOp, int kSources>
void decode_mixed(Decode& d, FloatForm& f) {
  if (f.ftz || f.relu || kOp == Arithmetic::mul)
    d.fail("has a modifier that sums of mixed types do not take");
  const Type type = d.mods.type({Type::f16, Type::bf16});
  f.format = type == Type::f16 ? Format::f16 : Format::bf16;
  d.expect_operands(kSources + 1, kSources + 1);
  d.op.slot[0] = d.out(0, 4);
  for (int i = 1; i < kSources; ++i) d.op.slot[i] = d.in(i, 2);
  d.op.slot[kSources] = d.in(kSources, 4);
  d.op.run = run_mixed<kOp, kSources>;
  d.op.kind = InstructionClass::float32;
}

template <Arithmetic kOp, int kSources>
void decode_arithmetic(Decode& d) {
  FloatForm& f = d.form<FloatForm>();
  f.rounding = take_rounding(d, kOp == Arithmetic::fma);
  f.ftz = d.mods.take("ftz");
  f.sat = d.mods.take("sat");
  f.relu = kOp == Arithmetic::fma && !f.sat && d.mods.take("relu");
  const Type type = d.mods.type(
      {Type::f32, Type::f64, Type::f16, Type::f16x2, Type::bf16, Type::bf16x2, Type::f32x2});
  const int bytes = ptx::size_of(type);
  switch (type) {
    case Type::f32:
      if (!d.mods.peek().empty()) return decode_mixed<kOp, kSources>(d, f);
      d.op.run = run_float<kOp, float, kSources>;
      d.op.kind = InstructionClass::float32;
      if (f.relu) d.fail("has .relu with a type that does not take it");
      break;
    case Type::f64:
      d.op.run = run_float<kOp, double, kSources>;
      d.op.kind = InstructionClass::float64;
      if (f.ftz || f.sat || f.relu) d.fail("has a modifier that .f64 does not take");
      break;
    case Type::f32x2:
      d.op.run = run_pair<kOp, kSources>;
      d.op.kind = InstructionClass::float32;
      if (f.sat || f.relu) d.fail("has a modifier that .f32x2 does not take");
      break;
    default: {
      const bool bf = type == Type::bf16 || type == Type::bf16x2;
      if (d.instruction.opcode == "mad" || f.rounding != FE_TONEAREST || (bf && (f.ftz || f.sat)))
        d.fail("has a modifier that this type does not take");
      f.format = bf ? Format::bf16 : Format::f16;
      d.op.run = bytes == 2 ? run_half<kOp, uint16_t, kSources> : run_half<kOp, uint32_t, kSources>;
      d.op.kind = InstructionClass::half;
    }
  }
  if (d.instruction.opcode == "mad" && type == Type::f32x2) d.fail("does not exist");
  decode_same(d, bytes, kSources);
}

template <Arithmetic kOp, int kSources>
void decode_number(Decode& d) {
  if (!decode_integer_form(d)) decode_arithmetic<kOp, kSources>(d);
}

}  // namespace

std::initializer_list<DecodeEntry> float_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {
      {"add", decode_number<Arithmetic::add, 2>},
      {"sub", decode_number<Arithmetic::sub, 2>},
      {"mul", decode_number<Arithmetic::mul, 2>},
      {"mad", decode_number<Arithmetic::fma, 3>},
      {"fma", decode_arithmetic<Arithmetic::fma, 3>}};
  return all;
}

}  // namespace ptxsim
