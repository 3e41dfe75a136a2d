// SPDX-License-Identifier: Apache-2.0
// fp32 and fp64 arithmetic of the host, which is IEEE 754's, on 32 lanes.
#pragma once

#include <bit>
#include <cfenv>
#include <cmath>

#include "engine/lanes.h"
#include "opcodes/numbers.h"
#include "tensor/formats.h"

namespace ptxsim {

inline constexpr uint32_t kNan32 = 0x7fffffff;  // what arithmetic on NaN gives

struct FloatForm {
  int rounding = FE_TONEAREST;
  bool ftz = false, sat = false, relu = false;
  Format format = Format::f16;  // of 16-bit types
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
template <Arithmetic kOp, typename T>
Flow compute_nearest(Warp& w, const Op& op, const T* a, const T* b, const T* c) {
  const auto& f = *static_cast<const FloatForm*>(op.form);
  if (std::is_same_v<T, float> && f.ftz)
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
template <Arithmetic kOp, typename T>
Flow compute_directed(Warp& w, const Op& op, const T* a, const T* b, const T* c) {
  const auto& f = *static_cast<const FloatForm*>(op.form);
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

template <Arithmetic kOp, typename T, int kSources>
Flow run_float(Warp& w, const Op& op) {
  const T *a = w.lanes<T>(op.slot[1]), *b = w.lanes<T>(op.slot[kSources > 1 ? 2 : 1]),
          *c = w.lanes<T>(op.slot[kSources > 2 ? 3 : 1]);
  return static_cast<const FloatForm*>(op.form)->rounding == FE_TONEAREST
             ? compute_nearest<kOp>(w, op, a, b, c)
             : compute_directed<kOp>(w, op, a, b, c);
}

inline int take_rounding(Decode& d, bool required) {
  static constexpr int kModes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  const int mode = required ? d.mods.require_one_of({"rn", "rz", "rm", "rp"})
                            : d.mods.take_one_of({"rn", "rz", "rm", "rp"});
  return kModes[mode < 0 ? 0 : mode];
}

}  // namespace ptxsim
