// SPDX-License-Identifier: Apache-2.0
// Floating point: PTX ISA 9.7.3 to 9.7.5. fp32 and fp64 are the host's IEEE arithmetic; half types
// are computed in double, rounded to odd there and once to the type, which is the correctly rounded
// result.
#include <cfenv>
#include <cmath>
#include <limits>

#include "engine/lanes.h"
#include "opcodes/numbers.h"
#include "tensor/approx.h"
#include "tensor/convert.h"

namespace ptxsim {

bool decode_integer_form(Decode& d);

namespace {

using ptx::Type;

constexpr uint32_t kNan32 = 0x7fffffff;  // what arithmetic on NaN gives

struct FloatForm {
  int rounding = FE_TONEAREST;
  bool ftz = false, sat = false, relu = false, nan = false, xorsign = false;
  Approx approx{};
  Format format = Format::f16;
};

enum class Arithmetic : uint8_t { add, sub, mul, fma, div, sqrt, rcp };

template <Arithmetic kOp, typename T>
T compute(T a, T b, T c) {
  switch (kOp) {
    case Arithmetic::add: return a + b;
    case Arithmetic::sub: return a - b;
    case Arithmetic::mul: return a * b;
    case Arithmetic::fma: return std::fma(a, b, c);
    case Arithmetic::div: return a / b;
    case Arithmetic::sqrt: return std::sqrt(a);
    case Arithmetic::rcp: return T(1) / a;
  }
  return a;
}

template <typename T>
T finish(const FloatForm& f, T v) {
  if constexpr (std::is_same_v<T, float>) {
    if (f.ftz) v = flush(v);
    if (f.sat) return v > 0.f ? (v < 1.f ? v : 1.f) : 0.f;  // NaN becomes 0
    if (v != v) return std::bit_cast<float>(kNan32);
  }
  return v;
}

// To nearest, in vector loops.
template <Arithmetic kOp, typename T, int kSources>
Flow run_nearest(Warp& w, const Op& op) {
  const auto& f = *static_cast<const FloatForm*>(op.form);
  const T *a = w.lanes<T>(op.slot[1]), *b = w.lanes<T>(op.slot[kSources > 1 ? 2 : 1]),
          *c = w.lanes<T>(op.slot[kSources > 2 ? 3 : 1]);
  const bool ftz = std::is_same_v<T, float> && f.ftz;
  if (ftz)
    write_lanes(w, w.lanes<T>(op.slot[0]), [&](int l) {
      return finish(
          f, compute<kOp>(T(flush(float(a[l]))), T(flush(float(b[l]))), T(flush(float(c[l])))));
    });
  else
    write_lanes(w, w.lanes<T>(op.slot[0]),
                [&](int l) { return finish(f, compute<kOp>(a[l], b[l], c[l])); });
  return Flow::next;
}

// The other roundings, lane by lane; volatile keeps the compiler from computing under another mode.
template <Arithmetic kOp, typename T, int kSources>
Flow run_directed(Warp& w, const Op& op) {
  const auto& f = *static_cast<const FloatForm*>(op.form);
  const T *a = w.lanes<T>(op.slot[1]), *b = w.lanes<T>(op.slot[kSources > 1 ? 2 : 1]),
          *c = w.lanes<T>(op.slot[kSources > 2 ? 3 : 1]);
  T value[kLanes];
  fesetround(f.rounding);
  for (int l = 0; l < kLanes; ++l) {
    const auto read = [&](T v) {
      return std::is_same_v<T, float> && f.ftz ? T(flush(float(v))) : v;
    };
    volatile T x = read(a[l]), y = read(b[l]), z = read(c[l]);
    volatile T v = compute<kOp>(T(x), T(y), T(z));
    value[l] = v;
  }
  fesetround(FE_TONEAREST);
  write_lanes(w, w.lanes<T>(op.slot[0]), [&](int l) { return finish(f, value[l]); });
  return Flow::next;
}

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
  auto one = [&](float x, float y, float z) {
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

int take_rounding(Decode& d, bool required) {
  static constexpr int kModes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  const int mode = required ? d.mods.require_one_of({"rn", "rz", "rm", "rp"})
                            : d.mods.take_one_of({"rn", "rz", "rm", "rp"});
  return kModes[mode < 0 ? 0 : mode];
}

template <Arithmetic kOp, int kSources>
void decode_arithmetic(Decode& d) {
  FloatForm& f = d.form<FloatForm>();
  f.rounding = take_rounding(d, kOp == Arithmetic::fma && d.instruction.opcode == "fma");
  f.ftz = d.mods.take("ftz");
  f.sat = d.mods.take("sat");
  f.relu = kOp == Arithmetic::fma && d.mods.take("relu");
  const Type type = d.mods.type(
      {Type::f32, Type::f64, Type::f16, Type::f16x2, Type::bf16, Type::bf16x2, Type::f32x2});
  const bool nearest = f.rounding == FE_TONEAREST;
  const int bytes = ptx::size_of(type);
  switch (type) {
    case Type::f32:
      d.op.run = nearest ? run_nearest<kOp, float, kSources> : run_directed<kOp, float, kSources>;
      d.op.kind = InstructionClass::float32;
      if (f.relu) d.fail("has .relu with a type that does not take it");
      break;
    case Type::f64:
      d.op.run = nearest ? run_nearest<kOp, double, kSources> : run_directed<kOp, double, kSources>;
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
      if (!nearest || (bf && (f.ftz || f.sat)))
        d.fail("has a modifier that this type does not take");
      f.format = bf ? Format::bf16 : Format::f16;
      d.op.run = bytes == 2 ? run_half<kOp, uint16_t, kSources> : run_half<kOp, uint32_t, kSources>;
      d.op.kind = InstructionClass::half;
    }
  }
  decode_same(d, bytes, kSources);
}

void decode_add(Decode& d) {
  if (!decode_integer_form(d)) decode_arithmetic<Arithmetic::add, 2>(d);
}
void decode_sub(Decode& d) {
  if (!decode_integer_form(d)) decode_arithmetic<Arithmetic::sub, 2>(d);
}
void decode_mul(Decode& d) {
  if (!decode_integer_form(d)) decode_arithmetic<Arithmetic::mul, 2>(d);
}
void decode_mad(Decode& d) {
  if (!decode_integer_form(d)) decode_arithmetic<Arithmetic::fma, 3>(d);
}
void decode_fma(Decode& d) { decode_arithmetic<Arithmetic::fma, 3>(d); }

// --- Division, roots, and the approximate functions ---

template <Arithmetic kOp, int kSources>
void decode_exact(Decode& d, FloatForm& f) {
  f.rounding = take_rounding(d, true);
  f.ftz = d.mods.take("ftz");
  const Type type = d.mods.type({Type::f32, Type::f64});
  if (f.ftz && type == Type::f64) d.fail("has a modifier that .f64 does not take");
  const bool nearest = f.rounding == FE_TONEAREST;
  if (type == Type::f32)
    d.op.run = nearest ? run_nearest<kOp, float, kSources> : run_directed<kOp, float, kSources>;
  else
    d.op.run = nearest ? run_nearest<kOp, double, kSources> : run_directed<kOp, double, kSources>;
  d.op.kind = InstructionClass::special_function;
  decode_same(d, ptx::size_of(type), kSources);
}

void decode_div(Decode& d) {
  if (decode_integer_form(d)) return;
  FloatForm& f = d.form<FloatForm>();
  if (d.mods.take_one_of({"approx", "full"}) >=
      0) {  // rounded once, better than the 2 ulp promised
    f.ftz = d.mods.take("ftz");
    d.mods.type({Type::f32});
    d.op.run = run_nearest<Arithmetic::div, float, 2>;
    d.op.kind = InstructionClass::special_function;
    decode_same(d, 4, 2);
    return;
  }
  decode_exact<Arithmetic::div, 2>(d, f);
}

template <typename T>
Flow run_approx(Warp& w, const Op& op) {
  const auto& f = *static_cast<const FloatForm*>(op.form);
  const T* a = w.lanes<T>(op.slot[1]);
  write_lanes(w, w.lanes<T>(op.slot[0]), [&](int l) -> T {
    if constexpr (std::is_same_v<T, float>)
      return approx_f32(f.approx, a[l], f.ftz);
    else if constexpr (std::is_same_v<T, double>)
      return approx_f64(f.approx, a[l], f.ftz);
    else if constexpr (sizeof(T) == 2)
      return approx_16(f.approx, f.format, a[l], f.ftz);
    else
      return approx_16x2(f.approx, f.format, a[l], f.ftz);
  });
  return Flow::next;
}

template <Approx kFunction>
void decode_approx(Decode& d) {
  FloatForm& f = d.form<FloatForm>();
  f.approx = kFunction;
  d.op.kind = InstructionClass::special_function;
  if (!d.mods.take("approx")) {
    if constexpr (kFunction == Approx::rcp) return decode_exact<Arithmetic::rcp, 1>(d, f);
    if constexpr (kFunction == Approx::sqrt) return decode_exact<Arithmetic::sqrt, 1>(d, f);
    d.fail("exists as .approx only");
  }
  f.ftz = d.mods.take("ftz");
  Type type;
  if (kFunction == Approx::ex2 || kFunction == Approx::tanh)
    type = d.mods.type({Type::f32, Type::f16, Type::f16x2, Type::bf16, Type::bf16x2});
  else if (kFunction == Approx::rcp || kFunction == Approx::rsqrt)
    type = d.mods.type({Type::f32, Type::f64});
  else
    type = d.mods.type({Type::f32});
  switch (type) {
    case Type::f32: d.op.run = run_approx<float>; break;
    case Type::f64: d.op.run = run_approx<double>; break;
    default:
      f.format = type == Type::bf16 || type == Type::bf16x2 ? Format::bf16 : Format::f16;
      d.op.run = ptx::size_of(type) == 2 ? Run(run_approx<uint16_t>) : run_approx<uint32_t>;
  }
  decode_same(d, ptx::size_of(type), 1);
}

// --- Sign, comparison ---

template <typename T, bool kNegate>
Flow run_sign(Warp& w, const Op& op) {  // on the bits: NaN payloads stay
  const auto& f = *static_cast<const FloatForm*>(op.form);
  const T* a = w.lanes<T>(op.slot[1]);
  const T mask = T(op.immediate);
  write_lanes(w, w.lanes<T>(op.slot[0]), [&](int l) {
    T v = a[l];
    if (sizeof(T) == 4 && f.ftz)
      v = T(std::bit_cast<uint32_t>(flush(std::bit_cast<float>(uint32_t(v)))));
    return T(kNegate ? v ^ mask : v & ~mask);
  });
  return Flow::next;
}

template <bool kNegate>
void decode_sign(Decode& d) {
  if (decode_integer_form(d)) return;
  FloatForm& f = d.form<FloatForm>();
  f.ftz = d.mods.take("ftz");
  const Type type =
      d.mods.type({Type::f32, Type::f64, Type::f16, Type::f16x2, Type::bf16, Type::bf16x2});
  const int bytes = ptx::size_of(type);
  const bool pair = type == Type::f16x2 || type == Type::bf16x2;
  d.op.immediate = bytes == 8   ? std::numeric_limits<int64_t>::min()
                   : bytes == 2 ? 0x8000
                   : pair       ? 0x80008000
                                : 0x80000000;
  if (pair && f.ftz) f.ftz = false;  // of halves: subnormals are kept by every card since sm_53
  d.op.run = bytes == 2   ? run_sign<uint16_t, kNegate>
             : bytes == 4 ? run_sign<uint32_t, kNegate>
                          : run_sign<uint64_t, kNegate>;
  d.op.kind = bytes == 8            ? InstructionClass::float64
              : bytes == 4 && !pair ? InstructionClass::float32
                                    : InstructionClass::half;
  decode_same(d, bytes, 1);
}

// A NaN operand loses, unless .NaN lets it win; -0 is below +0.
template <typename T>
T extreme(const FloatForm& f, T a, T b, bool want_max) {
  if (a != a || b != b) {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    return (a != a && b != b) || f.nan ? nan : a != a ? b : a;
  }
  if (a == b) return std::signbit(a) == want_max ? b : a;
  return (a < b) == want_max ? b : a;
}

template <typename T>
T extreme_signed(const FloatForm& f, T a, T b, bool want_max) {
  if (!f.xorsign) return extreme(f, a, b, want_max);
  const bool negative = std::signbit(a) != std::signbit(b);
  const T v = extreme(f, std::fabs(a), std::fabs(b), want_max);
  return negative ? -v : v;
}

Flow run_extreme32(Warp& w, const Op& op) {
  const auto& f = *static_cast<const FloatForm*>(op.form);
  const float *a = w.lanes<float>(op.slot[1]), *b = w.lanes<float>(op.slot[2]),
              *c = w.lanes<float>(op.slot[3]);
  const bool max = op.immediate & 1, three = op.immediate & 2;
  write_lanes(w, w.lanes<float>(op.slot[0]), [&](int l) {
    auto read = [&](float v) { return f.ftz ? flush(v) : v; };
    float v = extreme_signed(f, read(a[l]), read(b[l]), max);
    if (three) v = extreme_signed(f, v, read(c[l]), max);
    return v != v ? std::bit_cast<float>(kNan32) : v;
  });
  return Flow::next;
}

Flow run_extreme64(Warp& w, const Op& op) {
  const auto& f = *static_cast<const FloatForm*>(op.form);
  const double *a = w.lanes<double>(op.slot[1]), *b = w.lanes<double>(op.slot[2]);
  write_lanes(w, w.lanes<double>(op.slot[0]),
              [&](int l) { return extreme_signed(f, a[l], b[l], op.immediate & 1); });
  return Flow::next;
}

template <typename T>
Flow run_extreme16(Warp& w, const Op& op) {
  const auto& f = *static_cast<const FloatForm*>(op.form);
  const T *a = w.lanes<T>(op.slot[1]), *b = w.lanes<T>(op.slot[2]);
  auto one = [&](uint16_t x, uint16_t y) -> uint16_t {
    float u = f.format == Format::f16 ? f16_to_float(x) : bf16_to_float(x);
    float v = f.format == Format::f16 ? f16_to_float(y) : bf16_to_float(y);
    if (f.ftz) u = flush_f16(u), v = flush_f16(v);
    const float r = extreme_signed(f, u, v, op.immediate & 1);
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
  FloatForm& f = d.form<FloatForm>();
  f.ftz = d.mods.take("ftz");
  f.nan = d.mods.take("NaN");
  if (d.mods.take("xorsign")) {
    d.mods.require_one_of({"abs"});
    f.xorsign = true;
  }
  const Type type =
      d.mods.type({Type::f32, Type::f64, Type::f16, Type::f16x2, Type::bf16, Type::bf16x2});
  const int bytes = ptx::size_of(type);
  const bool three = type == Type::f32 && d.operands() == 4;
  d.op.immediate = (d.instruction.opcode == "max" ? 1 : 0) | (three ? 2 : 0);
  f.format = type == Type::bf16 || type == Type::bf16x2 ? Format::bf16 : Format::f16;
  d.op.run = type == Type::f32   ? Run(run_extreme32)
             : type == Type::f64 ? run_extreme64
             : bytes == 2        ? Run(run_extreme16<uint16_t>)
                                 : run_extreme16<uint32_t>;
  d.op.kind = type == Type::f32   ? InstructionClass::float32
              : type == Type::f64 ? InstructionClass::float64
                                  : InstructionClass::half;
  decode_same(d, bytes, three ? 3 : 2);
  if (!three) d.op.slot[3] = d.op.slot[2];
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

// --- cvt, which tensor/convert.h implements ---

struct ConvertOp {
  ConvertForm form;
  uint32_t slots[5] = {};
};

void decode_cvt(Decode& d) {
  auto& c = d.form<ConvertOp>();
  c.form = decode_convert(d.instruction);
  while (!d.mods.peek().empty()) d.mods.take(d.mods.peek());  // decode_convert consumed them all
  std::vector<const ptx::Operand*> sources;
  for (int i = 1; i < d.operands(); ++i) {
    if (d.operand(i).kind == ptx::Operand::Kind::vector)
      for (const ptx::Operand& item : d.operand(i).items) sources.push_back(&item);
    else
      sources.push_back(&d.operand(i));
  }
  if (int(sources.size()) != c.form.sources) d.fail("has another number of sources than it takes");
  int dst_bytes;
  d.op.slot[0] = d.wide_out(d.operand(0), 1, &dst_bytes);
  std::vector<int> bytes;
  for (size_t i = 0; i < sources.size(); ++i) {
    int size;
    c.slots[i] = d.is_register(*sources[i]) ? d.wide(*sources[i], 1, &size)
                                            : d.in(*sources[i], size = c.form.src_bytes[i]);
    bytes.push_back(size);
  }
  c.form.bind(d.instruction.line, dst_bytes, bytes);
  d.op.kind = InstructionClass::convert;
  d.op.run = [](Warp& w, const Op& op) {
    const auto& c = *static_cast<const ConvertOp*>(op.form);
    const void* sources[5];
    for (int i = 0; i < c.form.sources; ++i) sources[i] = w.registers + c.slots[i];
    c.form.run(c.form, w.registers + op.slot[0], sources, w.mask);
    return Flow::next;
  };
}

}  // namespace

std::initializer_list<DecodeEntry> float_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {{"add", decode_add},
                                                         {"sub", decode_sub},
                                                         {"mul", decode_mul},
                                                         {"mad", decode_mad},
                                                         {"fma", decode_fma},
                                                         {"div", decode_div},
                                                         {"abs", decode_sign<false>},
                                                         {"neg", decode_sign<true>},
                                                         {"min", decode_extreme},
                                                         {"max", decode_extreme},
                                                         {"copysign", decode_copysign},
                                                         {"testp", decode_testp},
                                                         {"cvt", decode_cvt},
                                                         {"rcp", decode_approx<Approx::rcp>},
                                                         {"sqrt", decode_approx<Approx::sqrt>},
                                                         {"rsqrt", decode_approx<Approx::rsqrt>},
                                                         {"sin", decode_approx<Approx::sin>},
                                                         {"cos", decode_approx<Approx::cos>},
                                                         {"lg2", decode_approx<Approx::lg2>},
                                                         {"ex2", decode_approx<Approx::ex2>},
                                                         {"tanh", decode_approx<Approx::tanh>}};
  return all;
}

}  // namespace ptxsim
