// SPDX-License-Identifier: Apache-2.0
// Division, roots and the approximate functions: PTX ISA 9.7.3 to 9.7.5.
#include "opcodes/float.h"
#include "opcodes/integer.h"
#include "tensor/approx.h"

namespace ptxsim {
namespace {

using ptx::Type;

template <Arithmetic kOp, int kSources>
void decode_exact(Decode& d, FloatForm& f) {
  f.rounding = take_rounding(d, true);
  f.ftz = d.mods.take("ftz");
  const Type type = d.mods.type({Type::f32, Type::f64});
  if (f.ftz && type == Type::f64) d.fail("has a modifier that .f64 does not take");
  d.op.run = type == Type::f32 ? run_float<kOp, float, kSources> : run_float<kOp, double, kSources>;
  d.op.kind = InstructionClass::special_function;
  decode_same(d, ptx::size_of(type), kSources);
}

void decode_div(Decode& d) {
  if (decode_integer_form(d)) return;
  FloatForm& f = d.form<FloatForm>();
  // Rounded once, better than the 2 ulp promised.
  if (d.mods.take_one_of({"approx", "full"}) < 0) return decode_exact<Arithmetic::div, 2>(d, f);
  f.ftz = d.mods.take("ftz");
  d.mods.type({Type::f32});
  d.op.run = run_float<Arithmetic::div, float, 2>;
  d.op.kind = InstructionClass::special_function;
  decode_same(d, 4, 2);
}

struct ApproxForm {
  Approx approx;
  bool ftz;
  Format format = Format::f16;
};

template <typename T>
Flow run_approx(Warp& w, const Op& op) {
  const auto& f = *static_cast<const ApproxForm*>(op.form);
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

// Which functions have which types, without and with .ftz.
bool exists(Approx function, Type type, bool ftz) {
  switch (type) {
    case Type::f32: return function != Approx::tanh || !ftz;
    case Type::f64: return function == Approx::rsqrt || (function == Approx::rcp && ftz);
    case Type::f16:
    case Type::f16x2: return (function == Approx::ex2 || function == Approx::tanh) && !ftz;
    case Type::bf16:
    case Type::bf16x2: return ftz ? function == Approx::ex2 : function == Approx::tanh;
    default: return false;
  }
}

template <Approx kFunction>
void decode_approx(Decode& d) {
  d.op.kind = InstructionClass::special_function;
  if (!d.mods.take("approx")) {
    if constexpr (kFunction == Approx::rcp)
      return decode_exact<Arithmetic::rcp, 1>(d, d.form<FloatForm>());
    if constexpr (kFunction == Approx::sqrt)
      return decode_exact<Arithmetic::sqrt, 1>(d, d.form<FloatForm>());
    d.fail("exists as .approx only");
  }
  ApproxForm& f = d.form<ApproxForm>();
  f.approx = kFunction;
  f.ftz = d.mods.take("ftz");
  const Type type =
      d.mods.type({Type::f32, Type::f64, Type::f16, Type::f16x2, Type::bf16, Type::bf16x2});
  if (!exists(kFunction, type, f.ftz)) d.fail("does not exist");
  switch (type) {
    case Type::f32: d.op.run = run_approx<float>; break;
    case Type::f64: d.op.run = run_approx<double>; break;
    default:
      f.format = type == Type::bf16 || type == Type::bf16x2 ? Format::bf16 : Format::f16;
      d.op.run = ptx::size_of(type) == 2 ? run_approx<uint16_t> : run_approx<uint32_t>;
  }
  decode_same(d, ptx::size_of(type), 1);
}

}  // namespace

std::initializer_list<DecodeEntry> function_opcodes() {
  static const std::initializer_list<DecodeEntry> all = {{"div", decode_div},
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
