// SPDX-License-Identifier: Apache-2.0
#include "latent_moe/latent_moe.h"

#include "bindings/moe_args.h"
#include "bindings/op.h"

namespace ww {
namespace {

Tensor latent_moe(const Tensor& x_in, const Tensor& weights, const Tensor& indices,
                  const OptTensor& fc1_in, const Tensor& up, const Tensor& down,
                  const OptTensor& fc2_in, const OptTensor& shared_up_in,
                  const OptTensor& shared_down_in) {
  constexpr const char* op = "latent_moe";
  Arg{op, "x", x_in}.dim(2, "(T, d)");
  WW_CHECK(fc1_in.has_value() == fc2_in.has_value(), op,
           ": 'fc1' and 'fc2' must be given together or not at all");
  WW_CHECK(shared_up_in.has_value() == shared_down_in.has_value(), op,
           ": 'shared_up' and 'shared_down' must be given together or not at all");
  const ExpertTensors experts(op, WeightTensors(up), WeightTensors(down), weights, indices);
  const Tensor x = unit_last_stride(x_in);
  const OptTensor fc1 = row_major(fc1_in), fc2 = row_major(fc2_in),
                  shared_up = row_major(shared_up_in), shared_down = row_major(shared_down_in);

  LatentMoeParams p{};
  p.T = x.size(0), p.d = x.size(1), p.l = p.d;
  if (fc1) p.l = Arg{op, "fc1", *fc1}.dim(2, "(l, d)").size(0);
  if (shared_up) p.S = Arg{op, "shared_up", *shared_up}.dim(2, "(S, d)").size(0);
  p.dtype = Arg{op, "up", up}.floating_of(DType::f32, DType::bf16);
  p.experts = moe_mlp_params(op, experts, p.T, p.l, p.dtype);
  const auto check = [&](const char* name, const OptTensor& t, int64_t rows, int64_t columns,
                         const char* meaning) {
    if (t)
      Arg{op, name, *t}
          .shape({rows, columns}, meaning)
          .like(up, "up")
          .floating_of(p.dtype, p.dtype);
  };
  Arg{op, "x", x}.like(up, "up").floating_of(p.dtype, p.dtype);
  check("fc1", fc1, p.l, p.d, "(l, d)");
  check("fc2", fc2, p.d, p.l, "(d, l)");
  check("shared_up", shared_up, p.S, p.d, "(S, d)");
  check("shared_down", shared_down, p.d, p.S, "(d, S)");
  p.x = data(x), p.x_stride_t = x.stride(0);
  p.fc1 = data(fc1), p.fc2 = data(fc2), p.shared_up = data(shared_up),
  p.shared_down = data(shared_down);

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
            "Tensor? fc2, Tensor? shared_up, Tensor? shared_down) -> Tensor");

}  // namespace
}  // namespace ww
