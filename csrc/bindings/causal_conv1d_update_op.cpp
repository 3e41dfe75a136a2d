// SPDX-License-Identifier: Apache-2.0
#include "bindings/op.h"
#include "causal_conv1d_update/causal_conv1d_update.h"

namespace ww {
namespace {

constexpr const char* op = "causal_conv1d_update";

// (B,) int32, row-major.
const int32_t* batch_indices(const char* name, const OptTensor& t, const Tensor& x) {
  if (!t) return nullptr;
  Arg{op, name, *t}.shape({x.size(0)}, "(B,)").like(x, "x").of(ScalarType::Int);
  return static_cast<const int32_t*>(data(*t));
}

Tensor causal_conv1d_update(const Tensor& x, const Tensor& conv_state, const Tensor& weight_in,
                            const OptTensor& bias_in, bool silu, const OptTensor& cache_seqlens,
                            const OptTensor& conv_state_indices) {
  WW_CHECK(x.dim() == 2 || x.dim() == 3, op, ": 'x' has shape ", shape_string(x),
           ", expected (B, C) or (B, C, T)");
  const bool time = x.dim() == 3;
  const Tensor weight = row_major(weight_in);
  const OptTensor bias = row_major(bias_in), seqlens = row_major(cache_seqlens),
                  indices = row_major(conv_state_indices);
  Arg{op, "weight", weight}.dim(2, "(C, W)").like(x, "x");
  const Arg state{op, "conv_state", conv_state};
  state.dim(3, "(B or slots, C, S)").like(x, "x");

  CausalConv1dUpdateParams p{};
  p.B = x.size(0), p.C = x.size(1), p.T = time ? x.size(2) : 1, p.W = weight.size(1);
  p.slots = state.size(0), p.S = state.size(2);
  p.dtype = Arg{op, "x", x}.floating();
  p.weight_dtype = Arg{op, "weight", weight}.shape({p.C, p.W}, "(C, W)").floating();
  p.silu = silu;
  p.x = data(x);
  p.x_stride[0] = x.stride(0), p.x_stride[1] = x.stride(1), p.x_stride[2] = time ? x.stride(2) : 0;
  state.shape({p.slots, p.C, p.S}, "(B or slots, C, S)").floating_of(p.dtype, p.dtype);
  p.state = mutable_data(conv_state);
  for (int d = 0; d < 3; ++d) p.state_stride[d] = state.stride(d);
  p.weight = data(weight);
  if (bias)
    Arg{op, "bias", *bias}
        .shape({p.C}, "(C,)")
        .like(x, "x")
        .floating_of(p.weight_dtype, p.weight_dtype);
  p.bias = data(bias);
  p.cache_seqlens = batch_indices("cache_seqlens", seqlens, x);
  p.state_indices = batch_indices("conv_state_indices", indices, x);
  causal_conv1d_update_check(p);

  const bool channel_last = time && x.stride(1) == 1 && x.stride(2) != 1;
  const int64_t sizes[] = {p.B, p.C, p.T};
  const int64_t strides[] = {p.C * p.T, channel_last ? 1 : p.T, channel_last ? p.C : 1};
  const Tensor out = empty_strided(x, sizes, strides, x.dim(), scalar_type(p.dtype));
  p.out = mutable_data(out);
  for (int d = 0; d < 3; ++d) p.out_stride[d] = strides[d];
  launch(op, x, p, causal_conv1d_update_cpu, "ww_causal_conv1d_update");
  return out;
}

WW_TORCH_OP(causal_conv1d_update,
            "(Tensor x, Tensor(a!) conv_state, Tensor weight, Tensor? bias, bool silu, Tensor? "
            "cache_seqlens, Tensor? conv_state_indices) -> Tensor");

}  // namespace
}  // namespace ww
