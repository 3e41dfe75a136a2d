// SPDX-License-Identifier: Apache-2.0
// The matrix product under every CPU kernel: C = A·B or C += A·B with fp32 accumulation, one
// thread.
//
//   A (m,k)  row-major, k contiguous, used where it lies, no padding asked for
//   B (k,n)  packed into panels of kPanel columns by pack_rows / pack_columns
//   C (m,n)  fp32, row-major; written in whole panels, so ldc >= n rounded up to kPanel
//
// Operand<T> is what the ISA multiplies: bf16 where it has a bf16 dot product or tiles
// (AVX512-BF16, AMX), fp32 everywhere else, so bf16 data gains precision on older machines rather
// than losing it. A panel is [k / kPairs][kPanel][kPairs]: the layout of vdpbf16ps and of an AMX B
// tile alike. Missing columns and the last k are zeros, and A is never read past k, so no stray NaN
// can enter.
//
// Each element of C is one chain of additions over k in order (AMX: in pairs), in fp32 a sum of
// chains of kChain, for any m and n, so how a product is cut into calls along m and n does not
// change its bits.
#pragma once

#include "core/cpu/simd.h"

namespace ww::WW_ISA {
namespace {

#if defined(__AVX512BF16__)
template <typename T> struct OperandOf { using type = float; };
template <> struct OperandOf<bf16_t> { using type = bf16_t; };
#else
template <typename T> struct OperandOf { using type = float; };
#endif
template <typename T> using Operand = typename OperandOf<T>::type;

// Register block: kRows x kPanel accumulators, and room for one broadcast and a panel row.
constexpr int kPanelVectors = 2;
constexpr int kPanel = kPanelVectors * kLanes;                  // 32, 16, 8 columns
constexpr int kRows = kLanes == 16 ? 12 : kLanes == 8 ? 6 : 4;  // 24, 12, 8 accumulators

template <typename Op>
constexpr int kPairs = sizeof(Op) == 2 ? 2 : 1;
#if defined(__AMX_BF16__)
template <typename Op>
constexpr int kDepth = sizeof(Op) == 2 ? 32 : 1;  // k of one tile
#else
template <typename Op>
constexpr int kDepth = kPairs<Op>;
#endif

constexpr int64_t round_up(int64_t v, int64_t to) { return (v + to - 1) / to * to; }

template <typename Op>
constexpr int64_t packed_depth(int64_t k) {
  return round_up(k, kDepth<Op>);
}
template <typename Op>
constexpr int64_t packed_size(int64_t k, int64_t n) {
  return packed_depth<Op>(k) * round_up(n, kPanel);
}

template <typename To, typename From>
WW_INLINE To convert(From v) {
  if constexpr (sizeof(To) == sizeof(From))
    return bitcast<To>(v);
  else
    return from_float<To>(to_float(v));
}

// One panel row pair from up to kPairs source rows; a null row reads as zeros.
template <typename Op, typename T>
WW_INLINE void interleave(const T* row0, const T* row1, float scale0, float scale1, int n,
                          Op* dst) {
  if constexpr (kPairs<Op> == 1) {
    for (int j = 0; j < kPanel; j += kLanes) {
      const int lanes = n - j >= kLanes ? kLanes : n - j;
      store(dst + j, lanes > 0 ? load(row0 + j, lanes) * scale0 : F32{});
    }
  } else {
    for (int j = 0; j < kPanel; j += kLanes) {
      const int lanes = n - j >= kLanes ? kLanes : n - j;
      F32 lo{}, hi{};
      if (lanes > 0) lo = load(row0 + j, lanes) * scale0;
      if (lanes > 0 && row1) hi = load(row1 + j, lanes) * scale1;
      const U32 pair = narrow_bf16_pairs(lo, hi);
      memcpy(dst + 2 * j, &pair, sizeof pair);
    }
  }
}

// B(k,n) = scale[k] * src[k * stride + n]; scale may be null. The product with scale is rounded
// once.
template <typename Op, typename T>
inline void pack_rows(const T* src, int64_t stride, const float* scale, int64_t k, int64_t n,
                      Op* dst) {
  const int64_t depth = packed_depth<Op>(k);
  for (int64_t j = 0; j < n; j += kPanel) {
    const int live = int(n - j < kPanel ? n - j : kPanel);
    for (int64_t i = 0; i < depth; i += kPairs<Op>, dst += kPanel * kPairs<Op>) {
      if (i >= k) {
        memset(dst, 0, kPanel * kPairs<Op> * sizeof(Op));
        continue;
      }
      const T* row0 = src + i * stride + j;
      const T* row1 = i + 1 < k ? row0 + stride : nullptr;
      const float scale0 = scale ? scale[i] : 1.f, scale1 = scale && row1 ? scale[i + 1] : 1.f;
      interleave<Op>(row0, row1, scale0, scale1, live, dst);
    }
  }
}

// kLanes operands in a row, or as many pairs, as the 32-bit lanes of a panel row.
template <typename Op, typename T>
WW_INLINE F32 load_units(const T* src) {
  if constexpr (kPairs<Op> == 1)
    return load(src);
  else if constexpr (sizeof(T) == 2) {
    F32 pairs;
    memcpy(&pairs, src, sizeof pairs);
    return pairs;
  } else {
    Op narrow[2 * kLanes];
    store(narrow, load(src));
    store(narrow + kLanes, load(src + kLanes));
    return bitcast<F32>(narrow);
  }
}

// B(k,n) = row(n)[k]: the columns of B are rows in memory, k contiguous; row(n) gives their
// addresses.
template <typename Op, typename Row>
inline void pack_columns(const Row& row, int64_t k, int64_t n, Op* dst) {
  constexpr int kUnit = kPairs<Op>, kStep = kLanes * kUnit;  // k covered by one transpose
  const int64_t depth = packed_depth<Op>(k);
  for (int64_t j = 0; j < n; j += kPanel, dst += depth * kPanel) {
    for (int c = 0; c < kPanel; c += kLanes) {
      const int64_t left = n - j - c;
      const int live = int(left < 0 ? 0 : left < kLanes ? left : kLanes);
      int64_t i = 0;
      for (; i + kStep <= k; i += kStep)
        transpose([&](int r) { return r < live ? load_units<Op>(row(j + c + r) + i) : F32{}; },
                  reinterpret_cast<float*>(dst + i * kPanel + c * kUnit), kPanel);
      for (int r = 0; r < kLanes; ++r) {  // the last of k, and the padding
        Op* column = dst + (c + r) * kUnit;
        for (int64_t q = i; q < depth; ++q)
          column[q / kUnit * kUnit * kPanel + q % kUnit] =
              r < live && q < k ? convert<Op>(row(j + c + r)[q]) : Op{};
      }
    }
  }
}

// acc += a * b over one step of k (two for bf16 pairs).
WW_INLINE F32 broadcast_step(const float* a) { return splat(*a); }
WW_INLINE F32 madd(F32 acc, F32 a, const float* b) { return mul_add(a, load(b), acc); }

#if defined(__AVX512BF16__)
WW_INLINE I32 broadcast_step(const bf16_t* a) {
  int32_t pair;
  memcpy(&pair, a, sizeof pair);
  return splat(pair);
}
WW_INLINE F32 madd(F32 acc, I32 a, const bf16_t* b) {
  return F32(_mm512_dpbf16_ps(__m512(acc), __m512bh(a), __m512bh(_mm512_loadu_si512(b))));
}
#endif

// What is added to C at a time. The rounding error of fp32 operands grows with the length of a
// chain and would pass twice that of a library's product at some hundred; a new one costs a load
// and an addition.
template <typename Op>
constexpr int64_t kChain = sizeof(Op) == 4 ? 32 : INT64_MAX;

// Memory to bring to L2 during products: `lines` cache lines for every 32x32 of A until `end`, in
// the order of their addresses, since rows side by side would ask DRAM for many pages at once. Only
// tiles do it; nothing else computes fast enough to wait for memory.
struct Fetch {
  const char *from = nullptr, *end = nullptr;
  int lines = 0;
};

template <int M, typename Op>
inline void register_block(int64_t k, const Op* a, int64_t lda, const Op* b, float* c, int64_t ldc,
                           bool accumulate) {
  constexpr int kStep = kPairs<Op>, kBases = (M + 2) / 3;
  // Three rows share a pointer, as [base], [base + lda], [base + 2 lda]: twelve would spill.
  const Op* base[kBases];
  for (int i = 0; i < kBases; ++i) base[i] = a + 3 * i * lda;
  constexpr bool kAddLast = kChain<Op> < INT64_MAX;
  F32 acc[M][kPanelVectors];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVectors; ++v)
      acc[i][v] = accumulate && !kAddLast ? load(c + i * ldc + v * kLanes) : F32{};
  }
  int64_t p = 0;
  for (; p + kStep <= k; p += kStep, b += kPanel * kStep) {
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const auto ai = broadcast_step(base[i / 3] + i % 3 * lda);
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v)
        acc[i][v] = madd(acc[i][v], ai, b + v * kLanes * kStep);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kBases; ++i) base[i] += kStep;
  }
  if (p < k) {  // odd k with pairs: the missing half of B is zero, that of A must be too
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const Op last[2] = {base[i / 3][i % 3 * lda], Op{}};
      const auto ai = broadcast_step(last);
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v)
        acc[i][v] = madd(acc[i][v], ai, b + v * kLanes * kStep);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVectors; ++v) {
      float* to = c + i * ldc + v * kLanes;
      store(to, accumulate && kAddLast ? load(to) + acc[i][v] : acc[i][v]);
    }
  }
}

template <int M, typename Op>
inline void row_tail(int64_t m, int64_t k, const Op* a, int64_t lda, const Op* b, float* c,
                     int64_t ldc, bool accumulate) {
  if constexpr (M > 0) {
    if (m == M) return register_block<M>(k, a, lda, b, c, ldc, accumulate);
    row_tail<M - 1>(m, k, a, lda, b, c, ldc, accumulate);
  }
}

template <typename Op>
inline void panel_product(int64_t m, int64_t k, const Op* a, int64_t lda, const Op* b, float* c,
                          int64_t ldc, bool accumulate, Fetch&) {
  do {
    const int64_t depth = k < kChain<Op> ? k : kChain<Op>;
    int64_t i = 0;
    for (; i + kRows <= m; i += kRows)
      register_block<kRows>(depth, a + i * lda, lda, b, c + i * ldc, ldc, accumulate);
    row_tail<kRows - 1>(m - i, depth, a + i * lda, lda, b, c + i * ldc, ldc, accumulate);
    k -= depth, a += depth, b += depth * kPanel;
    accumulate = true;
  } while (k > 0);
}

#if defined(__AMX_BF16__)

// Tiles 0-3 hold C as 2x2 blocks of 16x16, 4-5 two blocks of A rows, 6-7 two halves of a B panel.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
};

// GCC's tile loads do not tell the compiler that they read memory: without this, stores to A, B or
// C that it can still see (the padded tail below, a packed panel) are dropped or moved past the
// load.
WW_INLINE void publish_stores() { __asm__ volatile("" ::: "memory"); }

inline void configure_tiles(int m) {  // m rows of A, 1 to 32
  TileConfig config;
  const uint8_t upper = uint8_t(m < 16 ? m : 16), lower = uint8_t(m - upper);
  const uint8_t rows[8] = {upper, upper, lower, lower, upper, lower, 16, 16};
  for (int t = 0; t < 8; ++t) {
    if (rows[t] == 0) continue;
    config.rows[t] = rows[t];
    config.bytes_per_row[t] = 64;
  }
  // GCC's _tile_loadconfig says that it reads 8 bytes, and stores to the others are dropped.
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

// kLower: the block has more than 16 rows.
template <bool kLower>
WW_INLINE void tile_steps(int64_t steps, const bf16_t* a, int64_t lda, const bf16_t* b,
                          Fetch& fetch) {
  const int lines = fetch.from < fetch.end ? fetch.lines : 0;
  const char* from = fetch.from;
  fetch.from += steps * lines * 64;
  for (int64_t s = 0; s < steps; ++s, a += 32, b += 32 * kPanel) {
    for (int i = 0; i < lines; ++i, from += 64) __builtin_prefetch(from, 0, 2);
    _tile_loadd(4, a, lda * 2);
    _tile_loadd(6, b, kPanel * 4);
    _tile_loadd(7, b + 32, kPanel * 4);
    if constexpr (kLower) _tile_loadd(5, a + 16 * lda, lda * 2);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kLower) {
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
}

template <bool kLower>
inline void tile_block(int m, int64_t k, const bf16_t* a, int64_t lda, const bf16_t* b, float* c,
                       int64_t ldc, bool accumulate, Fetch& fetch) {
  if (accumulate) {
    _tile_loadd(0, c, ldc * 4);
    _tile_loadd(1, c + 16, ldc * 4);
    if constexpr (kLower) {
      _tile_loadd(2, c + 16 * ldc, ldc * 4);
      _tile_loadd(3, c + 16 * ldc + 16, ldc * 4);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kLower) {
      _tile_zero(2);
      _tile_zero(3);
    }
  }
  const int64_t steps = k / 32;
  tile_steps<kLower>(steps, a, lda, b, fetch);
  if (k % 32) {  // the last columns of A, padded with zeros
    alignas(64) bf16_t tail[32][32] = {};
    for (int i = 0; i < m; ++i) memcpy(tail[i], a + i * lda + steps * 32, size_t(k % 32) * 2);
    publish_stores();
    tile_steps<kLower>(1, &tail[0][0], 32, b + steps * 32 * kPanel, fetch);
  }
  _tile_stored(0, c, ldc * 4);
  _tile_stored(1, c + 16, ldc * 4);
  if constexpr (kLower) {
    _tile_stored(2, c + 16 * ldc, ldc * 4);
    _tile_stored(3, c + 16 * ldc + 16, ldc * 4);
  }
}

template <>
inline void panel_product<bf16_t>(int64_t m, int64_t k, const bf16_t* a, int64_t lda,
                                  const bf16_t* b, float* c, int64_t ldc, bool accumulate,
                                  Fetch& fetch) {
  publish_stores();
  int64_t i = 0;
  if (m >= 32) configure_tiles(32);
  for (; i + 32 <= m; i += 32)
    tile_block<true>(32, k, a + i * lda, lda, b, c + i * ldc, ldc, accumulate, fetch);
  const int rest = int(m - i);
  if (rest > 0) {
    configure_tiles(rest);
    if (rest > 16)
      tile_block<true>(rest, k, a + i * lda, lda, b, c + i * ldc, ldc, accumulate, fetch);
    else
      tile_block<false>(rest, k, a + i * lda, lda, b, c + i * ldc, ldc, accumulate, fetch);
  }
  _tile_release();  // tile state makes every context switch of the thread save 8 KiB
}

#endif

// b_depth is the k that B was packed with; a smaller k uses its first k rows.
template <typename Op>
inline void matmul(int64_t m, int64_t n, int64_t k, const Op* a, int64_t lda, const Op* packed_b,
                   int64_t b_depth, float* c, int64_t ldc, bool accumulate, Fetch& fetch) {
  const int64_t panel_size = packed_depth<Op>(b_depth) * kPanel;
  for (int64_t j = 0; j < n; j += kPanel, packed_b += panel_size)
    panel_product<Op>(m, k, a, lda, packed_b, c + j, ldc, accumulate, fetch);
}

template <typename Op>
inline void matmul(int64_t m, int64_t n, int64_t k, const Op* a, int64_t lda, const Op* packed_b,
                   int64_t b_depth, float* c, int64_t ldc, bool accumulate) {
  Fetch nothing;
  matmul(m, n, k, a, lda, packed_b, b_depth, c, ldc, accumulate, nothing);
}

}  // namespace
}  // namespace ww::WW_ISA
