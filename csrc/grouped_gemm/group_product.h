// SPDX-License-Identifier: Apache-2.0
// Weights times the tokens of a group, block by block: what grouped_gemm, moe_mlp and latent_moe
// are made of. For per-ISA files.
//
// The product is computed transposed, C[n][token] = sum_k weight[n][k] * token[k]: weight rows are
// the A operand in their own order, and only the tokens are packed, once a group. A group of few
// tokens is bound by reading the weights; it takes dot products along k over weights and tokens as
// they lie.
#pragma once

#include "core/cpu/matmul.h"
#include "core/cpu/parallel.h"
#include "grouped_gemm/group_plan.h"

namespace ww::WW_ISA {
namespace {

constexpr int kBlockN = 64;  // weight rows of a task: two tile blocks, 8 KiB of C
constexpr int kDotTile = 4;  // weight rows x tokens of one register block of dots

struct alignas(64) ProductBlock { float c[kBlockN][kTokenUnit]; };

template <typename Op>
constexpr int64_t unit_size(int64_t k) {
  return packed_depth<Op>(k) * kTokenUnit;
}

// --- Few tokens ---

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

// N x M dot products along k; each has its own chain of additions, whatever N and M are.
template <int N, int M, typename T, typename Row>
inline void dots(const T* weight, int64_t ldw, const Row& token, int64_t k, float* c) {
  const T *w[N], *x[M];
  F32 acc[N][M];
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    w[n] = weight + n * ldw;
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
      __builtin_prefetch(w[n] + N * ldw + i, 0, 3);
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
      c[n * kTokenUnit + m] = total;
    }
  }
}

template <int N, typename T, typename Row>
inline void dots_of(int64_t m, const T* weight, int64_t ldw, const Row& token, int64_t k,
                    float* c) {
  switch (m) {
    case 1: return dots<N, 1>(weight, ldw, token, k, c);
    case 2: return dots<N, 2>(weight, ldw, token, k, c);
    case 3: return dots<N, 3>(weight, ldw, token, k, c);
    default: return dots<N, kDotTile>(weight, ldw, token, k, c);
  }
}

// token(t) is the address of the k values of token t of the group.
template <typename T, typename Row>
inline void product_by_dots(const T* weight, int64_t ldw, int rows, const Row& token,
                            int64_t tokens, int64_t k, ProductBlock& block) {
  for (int n = 0; n < rows; n += kDotTile)
    for (int64_t t = 0; t < tokens; t += kDotTile) {
      const auto row = [&](int m) { return token(t + m); };
      const int64_t live = tokens - t < kDotTile ? tokens - t : kDotTile;
      if (rows - n >= kDotTile) {
        dots_of<kDotTile>(live, weight + n * ldw, ldw, row, k, &block.c[n][t]);
        continue;
      }
      for (int r = n; r < rows; ++r)
        dots_of<1>(live, weight + r * ldw, ldw, row, k, &block.c[r][t]);
    }
}

// --- Many tokens ---

#if defined(__AMX_BF16__)
template <typename T>
constexpr bool kInPlace = sizeof(T) == 2;
#else
template <typename T>
constexpr bool kInPlace = false;
#endif

// Weight rows as matmul's A operand. Tiles take them where they lie and fetch the block after it
// meanwhile. Otherwise they are copied first, which streams them from memory in order as the
// product itself would not, and widened where the ISA has no bf16 product; the odd stride (in cache
// lines) keeps rows whose length is a power of two from fighting for the same cache sets.
template <typename T>
struct WeightRows {
  const Operand<T>* rows;
  int64_t stride;
  Fetch next;
};

template <typename T>
constexpr int64_t staged_stride(int64_t k) {
  return round_up(k, 64 / sizeof(Operand<T>)) + 64 / sizeof(Operand<T>);
}
template <typename T>
constexpr size_t staged_bytes(int64_t k) {
  return kInPlace<T> ? 0 : size_t(kBlockN * staged_stride<T>(k)) * sizeof(Operand<T>);
}

// For products with `tokens` tokens, over all of which the fetching is spread.
template <typename T>
inline WeightRows<T> weight_rows(const T* weight, int64_t ldw, int rows, int64_t k, int64_t tokens,
                                 void* staged) {
  if constexpr (kInPlace<T>) {
    WeightRows<T> out{weight, ldw, {}};
    if (ldw == k) {
      const int64_t units = (tokens + kTokenUnit - 1) / kTokenUnit;
      const char* next = reinterpret_cast<const char*>(weight + rows * ldw);
      out.next = {next, next + rows * k * int64_t(sizeof(T)), int((32 + units - 1) / units)};
    }
    return out;
  } else {
    const int64_t stride = staged_stride<T>(k);
    Operand<T>* copy = static_cast<Operand<T>*>(staged);
    for (int r = 0; r < rows; ++r) {
      if constexpr (sizeof(Operand<T>) == sizeof(T))
        memcpy(copy + r * stride, weight + r * ldw, size_t(k) * sizeof(T));
      else
        for_lanes(k, [&](int64_t i, int lanes) {
          store(copy + r * stride + i, load(weight + r * ldw + i, lanes), lanes);
        });
    }
    return {copy, stride, {}};
  }
}

// block (+)= weights · the tokens of one unit.
template <typename T>
inline void unit_product(WeightRows<T>& weight, int rows, int64_t tokens, int64_t k,
                         const Operand<T>* packed, bool accumulate, ProductBlock& block) {
  matmul(rows, tokens, k, weight.rows, weight.stride, packed, k, block.c[0], kTokenUnit, accumulate,
         weight.next);
}

// Packs the tokens of every unit; token(i) is the address of sorted row i.
template <typename Op, typename Row>
inline void pack_units(const GroupPlan& plan, const Row& token, int64_t k, Op* packed) {
  parallel_tasks(plan.num_units, kTokenUnit * k, [&](int64_t u) {
    const TokenUnit& unit = plan.units[u];
    pack_columns<Op>([&](int64_t i) { return token(unit.begin + i); }, k, unit.rows,
                     packed + u * unit_size<Op>(k));
  });
}

// --- Results ---

WW_INLINE F32 relu2(F32 v) {
  const F32 positive = v < 0.f ? F32{} : v;  // not max(): a NaN stays one
  return positive * positive;
}

// f(t, n, values, lanes) over the block as rows of tokens: values holds C[n .. n + lanes)[t].
template <typename F>
inline void for_each_token_row(const ProductBlock& block, int rows, int64_t tokens, const F& f) {
  alignas(64) float row[kTokenUnit][kBlockN];
  for (int n = 0; n < rows; n += kLanes)
    for (int t = 0; t < tokens; t += kLanes)
      transpose([&](int r) { return load(&block.c[n + r][t]); }, &row[t][n], kBlockN);
  for (int t = 0; t < tokens; ++t)
    for_lanes(rows, [&](int64_t n, int lanes) { f(t, n, load(&row[t][n]), lanes); });
}

template <bool kRelu2, typename T>
inline void store_tokens(const ProductBlock& block, int rows, int64_t tokens, T* out,
                         int64_t stride) {
  for_each_token_row(block, rows, tokens, [&](int t, int64_t n, F32 v, int lanes) {
    store(out + t * stride + n, kRelu2 ? relu2(v) : v, lanes);
  });
}

}  // namespace
}  // namespace ww::WW_ISA
