// SPDX-License-Identifier: Apache-2.0
// NVFP4 quantisation, the one contract for every backend.
//
//   v    = x, or x diag(s) H16 / 4 for each 16 along K
//   g    = amax of v over all rows or one, / bound, and 1 where that is 0; or given
//   s    = e4m3(amax of the block / 6 / g), saturating; four_over_six: or amax / 4
//   code = e2m1(v / (s * g)), saturating, to nearest or stochastic; 0 where s * g is 0
//
// A block is 16 elements along K, with tiles those of 16 rows. fp32, each quotient and product
// rounded once: the same bits everywhere. core/nvfp4.h has the arithmetic. Infinity and NaN are
// refused on CPUs; on CUDA g is of the other values, and the s of such a block is NaN.
#pragma once

#include "core/numerics.h"

namespace ww {

struct Nvfp4QuantizeParams {
  int64_t rows, N, K;    // N rows of a matrix; K % 16 == 0, with tiles N % 16 == 0
  bool tiles, hadamard, four_over_six, stochastic;
  uint64_t seed;         // stochastic: a key of Philox, the counter is the element's index / 4
  DType dtype;
  const void* x;         // (rows,K), K contiguous
  int64_t x_stride;      // between rows
  const float* given;    // (nvfp4_scales()) contiguous; null: global_scale is computed
  float* global_scale;   // the same, written; null if given
  int64_t scale_rows;    // rows that share a g: 1, N or all; with tiles not 1
  uint8_t* codes;        // (rows,K/2) contiguous, the even k in the low nibble
  e4m3_t* block_scales;  // (rows,K/16) contiguous
  int64_t* nonfinite;    // CPU: of the elements row * K + k that are refused the first, else -1
  void* workspace;       // CUDA: ww_nvfp4_quantize_workspace() bytes
};

void nvfp4_quantize_check(const Nvfp4QuantizeParams& p);  // throws ww::Error on what is forbidden
void nvfp4_quantize_cpu(const Nvfp4QuantizeParams& p);
// Exported by libwarpweave_cuda.so; see core/cuda/api.h.
// int ww_nvfp4_quantize(const Nvfp4QuantizeParams*, void* stream)
// int64_t ww_nvfp4_quantize_workspace(const Nvfp4QuantizeParams*)

WW_HD static inline int64_t nvfp4_scales(const Nvfp4QuantizeParams& p) {
  return p.scale_rows == p.rows ? 1 : p.rows / p.scale_rows;
}
WW_HD static inline float nvfp4_bound(const Nvfp4QuantizeParams& p) {
  return 6.f * (p.four_over_six ? 256.f : 448.f);  // headroom for a scale 1.5 times as large
}

}  // namespace ww
