// SPDX-License-Identifier: Apache-2.0
#include "latent_moe/latent_moe.h"

#include "bindings/moe_args.h"
#include "bindings/op.h"

namespace ww {
namespace {

struct OptWeights : std::optional<WeightTensors> {
  OptWeights(const OptTensor& data, const OptTensor& block_scales, const OptTensor& scale) {
    if (data) emplace(*data, block_scales, scale);
  }
};

Tensor latent_moe(const Tensor& x_in, const Tensor& weights, const Tensor& indices,
                  const OptTensor& fc1_in, const Tensor& up, const Tensor& down,
                  const OptTensor& fc2_in, const OptTensor& shared_up_in,
                  const OptTensor& shared_down_in, const OptTensor& fc1_blocks,
                  const OptTensor& fc1_scale, const OptTensor& up_blocks, const OptTensor& up_scale,
                  const OptTensor& down_blocks, const OptTensor& down_scale,
                  const OptTensor& fc2_blocks, const OptTensor& fc2_scale,
                  const OptTensor& shared_up_blocks, const OptTensor& shared_up_scale,
                  const OptTensor& shared_down_blocks, const OptTensor& shared_down_scale) {
  constexpr const char* op = "latent_moe";
  Arg{op, "x", x_in}.dim(2, "(T, d)").like(up, "up");
  WW_CHECK(fc1_in.has_value() == fc2_in.has_value(), op,
           ": 'fc1' and 'fc2' must be given together or not at all");
  WW_CHECK(shared_up_in.has_value() == shared_down_in.has_value(), op,
           ": 'shared_up' and 'shared_down' must be given together or not at all");
  const ExpertTensors experts(op, WeightTensors(up, up_blocks, up_scale),
                              WeightTensors(down, down_blocks, down_scale), weights, indices);
  const OptWeights fc1(fc1_in, fc1_blocks, fc1_scale), fc2(fc2_in, fc2_blocks, fc2_scale),
      shared_up(shared_up_in, shared_up_blocks, shared_up_scale),
      shared_down(shared_down_in, shared_down_blocks, shared_down_scale);
  const Tensor x = unit_last_stride(x_in);

  LatentMoeParams p{};
  p.T = x.size(0), p.d = x.size(1), p.l = p.d;
  if (fc1) p.l = Arg{op, "fc1", fc1->data}.dim(2, "(l, d)").size(0);
  if (shared_up) p.S = Arg{op, "shared_up", shared_up->data}.dim(2, "(S, d)").size(0);
  const bool is_dense = experts.up.format() == WeightFormat::dense;
  const Arg widest = is_dense ? Arg{op, "up", up} : Arg{op, "x", x};
  p.dtype = widest.floating_of(DType::f32, DType::bf16);
  p.experts = moe_mlp_params(op, experts, p.T, p.l, p.dtype);
  Arg{op, "x", x}.floating_of(p.dtype, p.dtype);
  const auto weights_if = [&](const char* name, const OptWeights& t, int64_t rows, int64_t columns,
                              const char* meaning) {
    if (!t) return Weights{};
    Arg{op, name, t->data}.like(up, "up");
    return weights_of(op, name, *t, {rows}, columns, meaning, p.dtype);
  };
  p.fc1 = weights_if("fc1", fc1, p.l, p.d, "(l, d)");
  p.fc2 = weights_if("fc2", fc2, p.d, p.l, "(d, l)");
  p.shared_up = weights_if("shared_up", shared_up, p.S, p.d, "(S, d)");
  p.shared_down = weights_if("shared_down", shared_down, p.d, p.S, "(d, S)");
  p.x = data(x), p.x_stride_t = x.stride(0);

  const ScalarType dtype = scalar_type(p.dtype);
  const Tensor workspace = empty(x, {p.T, (fc1 ? p.l : 0) + p.l + p.S}, dtype);
  char* piece = static_cast<char*>(mutable_data(workspace));
  const int64_t row = p.T * (p.dtype == DType::f32 ? 4 : 2);
  p.latent = piece, p.routed = piece += fc1 ? row * p.l : 0, p.shared = piece += row * p.l;
  const Tensor out = empty(x, {p.T, p.d}, dtype);
  p.out = mutable_data(out);

  launch(op, x, p, latent_moe_cpu, "ww_latent_moe");
  return out;
}

WW_TORCH_OP(latent_moe,
            "(Tensor x, Tensor weights, Tensor indices, Tensor? fc1, Tensor up, Tensor down, "
            "Tensor? fc2, Tensor? shared_up, Tensor? shared_down, "
            "Tensor? fc1_block_scales=None, Tensor? fc1_scale=None, "
            "Tensor? up_block_scales=None, Tensor? up_scale=None, "
            "Tensor? down_block_scales=None, Tensor? down_scale=None, "
            "Tensor? fc2_block_scales=None, Tensor? fc2_scale=None, "
            "Tensor? shared_up_block_scales=None, Tensor? shared_up_scale=None, "
            "Tensor? shared_down_block_scales=None, Tensor? shared_down_scale=None) -> Tensor");

}  // namespace
}  // namespace ww
