// SPDX-License-Identifier: Apache-2.0
#include "bindings/moe_args.h"
#include "bindings/op.h"

namespace ww {

ExpertTensors::ExpertTensors(const char* op, const WeightTensors& up, const WeightTensors& down,
                             const Tensor& weights, const Tensor& indices)
    : up(up), down(down), weights(row_major(weights)), indices(row_major(indices)) {
  Arg{op, "up", up.data}.dim(3, "(E, I, K)");
  Arg{op, "down", down.data}.dim(3, "(E, K, I)").like(up.data, "up");
  Arg{op, "weights", weights}.dim(2, "(T, top_k)").like(up.data, "up");
  Arg{op, "indices", indices}.like(up.data, "up");
}

MoeMlpParams moe_mlp_params(const char* op, const ExpertTensors& t, int64_t tokens, int64_t width,
                            DType dtype) {
  MoeMlpParams p{};
  p.T = tokens, p.K = width, p.dtype = dtype;
  p.E = t.up.data.size(0), p.I = t.up.data.size(1), p.top_k = t.weights.size(1);
  p.up = weights_of(op, "up", t.up, {p.E, p.I}, p.K, "(E, I, K)", dtype);
  p.down = weights_of(op, "down", t.down, {p.E, p.K}, p.I, "(E, K, I)", dtype);
  Arg{op, "weights", t.weights}.shape({p.T, p.top_k}, "(T, top_k)").of(ScalarType::Float);
  p.indices_is_int64 = Arg{op, "indices", t.indices}.shape({p.T, p.top_k}, "(T, top_k)").is_int64();
  p.weights = static_cast<const float*>(data(t.weights));
  p.indices = data(t.indices);
  return p;
}

namespace {

Tensor moe_mlp(const Tensor& x_in, const Tensor& up, const Tensor& down, const Tensor& weights,
               const Tensor& indices, const OptTensor& up_block_scales, const OptTensor& up_scale,
               const OptTensor& down_block_scales, const OptTensor& down_scale) {
  constexpr const char* op = "moe_mlp";
  Arg{op, "x", x_in}.dim(2, "(T, K)").like(up, "up");
  const ExpertTensors experts(op, WeightTensors(up, up_block_scales, up_scale),
                              WeightTensors(down, down_block_scales, down_scale), weights, indices);
  const Tensor x = unit_last_stride(x_in);
  const bool is_dense = !up_scale && !down_scale;
  const Arg widest = is_dense ? Arg{op, "up", up} : Arg{op, "x", x};
  const DType dtype = widest.floating_of(DType::f32, DType::bf16);
  MoeMlpParams p = moe_mlp_params(op, experts, x.size(0), x.size(1), dtype);
  Arg{op, "x", x}.floating_of(dtype, dtype);
  p.x = data(x), p.x_stride_t = x.stride(0);
  const Tensor out = empty(x, {p.T, p.K}, scalar_type(p.dtype));
  p.out = mutable_data(out), p.out_stride_t = p.K;

  launch(op, x, p, moe_mlp_cpu, "ww_moe_mlp");
  return out;
}

WW_TORCH_OP(moe_mlp,
            "(Tensor x, Tensor up, Tensor down, Tensor weights, Tensor indices, "
            "Tensor? up_block_scales=None, Tensor? up_scale=None, Tensor? down_block_scales=None, "
            "Tensor? down_scale=None) -> Tensor");

}  // namespace
}  // namespace ww
