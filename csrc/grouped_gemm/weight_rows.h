// SPDX-License-Identifier: Apache-2.0
// Rows of Weights, one type a format, and what a product does with them: dot products of a few with
// a few tokens, or decoding to the operands of a matrix product. For per-ISA files.
#pragma once

#include "core/cpu/decode.h"
#include "core/cpu/dispatch.h"
#include "core/cpu/matmul.h"
#include "core/weights.h"
#include "grouped_gemm/digits.h"

namespace ww::WW_ISA {
namespace {

// Codes are decoded times 1 / kUnit, and what a product of them sums is to be multiplied by kUnit.

template <typename T>
struct DenseRows {
  static constexpr bool kIsCoded = false;
  static constexpr float kUnit = 1;
  const T* data;
  int64_t stride;

  static DenseRows of(const Weights& w, int64_t e) {
    return {static_cast<const T*>(w.data) + e * w.stride_e, w.stride_n};
  }
  DenseRows from(int64_t n) const { return {data + n * stride, stride}; }
};

struct E4m3Rows {
  static constexpr bool kIsCoded = true;
  static constexpr float kUnit = kE4m3Unit;
  static constexpr int kBits = 8, kVectors = 4;  // fp32 vectors in a vector of codes
  const uint8_t* data;
  int64_t stride;

  static E4m3Rows of(const Weights& w, int64_t e) {
    return {static_cast<const uint8_t*>(w.data) + e * w.stride_e, w.stride_n};
  }
  E4m3Rows from(int64_t n) const { return {data + n * stride, stride}; }
  E4m3Rows after(int64_t k) const { return {data + k, stride}; }
  U8 nan(int64_t k) const { return nan_bits(data, k); }

  // The next k codes of one row in `codes`, which ends with zeros.
  E4m3Rows copied(int64_t k, uint8_t* codes, uint8_t*) const {
    memcpy(codes, data, size_t(k));
    return {codes, 0};
  }

  // Lane p of vector q of a vector of codes is code index(q, p).
  static constexpr int index(int q, int p) { return e4m3_index(q, p); }
  static WW_INLINE F32 decode(U32 codes, int q) { return e4m3_quarter(codes, q); }
};

struct Nvfp4Rows {
  static constexpr bool kIsCoded = true;
  static constexpr float kUnit = kE4m3Unit;
  static constexpr int kBits = 4, kVectors = 8;
  const uint8_t* data;
  int64_t stride;
  const uint8_t* scales;  // E4M3, of 16 codes each
  int64_t scale_stride;

  static Nvfp4Rows of(const Weights& w, int64_t e) {
    return {static_cast<const uint8_t*>(w.data) + e * w.stride_e, w.stride_n,
            &w.block_scales->bits + e * w.block_stride_e, w.block_stride_n};
  }
  Nvfp4Rows from(int64_t n) const {
    return {data + n * stride, stride, scales + n * scale_stride, scale_stride};
  }
  Nvfp4Rows after(int64_t k) const { return {data + k / 2, stride, scales + k / 16, scale_stride}; }
  U8 nan(int64_t k) const { return nan_bits(scales, k / 16); }

  Nvfp4Rows copied(int64_t k, uint8_t* codes, uint8_t* block_scales) const {
    memcpy(codes, data, size_t(k / 2));
    memcpy(block_scales, scales, size_t(k / 16));
    return {codes, 0, block_scales, 0};
  }

  static constexpr int index(int q, int p) { return 8 * p + q; }
  static WW_INLINE F32 decode(U32 codes, int q) { return e2m1(codes >> unsigned(4 * q)); }
};

// f(Type<Rows>) for the rows of a format next to tokens of type T.
template <typename T, typename F>
inline void dispatch_rows(WeightFormat format, const F& f) {
  switch (format) {
    case WeightFormat::dense: return f(Type<DenseRows<T>>{});
    case WeightFormat::e4m3: return f(Type<E4m3Rows>{});
    case WeightFormat::nvfp4: return f(Type<Nvfp4Rows>{});
  }
}

// --- Dots of dense rows ---

template <typename T>
struct Dot {
  static constexpr int kStep = kLanes;
  static WW_INLINE F32 add(F32 acc, const T* a, const T* b) {
    return mul_add(load(a), load(b), acc);
  }
};
#if defined(__AVX512BF16__)
template <>
struct Dot<bf16_t> {
  static constexpr int kStep = 2 * kLanes;
  static WW_INLINE F32 add(F32 acc, const bf16_t* a, const bf16_t* b) {
    return F32(_mm512_dpbf16_ps(__m512(acc), __m512bh(_mm512_loadu_si512(a)),
                                __m512bh(_mm512_loadu_si512(b))));
  }
};
#endif

// c[m * ldc + n] = row n · token(m), N x M of them; each has its own chain of additions, whatever N
// and M are.
template <int N, int M, typename T, typename Token>
inline void dots(const DenseRows<T>& weight, const Token& token, int64_t k, float* c, int64_t ldc) {
  const T *w[N], *x[M];
  F32 acc[N][M];
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    w[n] = weight.data + n * weight.stride;
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      x[m] = token(m);
      acc[n][m] = F32{};
    }
  }
  int64_t i = 0;
  for (; i + Dot<T>::kStep <= k; i += Dot<T>::kStep) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      __builtin_prefetch(w[n] + N * weight.stride + i, 0, 3);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) acc[n][m] = Dot<T>::add(acc[n][m], w[n] + i, x[m] + i);
    }
  }
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      float total = sum(acc[n][m]);
      for (int64_t q = i; q < k; ++q) total += to_float(w[n][q]) * to_float(x[m][q]);
      c[m * ldc + n] = total;
    }
  }
}

// --- Dots of coded rows ---

// Codes are decoded where they are in their vector, with one shift for all lanes, which gives them
// in an order of their own. So tokens are put into that order and widened to fp32, once a call. Dot
// products of bf16 pairs would be half as many instructions, of four times the cost (measured on
// Sapphire Rapids). A bf16 token of NVFP4 rows becomes digits instead, where the ISA multiplies
// bytes: 20 instructions for 128 codes instead of 28.

template <typename Rows>
constexpr int64_t kCodes = 8 * WW_VECTOR_BYTES / Rows::kBits;  // in a vector
template <typename Rows>
constexpr bool kTakesDigits = kHasDigits && Rows::kBits == 4;

// Elements of an arranged token, the last vector of which says whether it is digits; none for dense
// rows, which take tokens as they lie.
template <typename Rows>
constexpr int64_t arranged_size(int64_t k) {
  if constexpr (Rows::kIsCoded)
    return round_up(k, kCodes<Rows>) + (kTakesDigits<Rows> ? kLanes : 0);
  else
    return 0;
}

template <typename Rows>
inline bool is_digits(const float* token, int64_t k) {
  return kTakesDigits<Rows> && token[arranged_size<Rows>(k) - kLanes] != 0;
}

template <typename Rows, typename T>
inline void arrange_floats(const T* row, int64_t k, float* out) {
  int64_t i = 0;
#if defined(__AVX512F__)
  if constexpr (Rows::kBits == 4)  // two vectors of codes are a square: one by one costs 5 times it
    for (; i + 256 <= k; i += 256, out += 256)
      transpose(
          [&](int p) {
            const T* from = row + i + 8 * p;
            return F32(_mm512_mask_blend_ps(0xff00, __m512(load(from)), __m512(load(from + 120))));
          },
          out, kLanes);
#endif
  for (; i < k; i += kCodes<Rows>, out += kCodes<Rows>) {
    T codes[kCodes<Rows>] = {};
    memcpy(codes, row + i, size_t(k - i < kCodes<Rows> ? k - i : kCodes<Rows>) * sizeof(T));
    for (int q = 0; q < Rows::kVectors; ++q)
      for (int p = 0; p < kLanes; ++p) out[q * kLanes + p] = to_float(codes[Rows::index(q, p)]);
  }
}

template <typename Rows, typename T>
inline void arrange(const T* row, int64_t k, float* out) {
  arrange_floats<Rows>(row, k, out);
  if constexpr (kTakesDigits<Rows>) {
    bool digits = false;
    if constexpr (sizeof(T) == 2) {
      digits = to_digits(out, round_up(k, kCodes<Rows>));
      if (!digits) arrange_floats<Rows>(row, k, out);
    }
    out[arranged_size<Rows>(k) - kLanes] = digits;
  }
}

// total += the products of one vector of codes with arranged tokens.
template <int M>
WW_INLINE void add_products(const E4m3Rows&, U32 codes, const float* const* x, const float*,
                            F32 (*total)[E4m3Rows::kVectors]) {
#pragma GCC unroll 4
  for (int q = 0; q < E4m3Rows::kVectors; ++q) {
    const F32 values = E4m3Rows::decode(codes, q);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) total[m][q] = mul_add(values, load(x[m] + q * kLanes), total[m][q]);
  }
}

// A block of 16 codes fills two lanes of their sum, so one product with its scale does for all.
template <int M>
WW_INLINE void add_products(const Nvfp4Rows&, U32 codes, const float* const* x, const float* scales,
                            F32 (*total)[Nvfp4Rows::kVectors]) {
  F32 part[M];
#pragma GCC unroll 8
  for (int q = 0; q < Nvfp4Rows::kVectors; ++q) {
    const F32 values = Nvfp4Rows::decode(codes, q);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const F32 token = load(x[m] + q * kLanes);
      part[m] = q == 0 ? values * token : mul_add(values, token, part[m]);
    }
  }
  const F32 scale = in_pairs(load(scales));
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) total[m][0] = mul_add(part[m], scale, total[m][0]);
}

constexpr int64_t kRun = 4096;    // codes whose scales are decoded ahead of them: 1 KiB
constexpr int64_t kAhead = 4096;  // bytes from a code to what is prefetched: 300 ns of decoding

inline void decode_scales(const uint8_t* scales, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes)
    store(out + i, e4m3(load_first<Bytes>(scales + i, n - i < kLanes ? n - i : kLanes)));
}

// One coded row with arranged tokens, all of them digits or none. Row after row is one stream
// through memory, which the core fetches ahead; several at once are streams too close for that.
template <bool kDigits, int M, typename Rows, typename Token>
inline void coded_dots(const Rows& weight, const Token& token, int64_t k, float* c, int64_t ldc) {
  const float* x[M];
  F32 total[M][Rows::kVectors] = {};
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) x[m] = token(m);
  const uint8_t* w = weight.data;
  for (int64_t begin = 0; begin < k; begin += kRun) {
    const int64_t size = k - begin < kRun ? k - begin : kRun;
    float scales[kRun / 16 + kLanes];
    if constexpr (Rows::kBits == 4) decode_scales(weight.scales + begin / 16, size / 16, scales);
    const auto step = [&](int64_t i, U32 codes) __attribute__((always_inline)) {
      if constexpr (kDigits)
        add_digit_products<M>(codes, x, in_pairs(load(scales + i / 16)), total);
      else
        add_products<M>(weight, codes, x, scales + i / 16, total);
      w += WW_VECTOR_BYTES;
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) x[m] += kCodes<Rows>;
    };
    int64_t i = 0;
    for (; i + kCodes<Rows> < size; i += kCodes<Rows>) {
      __builtin_prefetch(w + kAhead, 0, 3);
      U32 codes;
      memcpy(&codes, w, sizeof codes);
      __asm__("" : "+v"(codes));  // or GCC loads them for every shift again, often across two lines
      step(i, codes);
    }
    step(i, load_first<U32>(w, (size - i) * Rows::kBits / 8));
  }
  const bool is_nan = any(weight.nan(k));
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) {
    F32 all = total[m][0];
    if constexpr (Rows::kBits == 8) all = (all + total[m][1]) + (total[m][2] + total[m][3]);
    c[m * ldc] = is_nan ? __builtin_nanf("") : sum(all);
  }
}

// The same as for dense rows, N = 1.
template <int N, int M, typename Rows, typename Token>
inline void dots(const Rows& weight, const Token& token, int64_t k, float* c, int64_t ldc) {
  static_assert(N == 1);
  if constexpr (kTakesDigits<Rows>) {
    int digits = 0;
    for (int m = 0; m < M; ++m) digits += is_digits<Rows>(token(m), k);
    if (digits == M) return coded_dots<true, M>(weight, token, k, c, ldc);
    for (int m = 0; m < M && digits > 0; ++m) {
      const auto one = [&](int) { return token(m); };
      is_digits<Rows>(token(m), k) ? coded_dots<true, 1>(weight, one, k, c + m * ldc, ldc)
                                   : coded_dots<false, 1>(weight, one, k, c + m * ldc, ldc);
    }
    if (digits > 0) return;
  }
  coded_dots<false, M>(weight, token, k, c, ldc);
}

// --- Decoding, in the order of memory ---

constexpr int kChunk = 256;  // codes decoded at a time

template <typename Op>
WW_INLINE void decode_chunk(const E4m3Rows& weight, Op* out) {
  if constexpr (sizeof(Op) == 4) {
    for (int i = 0; i < kChunk; i += kLanes)
      store(out + i, e4m3(load_first<Bytes>(weight.data + i, kLanes)));
  } else {
#if defined(__AVX512BF16__)
    for (int i = 0; i < kChunk; i += 32) {
      const auto bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight.data + i));
      _mm512_storeu_si512(out + i, e4m3_bf16(_mm512_cvtepu8_epi16(bytes)));
    }
#endif
  }
}

template <typename Op>
WW_INLINE void decode_chunk(const Nvfp4Rows& weight, Op* out) {
  float scales[kChunk / 16];
  for (int i = 0; i < kChunk / 16; i += kLanes)
    store(scales + i, e4m3(load_first<Bytes>(weight.scales + i, kLanes)));
  if constexpr (sizeof(Op) == 4) {
    U32 shift{};
    for (int l = 0; l < kLanes; ++l) shift[l] = 4 * (l % 8);
    for (int i = 0; i < kChunk; i += kLanes) {
      uint32_t words[2] = {};
      memcpy(words, weight.data + i / 2, kLanes / 2);
      U32 codes = U32{} + words[0];
      for (int l = 8; l < kLanes; ++l) codes[l] = words[1];
      store(out + i, e2m1(codes >> shift) * scales[i / 16]);
    }
  } else {
#if defined(__AVX512BF16__)
    // A byte is the pair of codes of a 32-bit lane; their products are exact in bf16, so the lower
    // halves are zeros and nothing is rounded.
    __m512i block = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    for (int i = 0; i < kChunk; i += 32) {
      const auto bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(weight.data + i / 2));
      const U32 codes = U32(_mm512_cvtepu8_epi32(bytes));
      const F32 scale = F32(_mm512_permutexvar_ps(block, __m512(load(scales))));
      const U32 even = bitcast<U32>(e2m1(codes) * scale),
                odd = bitcast<U32>(e2m1(codes >> 4) * scale);
      _mm512_storeu_si512(out + i, __m512i((even >> 16) | odd));
      block = _mm512_add_epi32(block, _mm512_set1_epi32(2));
    }
#endif
  }
}

// k values times 1 / kUnit; Op is fp32, or bf16 where products take that.
template <typename Rows, typename Op>
inline void decode_row(const Rows& weight, int64_t k, Op* out) {
  int64_t i = 0;
  Rows at = weight;
  for (; i + kChunk <= k; i += kChunk) {
    decode_chunk(at, out + i);
    at = at.after(kChunk);
  }
  if (i < k) {
    uint8_t codes[kChunk] = {}, scales[kChunk / 16] = {};
    Op values[kChunk];
    decode_chunk(at.copied(k - i, codes, scales), values);
    memcpy(out + i, values, size_t(k - i) * sizeof(Op));
  }
  if (any(weight.nan(k))) out[0] = from_float<Op>(__builtin_nanf(""));
}

}  // namespace
}  // namespace ww::WW_ISA
