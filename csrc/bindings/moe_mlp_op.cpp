// SPDX-License-Identifier: Apache-2.0
#include "bindings/moe_args.h"
#include "bindings/op.h"

namespace ww {

MoeMlpParams moe_mlp_params(const char* op, const ExpertTensors& t, int64_t tokens, int64_t width) {
  MoeMlpParams p{};
  p.T = tokens, p.K = width;
  p.E = t.up.size(0), p.I = t.up.size(1), p.top_k = t.weights.size(1);
  p.dtype =
      Arg{op, "up", t.up}.shape({p.E, p.I, p.K}, "(E, I, K)").floating_of(DType::f32, DType::bf16);
  Arg{op, "down", t.down}
      .shape({p.E, p.K, p.I}, "(E, K, I)")
      .like(t.up, "up")
      .floating_of(p.dtype, p.dtype);
  Arg{op, "weights", t.weights}
      .shape({p.T, p.top_k}, "(T, top_k)")
      .like(t.up, "up")
      .floating_of(DType::f32, DType::f32);
  p.indices_is_int64 =
      Arg{op, "indices", t.indices}.shape({p.T, p.top_k}, "(T, top_k)").like(t.up, "up").is_int64();
  p.up = data(t.up), p.up_stride_e = t.up.stride(0), p.up_stride_i = t.up.stride(1);
  p.down = data(t.down), p.down_stride_e = t.down.stride(0), p.down_stride_k = t.down.stride(1);
  p.weights = static_cast<const float*>(data(t.weights));
  p.indices = data(t.indices);
  return p;
}

ExpertTensors expert_tensors(const char* op, const Tensor& up, const Tensor& down,
                             const Tensor& weights, const Tensor& indices) {
  Arg{op, "up", up}.dim(3, "(E, I, K)");
  Arg{op, "down", down}.dim(3, "(E, K, I)");
  Arg{op, "weights", weights}.dim(2, "(T, top_k)");
  return {unit_last_stride(up), unit_last_stride(down), row_major(weights), row_major(indices)};
}

namespace {

Tensor moe_mlp(const Tensor& x_in, const Tensor& up, const Tensor& down, const Tensor& weights,
               const Tensor& indices) {
  constexpr const char* op = "moe_mlp";
  Arg{op, "x", x_in}.dim(2, "(T, K)");
  const ExpertTensors experts = expert_tensors(op, up, down, weights, indices);
  const Tensor x = unit_last_stride(x_in);
  MoeMlpParams p = moe_mlp_params(op, experts, x.size(0), x.size(1));
  Arg{op, "x", x}.like(up, "up").floating_of(p.dtype, p.dtype);
  p.x = data(x), p.x_stride_t = x.stride(0);
  const Tensor out = empty(x, {p.T, p.K}, scalar_type(p.dtype));
  p.out = mutable_data(out), p.out_stride_t = p.K;

  launch(op, x, p, moe_mlp_cpu, "ww_moe_mlp");
  return out;
}

WW_TORCH_OP(moe_mlp,
            "(Tensor x, Tensor up, Tensor down, Tensor weights, Tensor indices) -> Tensor");

}  // namespace
}  // namespace ww
