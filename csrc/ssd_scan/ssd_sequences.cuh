// SPDX-License-Identifier: Apache-2.0
// Which tokens a block of an SSD kernel walks over, and where its states come from and go.
#pragma once

#include "core/cuda/math.cuh"
#include "ssd_scan/ssd_scan.h"

namespace ww {

// Rows of tokens: batch rows, or the packed sequences of row 0. Offsets that are not as they must
// be give wrong numbers, but no access outside of the tensors.
struct TokenRow { int64_t batch, begin, end; };
__device__ inline TokenRow token_row(const SsdScanParams& p, int64_t row) {
  if (!p.cu_seqlens) return {row, 0, p.T};
  const auto offset = [&](int64_t i) {
    const int64_t t = p.cu_seqlens_is_int64 ? static_cast<const int64_t*>(p.cu_seqlens)[i]
                                            : static_cast<const int32_t*>(p.cu_seqlens)[i];
    return t < 0 ? 0 : (t > p.T ? p.T : t);
  };
  const int64_t begin = offset(row), end = offset(row + 1);
  return {0, begin, end < begin ? begin : end};
}

// The token starts a run of its own: the state before it is not its state.
__device__ inline bool starts_run(const SsdScanParams& p, int64_t b, int64_t t) {
  if (!p.seq_idx || t == 0) return false;
  const int32_t* idx = p.seq_idx + b * p.seq_idx_stride_b + t;
  return idx[0] != idx[-1];
}

// dt after bias, softplus and limits.
__device__ inline float step_of(const SsdScanParams& p, int64_t b, int64_t t, int64_t h) {
  const float raw =
      load_param(p.dt, p.dt_dtype, b * p.dt_stride_b + t * p.dt_stride_t + h * p.dt_stride_h);
  return time_step(raw + (p.dt_bias ? p.dt_bias[h] : 0.f), p.dt_softplus, p.dt_min, p.dt_max);
}

// D of a column, 0 where there is none.
__device__ inline float skip_of(const SsdScanParams& p, int64_t h, int64_t column) {
  return p.D && column < p.P ? p.D[h * p.D_stride_h + column * p.D_stride_p] : 0.f;
}

}  // namespace ww
