// SPDX-License-Identifier: Apache-2.0
// Random words, one implementation for CPU and CUDA: a lane has a counter to itself, an integer of
// a CUDA thread or one of a CPU's vector. `L` says which:
//
//   L::U  uint32_t, or a vector of them, or of wider integers of which the lower 32 bits count
//   L::multiply(U a, uint32_t b, U& high, U& low)  the halves of a * b
//
// Rounding v to fp16 stochastically takes the 13 bits that fp16 has not:
//
//   u    = the low 13 bits of half n % 8 of the words at the counter row * ceil(N / 8) + n / 8,
//          half 2 j being the lower one of word j, for element n of a row of N
//   |v| -> |v| + u * 2^-13 * step, truncated to a multiple of step, the distance of fp16 at |v|
//
// So it goes up with the probability of the way there, exactly where fp16 is normal, and cut to 13
// bits below 2^-14. What is finite saturates at 65504. A word serves two elements as it does in
// cvt.rs.satfinite.f16x2.f32 of sm_100a.
#pragma once

#include "core/numerics.h"

#if defined(__CUDA_ARCH__)
#define WW_UNROLL _Pragma("unroll")
#elif defined(__CUDACC__)  // nvcc's host pass knows neither pragma
#define WW_UNROLL
#else
#define WW_UNROLL _Pragma("GCC unroll 16")
#endif
#define WW_LANES WW_HD static inline __attribute__((always_inline))

namespace ww {

// Philox4x32-10 of Salmon et al., SC 2011, at the counter {low, high, 0, 0}.
template <typename L>
WW_LANES void philox(typename L::U low, typename L::U high, uint64_t seed,
                     typename L::U (&word)[4]) {
  using U = typename L::U;
  U c0 = low, c1 = high, c2{}, c3{};
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  WW_UNROLL
  for (int round = 0; round < 10; ++round) {
    U high0, low0, high2, low2;
    L::multiply(c0, 0xd2511f53u, high0, low0);
    L::multiply(c2, 0xcd9e8d57u, high2, low2);
    c0 = high2 ^ c1 ^ k0, c1 = low2, c2 = high0 ^ c3 ^ k1, c3 = low0;
    k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
  }
  word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
}

constexpr int kHalvesOfCounter = 8;
constexpr uint32_t kHalfBits = 0x1fff;  // of a random half
WW_HD static inline int64_t counters_of_row(int64_t N) {
  return (N + kHalvesOfCounter - 1) / kHalvesOfCounter;
}

}  // namespace ww
