// SPDX-License-Identifier: Apache-2.0
// Causal depthwise convolution over time, the one contract for every backend.
//
//   out[b,c,t] = act(bias[c] + sum_w weight[c,w] * x[b,c,t-(W-1)+w])
//
// A tap never leaves the token's own sequence: before its first token it reads initial_states
// (column W-1 is the token just before) or zero. Tokens with seq_idx < 0 are padding: output 0.
// final_states: the last W-1 inputs of each sequence, reaching into initial_states, else zero. fp32
// accumulation from w = 0 upwards after the bias; one rounding, on store. out must not alias x.
#pragma once

#include "core/segment.h"
#include "core/types.h"

namespace ww {

struct CausalConv1dParams : SequenceLayout {
  int64_t C, W;                // W in 2..4
  DType dtype;                 // of x, states, out
  DType weight_dtype;          // of weight and bias: dtype or f32
  bool silu;
  const void* x;               // (B,C,T), unit stride along C or T
  int64_t x_stride_b, x_stride_c, x_stride_t;
  const void* weight;          // (C,W)
  int64_t weight_stride_c, weight_stride_w;
  const void* bias;            // (C) contiguous; may be null
  const void* initial_states;  // (num_seqs,C,W-1); may be null: zeros
  int64_t initial_stride_b, initial_stride_c, initial_stride_w;
  void* out;                   // (B,C,T), unit stride along the same axis as x
  int64_t out_stride_b, out_stride_c, out_stride_t;
  void* final_states;          // (num_seqs,C,W-1) contiguous; may be null: not wanted
};

void causal_conv1d_check(
    const CausalConv1dParams& p);  // throws ww::Error on what the contract forbids
void causal_conv1d_cpu(const CausalConv1dParams& p);

}  // namespace ww

// In libwarpweave_cuda.so; core/cuda/api.h says how launchers behave. cu_seqlens stays on the
// device and cannot be refused there: invalid offsets give wrong numbers, but no access outside the
// tensors.
extern "C" int ww_causal_conv1d(const ww::CausalConv1dParams* p, void* stream);
