// SPDX-License-Identifier: Apache-2.0
// Random words, one implementation for CPU and CUDA: a lane has a counter to itself, an integer of
// a CUDA thread or one of a CPU's vector. `L` says which:
//
//   L::U  uint32_t, or a vector of them, or of wider integers of which the lower 32 bits count
//   L::multiply(U a, uint32_t b, U& high, U& low)  the halves of a * b
//   L::mix(U a, U b, uint32_t key)                 a ^ b ^ key
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

struct PhiloxKeys {
  uint32_t low[10], high[10];  // of each round
};
WW_HD static inline PhiloxKeys philox_keys(uint64_t seed) {
  PhiloxKeys keys;
  WW_UNROLL
  for (uint32_t i = 0; i < 10; ++i) {
    keys.low[i] = uint32_t(seed) + i * 0x9e3779b9u;
    keys.high[i] = uint32_t(seed >> 32) + i * 0xbb67ae85u;
  }
  return keys;
}

// Philox4x32-10 of Salmon et al., SC 2011, at the counters {low[i], high, 0, 0}. A round is a chain
// of eight cycles, so a CPU wants several counters.
template <typename L, int n>
WW_LANES void philox(const typename L::U (&low)[n], typename L::U high, const PhiloxKeys& keys,
                     typename L::U (&word)[n][4]) {
  using U = typename L::U;
  WW_UNROLL
  for (int i = 0; i < n; ++i) {  // the first round, of which half is zero
    U product;
    L::multiply(low[i], 0xd2511f53u, product, word[i][3]);
    word[i][0] = high ^ keys.low[0], word[i][1] = U{}, word[i][2] = product ^ keys.high[0];
  }
#if defined(__CUDACC__)  // a CPU would decode more than it has time for
  WW_UNROLL
#endif
  for (int round = 1; round < 10; ++round) {
    WW_UNROLL
    for (int i = 0; i < n; ++i) {
      U(&c)[4] = word[i];
      U high0, low0, high2, low2;
      L::multiply(c[0], 0xd2511f53u, high0, low0);
      L::multiply(c[2], 0xcd9e8d57u, high2, low2);
      c[0] = L::mix(high2, c[1], keys.low[round]), c[1] = low2;
      c[2] = L::mix(high0, c[3], keys.high[round]), c[3] = low0;
    }
  }
}

constexpr int kHalvesOfCounter = 8;
constexpr uint32_t kHalfBits = 0x1fff;  // of a random half
WW_HD static inline int64_t counters_of_row(int64_t N) {
  return (N + kHalvesOfCounter - 1) / kHalvesOfCounter;
}

}  // namespace ww
