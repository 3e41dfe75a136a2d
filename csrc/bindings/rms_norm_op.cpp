// SPDX-License-Identifier: Apache-2.0
#include "bindings/op.h"
#include "rms_norm/rms_norm.h"

namespace ww {
namespace {

constexpr const char* op = "rms_norm";

// An operand of x's shape, device and dtype.
Rows operand(const char* name, const Tensor& t, const Tensor& x, DType dtype) {
  const Arg arg{op, name, t};
  arg.same_shape(x, "x").like(x, "x").floating_of(dtype, dtype);
  return rows_of(t);
}

// The second tensor is the rounded sum, or undefined without a residual.
std::pair<Tensor, OptTensor> run(const Tensor& x, const Tensor& weight, const OptTensor& residual,
                                 const OptTensor& gate, std::optional<int64_t> group_size,
                                 double eps) {
  WW_CHECK(x.dim() >= 1, op, ": 'x' has shape (), expected (..., D)");
  RmsNormParams p{};
  p.dtype = Arg{op, "x", x}.floating();
  p.D = x.size(-1);
  p.rows = p.D ? x.numel() / p.D : 0;
  p.group_size = group_size.value_or(p.D ? p.D : 1);
  p.eps = float(eps);
  p.weight_dtype = Arg{op, "weight", weight}.shape({p.D}, "(D,)").like(x, "x").floating();
  const Rows x_rows = rows_of(x);
  p.x = data(x_rows.tensor), p.x_stride = x_rows.stride;
  const Tensor weight_row = row_major(weight);
  p.weight = data(weight_row);
  std::optional<Rows> other;
  if (residual) {
    other = operand("residual", *residual, x, p.dtype);
    p.residual = data(other->tensor), p.residual_stride = other->stride;
  }
  if (gate) {
    other = operand("gate", *gate, x, p.dtype);
    p.gate = data(other->tensor), p.gate_stride = other->stride;
  }
  rms_norm_check(p);

  const Tensor out = empty_like(x, scalar_type(p.dtype));
  p.out = mutable_data(out);
  OptTensor sum;
  if (residual) sum = empty_like(x, scalar_type(p.dtype)), p.sum = mutable_data(*sum);
  launch(op, x, p, rms_norm_cpu, "ww_rms_norm");
  return {out, sum};
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, const OptTensor& gate,
                std::optional<int64_t> group_size, double eps) {
  return run(x, weight, std::nullopt, gate, group_size, eps).first;
}

std::tuple<Tensor, Tensor> rms_norm_residual(const Tensor& x, const Tensor& weight,
                                             const Tensor& residual,
                                             std::optional<int64_t> group_size, double eps) {
  auto [out, sum] = run(x, weight, residual, std::nullopt, group_size, eps);
  return {out, *sum};
}

WW_TORCH_OP(rms_norm,
            "(Tensor x, Tensor weight, Tensor? gate, int? group_size, float eps) -> Tensor");
WW_TORCH_OP(
    rms_norm_residual,
    "(Tensor x, Tensor weight, Tensor residual, int? group_size, float eps) -> (Tensor, Tensor)");

}  // namespace
}  // namespace ww
