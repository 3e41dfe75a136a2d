// SPDX-License-Identifier: Apache-2.0
// Weights times the tokens of a group, block by block: what grouped_gemm, moe_mlp and latent_moe
// are made of. For per-ISA files.
//
// The product is computed transposed, C[n][token] = sum_k weight[n][k] * token[k]: weight rows are
// the A operand in their own order, and only the tokens are packed, once a group. A group of few
// tokens is bound by reading the weights; it takes dot products along k over weights as they lie.
#pragma once

#include "core/cpu/parallel.h"
#include "grouped_gemm/group_plan.h"
#include "grouped_gemm/weight_rows.h"

namespace ww::WW_ISA {
namespace {

constexpr int kBlockN = 64;  // weight rows of a task: two tile blocks, 8 KiB of C

struct alignas(64) ProductBlock { float c[kBlockN][kTokenUnit]; };
struct alignas(64) FewBlock {
  float c[kDotRows][kBlockN];
};  // transposed: of at most kDotRows tokens

template <typename Op>
constexpr int64_t unit_size(int64_t k) {
  return packed_depth<Op>(k) * kTokenUnit;
}

// --- Few tokens ---

template <int N, typename Rows, typename Token>
inline void dots_of(int64_t m, const Rows& weight, const Token& token, int64_t k, float* c) {
  static_assert(kDotRows == 4, "a case each");
  switch (m) {
    case 1: return dots<N, 1>(weight, token, k, c, kBlockN);
    case 2: return dots<N, 2>(weight, token, k, c, kBlockN);
    case 3: return dots<N, 3>(weight, token, k, c, kBlockN);
    default: return dots<N, 4>(weight, token, k, c, kBlockN);
  }
}

// token(t) is the address of token t of the group, arranged for the format of the weights.
template <typename Rows, typename Token>
inline void product_by_dots(const Rows& weight, int rows, const Token& token, int64_t tokens,
                            int64_t k, FewBlock& block) {
  constexpr int kTile = Rows::kIsCoded ? 1 : 4;
  int n = 0;
  for (; n + kTile <= rows; n += kTile)
    dots_of<kTile>(tokens, weight.from(n), token, k, &block.c[0][n]);
  for (; n < rows; ++n) dots_of<1>(tokens, weight.from(n), token, k, &block.c[0][n]);
}

// Arranges the tokens of the groups that are not packed, row by row of plan.few; token(i) is the
// address of sorted row i.
template <typename Rows, typename Row>
inline void arrange_few(const GroupPlan& plan, const Row& token, int64_t k, float* out) {
  if constexpr (Rows::kIsCoded)
    parallel_tasks(plan.num_few, k, [&](int64_t i) {
      arrange<Rows>(token(plan.few[i]), k, out + i * arranged_size<Rows>(k));
    });
}

// Token t of a group that is not packed, for product_by_dots.
template <typename Rows, typename Row>
inline auto few_tokens(const Group& group, const Row& token, const float* arranged, int64_t k) {
  return [&group, &token, arranged, k](int64_t t) {
    if constexpr (Rows::kIsCoded)
      return arranged + (group.first_few + t) * arranged_size<Rows>(k);
    else
      return token(group.begin + t);
  };
}

// --- Many tokens ---

template <typename Rows>
constexpr bool is_in_place = false;
#if defined(__AMX_BF16__)
template <>
inline constexpr bool is_in_place<DenseRows<bf16_t>> = true;
#endif

// Weight rows as matmul's A operand. Tiles take dense ones where they lie and fetch the block after
// it meanwhile. Otherwise they are copied first, which streams them from memory in order as the
// product itself would not, and decoded or widened to operands; the odd stride (in cache lines)
// keeps rows whose length is a power of two from fighting for the same cache sets.
template <typename Op>
struct StagedRows {
  const Op* rows;
  int64_t stride;
  Fetch next;
};

template <typename Op>
constexpr int64_t staged_stride(int64_t k) {
  return round_up(k, 64 / sizeof(Op)) + 64 / sizeof(Op);
}
template <typename Rows, typename Op>
constexpr size_t staged_bytes(int64_t k) {
  return is_in_place<Rows> ? 0 : size_t(kBlockN * staged_stride<Op>(k)) * sizeof(Op);
}

// The bytes after those of a block, to be fetched over products with `tokens` tokens.
inline Fetch fetch_of(const void* next, int64_t bytes_of_row, int rows, int64_t k, int64_t tokens) {
  const int64_t units = (tokens + kTokenUnit - 1) / kTokenUnit, steps = (k / 32 + 1) * units;
  const char* from = static_cast<const char*>(next);
  return {from, from + rows * bytes_of_row, int((bytes_of_row / 2 + steps - 1) / steps)};
}

// For products with `tokens` tokens, over all of which the fetching is spread.
template <typename Op, typename T>
inline StagedRows<Op> stage(const DenseRows<T>& weight, int rows, int64_t k, int64_t tokens,
                            void* staged) {
  if constexpr (is_in_place<DenseRows<T>>) {
    StagedRows<Op> out{weight.data, weight.stride, {}};
    if (weight.stride == k)
      out.next = fetch_of(weight.from(rows).data, k * int64_t(sizeof(T)), rows, k, tokens);
    return out;
  } else {
    const int64_t stride = staged_stride<Op>(k);
    Op* copy = static_cast<Op*>(staged);
    for (int r = 0; r < rows; ++r) {
      const T* row = weight.from(r).data;
      if constexpr (sizeof(Op) == sizeof(T))
        memcpy(copy + r * stride, row, size_t(k) * sizeof(T));
      else
        for_lanes(k, [&](int64_t i, int lanes) {
          store(copy + r * stride + i, load(row + i, lanes), lanes);
        });
    }
    return {copy, stride, {}};
  }
}

template <typename Op, typename Rows>
inline StagedRows<Op> stage(const Rows& weight, int rows, int64_t k, int64_t tokens, void* staged) {
  const int64_t stride = staged_stride<Op>(k), bytes = k * Rows::kBits / 8;
  Op* out = static_cast<Op*>(staged);
  for (int r = 0; r < rows; ++r) decode_row(weight.from(r), k, out + r * stride);
  return {
      out, stride,
      weight.stride == bytes ? fetch_of(weight.from(rows).data, bytes, rows, k, tokens) : Fetch{}};
}

// block (+)= weights · the tokens of one unit.
template <typename Op>
inline void unit_product(StagedRows<Op>& weight, int rows, int64_t tokens, int64_t k,
                         const Op* packed, bool accumulate, ProductBlock& block) {
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

// C[n] *= the scale of weight row n0 + n of matrix e, and the unit of its codes.
template <typename Rows>
inline void scale_rows(ProductBlock& block, int rows, int64_t tokens, const Weights& w, int64_t e,
                       int64_t n0) {
  if constexpr (Rows::kIsCoded) {
    for (int n = 0; n < rows; ++n) {
      const float scale = w.scale[e * w.scale_stride_e + (n0 + n) * w.scale_stride_n];
      for (int t = 0; t < tokens; t += kLanes)
        store(&block.c[n][t], load(&block.c[n][t]) * Rows::kUnit * scale);
    }
  }
}

template <typename Rows>
inline void scale_rows(FewBlock& block, int rows, int64_t tokens, const Weights& w, int64_t e,
                       int64_t n0) {
  if constexpr (Rows::kIsCoded) {
    const float* scale = w.scale + e * w.scale_stride_e + n0 * w.scale_stride_n;
    for_lanes(rows, [&](int64_t n, int lanes) {
      const F32 of_rows = w.scale_stride_n ? load(scale + n, lanes) : splat(*scale);
      for (int t = 0; t < tokens; ++t)
        store(&block.c[t][n], load(&block.c[t][n]) * Rows::kUnit * of_rows);
    });
  }
}

// C[..][t] *= the scale of token m0 + t, where tokens are quantised too.
inline void scale_tokens(ProductBlock& block, int rows, int64_t tokens, const Weights& a,
                         int64_t m0) {
  if (!a.scale) return;
  alignas(64) float scale[kTokenUnit] = {};
  for (int t = 0; t < tokens; ++t) scale[t] = a.scale[(m0 + t) * a.scale_stride_n];
  for (int n = 0; n < rows; ++n)
    for (int t = 0; t < tokens; t += kLanes)
      store(&block.c[n][t], load(&block.c[n][t]) * kE4m3Unit * load(scale + t));
}

inline void scale_tokens(FewBlock& block, int rows, int64_t tokens, const Weights& a, int64_t m0) {
  if (!a.scale) return;
  for (int t = 0; t < tokens; ++t)
    for (int n = 0; n < rows; n += kLanes)
      store(&block.c[t][n],
            load(&block.c[t][n]) * kE4m3Unit * splat(a.scale[(m0 + t) * a.scale_stride_n]));
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

template <typename F>
inline void for_each_token_row(const FewBlock& block, int rows, int64_t tokens, const F& f) {
  for (int t = 0; t < tokens; ++t)
    for_lanes(rows, [&](int64_t n, int lanes) { f(t, n, load(&block.c[t][n]), lanes); });
}

template <bool kRelu2, typename Block, typename T>
inline void store_tokens(const Block& block, int rows, int64_t tokens, T* out, int64_t stride) {
  for_each_token_row(block, rows, tokens, [&](int t, int64_t n, F32 v, int lanes) {
    store(out + t * stride + n, kRelu2 ? relu2(v) : v, lanes);
  });
}

}  // namespace
}  // namespace ww::WW_ISA
