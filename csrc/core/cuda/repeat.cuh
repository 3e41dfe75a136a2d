// SPDX-License-Identifier: Apache-2.0
// Loops over constants, for what must be one in an instruction: offsets, and which registers.
#pragma once

#include <utility>

namespace ww {

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
  __device__ constexpr operator int() const { return kValue; }
};

template <typename F, int... kIndices>
__device__ inline void repeat(F&& f, std::integer_sequence<int, kIndices...>) {
  (f(Constant<kIndices>{}), ...);
}
// f(0), f(1), .. f(kCount - 1) with Constants: decltype(i)::value is one where an expression must
// be.
template <int kCount, typename F>
__device__ inline void repeat(F&& f) {
  repeat(f, std::make_integer_sequence<int, kCount>{});
}

}  // namespace ww
