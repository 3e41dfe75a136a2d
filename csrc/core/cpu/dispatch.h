// SPDX-License-Identifier: Apache-2.0
// Runtime value -> compile-time constant. There is no silent default: a miss throws ww::Error with
// the value and the list of what was instantiated. Never call these inside a parallel region.
#pragma once

#include "core/types.h"

namespace ww {

[[noreturn]] void dispatch_miss(const char* what, int64_t value, const int64_t* supported, int n);

template <typename T>
struct Type {
  using type = T;
};

template <int V>
struct Int {
  static constexpr int value = V;
};

template <typename... Ts, typename F>
static inline void dispatch_dtype(DType dtype, F&& f) {
  const bool hit = ((dtype == dtype_of<Ts> ? (f(Type<Ts>{}), true) : false) || ...);
  const int64_t supported[] = {int64_t(dtype_of<Ts>)...};
  if (!hit) dispatch_miss("dtype", int64_t(dtype), supported, sizeof...(Ts));
}

template <int... Vs, typename F>
static inline void dispatch_int(const char* what, int64_t value, F&& f) {
  const bool hit = ((value == Vs ? (f(Int<Vs>{}), true) : false) || ...);
  const int64_t supported[] = {Vs...};
  if (!hit) dispatch_miss(what, value, supported, sizeof...(Vs));
}

template <typename F>
static inline void dispatch_bool(bool value, F&& f) {
  value ? f(Int<1>{}) : f(Int<0>{});
}

}  // namespace ww
