// SPDX-License-Identifier: Apache-2.0
// Lane-wise instructions as templates: a scalar function becomes one that works on 32 lanes under
// the mask. Full masks run as straight vector loops; partial ones compute all lanes and blend, so a
// scalar function must be defined for every input.
#pragma once

#include <bit>
#include <cstring>

#include "engine/decode.h"

namespace ptxsim {

template <typename T, typename F>
inline void write_lanes(const Warp& w, T* out, const F& f) {
  if (w.mask == kAllLanes) {
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) out[l] = f(l);
    return;
  }
  T value[kLanes];
#pragma GCC ivdep
  for (int l = 0; l < kLanes; ++l) value[l] = f(l);
#pragma GCC ivdep
  for (int l = 0; l < kLanes; ++l) out[l] = (w.mask >> l) & 1 ? value[l] : out[l];
}

template <typename F>
inline uint32_t lane_mask(const F& f) {
  uint32_t mask = 0;
  for (int l = 0; l < kLanes; ++l) mask |= uint32_t(bool(f(l))) << l;
  return mask;
}

inline void write_predicate(Warp& w, uint32_t slot, uint32_t value) {
  uint32_t& p = w.predicate(slot);
  p = (p & ~w.mask) | (value & w.mask);
}

template <typename F>
inline void for_active(uint32_t mask, const F& f) {
  for (; mask; mask &= mask - 1) f(std::countr_zero(mask));
}

// The first of each set of active lanes that are alike.
template <typename F>
inline uint32_t distinct_lanes(uint32_t mask, const F& alike) {
  uint32_t first = mask;
  for_active(mask, [&](int l) {
    for_active(first & ((1u << l) - 1), [&](int before) {
      if (alike(before, l)) first &= ~(1u << l);
    });
  });
  return first;
}

template <typename R, typename A, auto F>
Flow run_unary(Warp& w, const Op& op) {
  const A* a = w.lanes<A>(op.slot[1]);
  write_lanes(w, w.lanes<R>(op.slot[0]), [&](int l) { return R(F(a[l])); });
  return Flow::next;
}

template <typename R, typename A, typename B, auto F>
Flow run_binary(Warp& w, const Op& op) {
  const A* a = w.lanes<A>(op.slot[1]);
  const B* b = w.lanes<B>(op.slot[2]);
  write_lanes(w, w.lanes<R>(op.slot[0]), [&](int l) { return R(F(a[l], b[l])); });
  return Flow::next;
}

template <typename R, typename A, typename B, typename C, auto F>
Flow run_ternary(Warp& w, const Op& op) {
  const A* a = w.lanes<A>(op.slot[1]);
  const B* b = w.lanes<B>(op.slot[2]);
  const C* c = w.lanes<C>(op.slot[3]);
  write_lanes(w, w.lanes<R>(op.slot[0]), [&](int l) { return R(F(a[l], b[l], c[l])); });
  return Flow::next;
}

using Run = Flow (*)(Warp&, const Op&);

// The instance of a template over the C++ type of a PTX type; null where `type` is not among them.
template <template <typename> typename Pick>
Run pick_integer(ptx::Type type) {
  switch (type) {
    case ptx::Type::u16:
    case ptx::Type::b16: return Pick<uint16_t>::run;
    case ptx::Type::s16: return Pick<int16_t>::run;
    case ptx::Type::u32:
    case ptx::Type::b32: return Pick<uint32_t>::run;
    case ptx::Type::s32: return Pick<int32_t>::run;
    case ptx::Type::u64:
    case ptx::Type::b64: return Pick<uint64_t>::run;
    case ptx::Type::s64: return Pick<int64_t>::run;
    default: return nullptr;
  }
}

// d, a, b, ... all of the size of `type`.
inline void decode_same(Decode& d, int bytes, int sources) {
  d.expect_operands(sources + 1, sources + 1);
  d.op.slot[0] = d.out(0, bytes);
  for (int i = 1; i <= sources; ++i) d.op.slot[i] = d.in(i, bytes);
}

}  // namespace ptxsim
