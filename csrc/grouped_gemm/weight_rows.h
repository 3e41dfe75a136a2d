// SPDX-License-Identifier: Apache-2.0
// Rows of Weights, one type a format, and what a product does with them: dot products of a few with
// a few tokens, or decoding to the operands of a matrix product. For per-ISA files.
#pragma once

#include "core/cpu/decode.h"
#include "core/cpu/dispatch.h"
#include "core/cpu/matmul.h"
#include "core/weights.h"

namespace ww::WW_ISA {
namespace {

// Op is the operand that the other side of the product has, and codes are decoded to. Tokens are
// what dots take them as: Token, in memory order if dense, else as arrange() leaves them.

template <typename T>
struct DenseRows {
  using Token = T;
  static constexpr bool kIsCoded = false;
  const T* data;
  int64_t stride;

  static DenseRows of(const Weights& w, int64_t e) {
    return {static_cast<const T*>(w.data) + e * w.stride_e, w.stride_n};
  }
  DenseRows from(int64_t n) const { return {data + n * stride, stride}; }
};

template <typename Op>
struct E4m3Rows {
  using Token = Op;
  static constexpr bool kIsCoded = true;
  static constexpr int kBits = 8;
  const uint8_t* data;
  int64_t stride;

  static E4m3Rows of(const Weights& w, int64_t e) {
    return {static_cast<const uint8_t*>(w.data) + e * w.stride_e, w.stride_n};
  }
  E4m3Rows from(int64_t n) const { return {data + n * stride, stride}; }
  WW_INLINE E4m3Rows at(int64_t k) const { return {data + k, stride}; }
  bool has_nan(int64_t k) const { return WW_ISA::has_nan(data, k); }
};

template <typename Op>
struct Nvfp4Rows {
  using Token = Op;
  static constexpr bool kIsCoded = true;
  static constexpr int kBits = 4;
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
  WW_INLINE Nvfp4Rows at(int64_t k) const {
    return {data + k / 2, stride, scales + k / 16, scale_stride};
  }
  bool has_nan(int64_t k) const { return WW_ISA::has_nan(scales, k / 16); }
};

// f(Type<Rows>) for the rows of a format next to tokens of type T.
template <typename T, typename F>
inline void dispatch_rows(WeightFormat format, const F& f) {
  switch (format) {
    case WeightFormat::dense: return f(Type<DenseRows<T>>{});
    case WeightFormat::e4m3: return f(Type<E4m3Rows<Operand<T>>>{});
    case WeightFormat::nvfp4: return f(Type<Nvfp4Rows<Operand<T>>>{});
  }
}

// The last k codes of N rows, and zeros up to Bytes.
template <int N, int Bytes>
struct LastCodes {
  alignas(64) uint8_t data[N][Bytes] = {};
  alignas(64) uint8_t scales[N][Bytes / 8] = {};

  template <typename Op>
  E4m3Rows<Op> take(const E4m3Rows<Op>& w, int64_t k) {
    for (int n = 0; n < N; ++n) memcpy(data[n], w.data + n * w.stride, size_t(k));
    return {data[0], Bytes};
  }
  template <typename Op>
  Nvfp4Rows<Op> take(const Nvfp4Rows<Op>& w, int64_t k) {
    for (int n = 0; n < N; ++n) {
      memcpy(data[n], w.data + n * w.stride, size_t(k / 2));
      memcpy(scales[n], w.scales + n * w.scale_stride, size_t(k / 16));
    }
    return {data[0], Bytes, scales[0], Bytes / 8};
  }
};

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

// c[n * ldc + m] = row n · token(m), N x M of them; each has its own chain of additions, whatever N
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
      c[n * ldc + m] = total;
    }
  }
}

// --- Dots of coded rows ---

// A vector of codes is cut into pieces of the size of an operand, kParts codes each. Shifted right
// by q codes, the pieces begin with the codes q, q + kParts, q + 2 kParts .., which decode in one
// step. So it is the tokens that are put into that order, once, and codes are never unpacked.
template <typename Rows>
struct Coded {
  using Op = typename Rows::Token;
  static constexpr int kParts = int(8 * sizeof(Op)) / Rows::kBits;
  static constexpr int kPieces = WW_VECTOR_BYTES / int(sizeof(Op));
  static constexpr int kStep = kParts * kPieces;

  static WW_INLINE auto decode(U32 codes, int q) {
#if defined(__AVX512BF16__)
    if constexpr (sizeof(Op) == 2) {
      const __m512i shifted = _mm512_srli_epi16(__m512i(codes), unsigned(q * Rows::kBits));
      if constexpr (Rows::kBits == 4)
        return e2m1_bf16(shifted);
      else
        return e4m3_bf16(shifted);
    } else
#endif
        if constexpr (Rows::kBits == 4)
      return e2m1(codes >> unsigned(q * 4));
    else
      return e4m3(codes >> unsigned(q * 8));
  }
};

// Elements of an arranged token; none for dense rows, which take tokens as they lie.
template <typename Rows>
constexpr int64_t arranged_size(int64_t k) {
  if constexpr (Rows::kIsCoded)
    return round_up(k, Coded<Rows>::kStep);
  else
    return 0;
}

template <typename Rows, typename T>
inline void arrange(const T* row, int64_t k, typename Rows::Token* out) {
  using C = Coded<Rows>;
  int64_t i = 0;
  for (; i + C::kStep <= k; i += C::kStep, out += C::kStep)
    for (int q = 0; q < C::kParts; ++q)
      for (int p = 0; p < C::kPieces; ++p)
        out[q * C::kPieces + p] = convert<typename C::Op>(row[i + p * C::kParts + q]);
  if (i < k) {
    T last[C::kStep] = {};
    memcpy(last, row + i, size_t(k - i) * sizeof(T));
    arrange<Rows>(last, C::kStep, out);
  }
}

// total += the products of one vector of codes of each row; x are arranged tokens.
template <int N, int M, typename Op>
WW_INLINE void add_step(const E4m3Rows<Op>& weight, const Op* const* x, F32 (*total)[M]) {
  using C = Coded<E4m3Rows<Op>>;
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    U32 codes;
    memcpy(&codes, weight.data + n * weight.stride, sizeof codes);
    __builtin_prefetch(weight.data + (n + N) * weight.stride, 0, 3);
#pragma GCC unroll 4
    for (int q = 0; q < C::kParts; ++q) {
      const auto values = C::decode(codes, q);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) total[n][m] = madd(total[n][m], values, x[m] + q * C::kPieces);
    }
  }
}

// A block of 16 E2M1 codes fills two lanes of the partial sum, so one scale after it does for all.
template <int N, int M, typename Op>
WW_INLINE void add_step(const Nvfp4Rows<Op>& weight, const Op* const* x, F32 (*total)[M]) {
  using C = Coded<Nvfp4Rows<Op>>;
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    U32 codes;
    memcpy(&codes, weight.data + n * weight.stride, sizeof codes);
    __builtin_prefetch(weight.data + (n + N) * weight.stride, 0, 3);
    F32 part[M] = {};
#pragma GCC unroll 8
    for (int q = 0; q < C::kParts; ++q) {
      const auto values = C::decode(codes, q);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) part[m] = madd(part[m], values, x[m] + q * C::kPieces);
    }
    const F32 scale = e4m3_in_pairs(weight.scales + n * weight.scale_stride);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) total[n][m] = mul_add(part[m], scale, total[n][m]);
  }
}

template <int N, int M, typename Rows, typename Token>
inline void dots(const Rows& weight, const Token& token, int64_t k, float* c, int64_t ldc) {
  using C = Coded<Rows>;
  constexpr float kUnit = Rows::kBits == 4 ? 0x1p8f : 1.f;  // e4m3_in_pairs() is scaled
  const typename Rows::Token* x[M];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) x[m] = token(m);
  F32 total[N][M] = {};
  int64_t i = 0;
  for (; i + C::kStep <= k; i += C::kStep) {
    add_step<N, M>(weight.at(i), x, total);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) x[m] += C::kStep;
  }
  if (i < k) {
    LastCodes<N, WW_VECTOR_BYTES> last;
    add_step<N, M>(last.take(weight.at(i), k - i), x, total);
  }
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    const bool is_nan = weight.from(n).has_nan(k);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m)
      c[n * ldc + m] = is_nan ? __builtin_nanf("") : sum(total[n][m]) * kUnit;
  }
}

// --- Decoding, in the order of memory ---

constexpr int kChunk = 256;  // codes decoded at a time: 16 blocks

template <typename Op>
WW_INLINE void decode_chunk(const E4m3Rows<Op>& weight, Op* out) {
#if defined(__AVX512BF16__)
  if constexpr (sizeof(Op) == 2) {
    for (int i = 0; i < kChunk; i += 32) {
      const auto bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight.data + i));
      const I32 values = e4m3_bf16(_mm512_cvtepu8_epi16(bytes));
      memcpy(out + i, &values, sizeof values);
    }
    return;
  }
#endif
  using U8 = uint8_t __attribute__((vector_size(kLanes)));
  for (int i = 0; i < kChunk; i += kLanes) {
    U8 bytes;
    memcpy(&bytes, weight.data + i, sizeof bytes);
    store(out + i, e4m3(__builtin_convertvector(bytes, U32)));
  }
}

template <typename Op>
WW_INLINE void decode_chunk(const Nvfp4Rows<Op>& weight, Op* out) {
#if defined(__AVX512BF16__)
  if constexpr (sizeof(Op) == 2) {
    const auto widen = [](const uint8_t* bytes) {
      return U32(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes))));
    };
    const __m512 scales = __m512(e4m3(widen(weight.scales)));
    __m512i block = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    for (int i = 0; i < kChunk; i += 32) {
      const U32 codes = widen(weight.data + i / 2);
      const F32 scale = F32(_mm512_permutexvar_ps(block, scales));
      const U32 even = bitcast<U32>(e2m1(codes) * scale),  // exact in bf16, so cutting is enough
          odd = bitcast<U32>(e2m1(codes >> 4) * scale);
      const U32 pairs = (even >> 16) | (odd & 0xffff0000u);
      memcpy(out + i, &pairs, sizeof pairs);
      block = _mm512_add_epi32(block, _mm512_set1_epi32(2));
    }
    return;
  }
#endif
  U32 shift;
  for (int l = 0; l < kLanes; ++l) shift[l] = 4 * (l % 8);
  for (int i = 0; i < kChunk; i += 16) {
    const F32 scale = splat(to_float(e4m3_t{weight.scales[i / 16]}));
    for (int j = 0; j < 16; j += kLanes) {
      uint32_t words[2];
      memcpy(words, weight.data + (i + j) / 2, kLanes / 2);
      U32 codes = U32{} + words[0];
      if constexpr (kLanes == 16)
        for (int l = 8; l < 16; ++l) codes[l] = words[1];
      store(out + i + j, e2m1(codes >> shift) * scale);
    }
  }
}

template <typename Rows>
inline void decode_row(const Rows& weight, int64_t k, typename Rows::Token* out) {
  using Op = typename Rows::Token;
  int64_t i = 0;
  for (; i + kChunk <= k; i += kChunk) decode_chunk(weight.at(i), out + i);
  if (i < k) {
    LastCodes<1, kChunk * Rows::kBits / 8> last;
    Op values[kChunk];
    decode_chunk(last.take(weight.at(i), k - i), values);
    memcpy(out + i, values, size_t(k - i) * sizeof(Op));
  }
  if (weight.has_nan(k)) out[0] = from_float<Op>(__builtin_nanf(""));
}

}  // namespace
}  // namespace ww::WW_ISA
