// SPDX-License-Identifier: Apache-2.0
#include "bindings/op.h"
#include "causal_conv1d/causal_conv1d.h"

namespace ww {
namespace {

// Channels lie next to each other: the output keeps that order, everything else is made
// channel-first.
bool channel_last(const Tensor& x) { return x.stride(1) == 1 && x.stride(2) != 1; }

std::tuple<Tensor, Tensor> causal_conv1d(const Tensor& x_in, const Tensor& weight,
                                         const OptTensor& bias, const OptTensor& initial_states,
                                         const OptTensor& seq_idx, const OptTensor& cu_seqlens,
                                         bool silu, bool return_final_states) {
  constexpr const char* op = "causal_conv1d";
  Arg{op, "x", x_in}.dim(3, "(B, C, T)");
  Arg{op, "weight", weight}.dim(2, "(C, W)").like(x_in, "x");
  const bool last = channel_last(x_in);
  const Tensor x = last || x_in.stride(2) == 1 ? x_in : row_major(x_in);

  CausalConv1dParams p{};
  p.B = x.size(0), p.C = x.size(1), p.T = x.size(2), p.W = weight.size(1);
  p.dtype = Arg{op, "x", x}.floating();
  p.weight_dtype = Arg{op, "weight", weight}.shape({p.C, p.W}, "(C, W)").floating();
  p.silu = silu;
  p.x = data(x);
  p.x_stride_b = x.stride(0), p.x_stride_c = x.stride(1), p.x_stride_t = x.stride(2);
  p.weight = data(weight);
  p.weight_stride_c = weight.stride(0), p.weight_stride_w = weight.stride(1);
  if (bias)
    Arg{op, "bias", *bias}
        .shape({p.C}, "(C,)")
        .like(x, "x")
        .floating_of(p.weight_dtype, p.weight_dtype);
  const OptTensor bias_row = row_major(bias), cu = row_major(cu_seqlens), idx = row_major(seq_idx);
  p.bias = data(bias_row);
  read_sequences(op, x, idx, cu, p);
  if (initial_states) {
    const Arg arg{op, "initial_states", *initial_states};
    arg.shape({p.num_seqs, p.C, p.W - 1}, "(B or num_seqs, C, W-1)")
        .like(x, "x")
        .floating_of(p.dtype, p.dtype);
    p.initial_states = data(*initial_states);
    p.initial_stride_b = arg.stride(0), p.initial_stride_c = arg.stride(1),
    p.initial_stride_w = arg.stride(2);
  }
  causal_conv1d_check(p);

  const ScalarType dtype = scalar_type(p.dtype);
  const int64_t sizes[] = {p.B, p.C, p.T};
  const int64_t strides[] = {p.C * p.T, last ? 1 : p.T, last ? p.C : 1};
  const Tensor out = empty_strided(x, sizes, strides, 3, dtype);
  p.out = mutable_data(out);
  p.out_stride_b = strides[0], p.out_stride_c = strides[1], p.out_stride_t = strides[2];
  const Tensor final_states =
      return_final_states ? empty(x, {p.num_seqs, p.C, p.W - 1}, dtype) : empty(x, {0}, dtype);
  if (return_final_states) p.final_states = mutable_data(final_states);

  launch(op, x, p, causal_conv1d_cpu, "ww_causal_conv1d");
  return {out, final_states};
}

WW_TORCH_OP(causal_conv1d,
            "(Tensor x, Tensor weight, Tensor? bias, Tensor? initial_states, Tensor? seq_idx, "
            "Tensor? cu_seqlens, bool silu, bool return_final_states) -> (Tensor, Tensor)");

}  // namespace
}  // namespace ww
