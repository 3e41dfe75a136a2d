// SPDX-License-Identifier: Apache-2.0
// The next tokens of causal_conv1d, with the inputs before them taken from a state that is updated
// in place; the one contract for every backend.
//
//   out[b,c,t] = act(bias[c] + sum_w weight[c,w] * input[b,c,t-(W-1)+w])
//
// input is x at t >= 0 and the state before. Shifting state: its last column is input -1, and after
// the call it holds the last S inputs. Circular state (cache_seqlens): input t of row b lives in
// column (cache_seqlens[b] + t) mod S. A row with a negative state index is padding: output 0, no
// state touched. fp32 accumulation from w = 0 upwards after the bias; one rounding, on store;
// states are moved bit by bit. Any strides; no two elements of the state may share memory; out must
// not alias x.
#pragma once

#include "core/types.h"

namespace ww {

struct CausalConv1dUpdateParams {
  int64_t B, C, T, W, S, slots;  // W in 2..4, S >= W-1
  DType dtype;                   // of x, state, out
  DType weight_dtype;            // of weight and bias: dtype or f32
  bool silu;
  const void* x;                 // (B,C,T)
  int64_t x_stride[3];
  void* state;                   // (slots,C,S)
  int64_t state_stride[3];
  const void* weight;            // (C,W) contiguous
  const void* bias;              // (C) contiguous; may be null
  const int32_t* cache_seqlens;  // (B) contiguous; may be null: shifting state
  const int32_t* state_indices;  // (B) contiguous; may be null: row b has slot b
  void* out;                     // (B,C,T)
  int64_t out_stride[3];
};

void causal_conv1d_update_check(const CausalConv1dUpdateParams& p);  // throws ww::Error
void causal_conv1d_update_cpu(const CausalConv1dUpdateParams& p);  // also checks the state indices
// Exported by libwarpweave_cuda.so; see core/cuda/api.h.
// int ww_causal_conv1d_update(const CausalConv1dUpdateParams*, void* stream)

}  // namespace ww
