// SPDX-License-Identifier: Apache-2.0
// Root mean square normalisation over groups of a row, the one contract for every backend.
//
//   v   = x, or x + residual rounded to dtype and also written to sum, or x * silu(gate) in fp32
//   out = v / sqrt(mean(v^2) + eps) * weight, the mean over each group of group_size elements
//
// Statistics and products in fp32, one rounding, on store. out and sum must not alias an input.
#pragma once

#include "core/types.h"

namespace ww {

struct RmsNormParams {
  int64_t rows, D, group_size;  // group_size divides D
  float eps;
  DType dtype;                  // of x, residual, gate, sum, out
  DType weight_dtype;           // dtype or f32
  const void* x;                // (rows,D), D contiguous; so are residual and gate
  const void* residual;         // may be null; excludes gate
  const void* gate;             // may be null
  int64_t x_stride, residual_stride, gate_stride;  // between rows
  const void* weight;                              // (D) contiguous
  void* sum;                                       // (rows,D) contiguous; null without residual
  void* out;                                       // (rows,D) contiguous
};

void rms_norm_check(const RmsNormParams& p);       // throws ww::Error on what the contract forbids
void rms_norm_cpu(const RmsNormParams& p);
// Exported by libwarpweave_cuda.so; see core/cuda/api.h.
// int ww_rms_norm(const RmsNormParams*, void* stream)

}  // namespace ww
