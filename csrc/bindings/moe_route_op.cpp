// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <vector>

#include "bindings/op.h"
#include "moe_route/moe_route.h"

namespace ww {
namespace {

std::tuple<Tensor, Tensor> moe_route(const Tensor& x, const Tensor& weight,
                                     const OptTensor& correction_bias, int64_t top_k,
                                     int64_t n_group, int64_t topk_group, bool normalize,
                                     double scale) {
  constexpr const char* op = "moe_route";
  WW_CHECK(x.dim() >= 1, op, ": 'x' has shape (), expected (..., d)");
  Arg{op, "weight", weight}.dim(2, "(E, d)");
  MoeRouteParams p{};
  p.E = weight.size(0), p.d = x.size(-1);
  p.top_k = top_k, p.n_group = n_group, p.topk_group = topk_group;
  p.normalize = normalize, p.scale = float(scale);
  p.dtype = Arg{op, "x", x}.floating();
  p.weight_dtype = Arg{op, "weight", weight}.shape({p.E, p.d}, "(E, d)").like(x, "x").floating();
  const OptTensor bias = row_major(correction_bias);
  if (bias) {
    Arg{op, "correction_bias", *bias}
        .shape({p.E}, "(E,)")
        .like(x, "x")
        .floating_of(DType::f32, DType::f32);
    p.bias = static_cast<const float*>(data(*bias));
  }
  moe_route_check(p);
  const Rows x_rows = rows_of(x), weight_rows = rows_of(weight);
  p.x = data(x_rows.tensor), p.x_stride = x_rows.stride;
  p.weight = data(weight_rows.tensor), p.weight_stride = weight_rows.stride;

  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = top_k;
  p.rows = 1;
  for (size_t i = 0; i + 1 < sizes.size(); ++i) p.rows *= sizes[i];
  const Tensor weights = empty(x, sizes.data(), x.dim(), ScalarType::Float);
  const Tensor indices = empty(x, sizes.data(), x.dim(), ScalarType::Int);
  p.weights = static_cast<float*>(mutable_data(weights));
  p.indices = static_cast<int32_t*>(mutable_data(indices));
  launch(op, x, p, moe_route_cpu, "ww_moe_route");
  return {weights, indices};
}

WW_TORCH_OP(moe_route,
            "(Tensor x, Tensor weight, Tensor? correction_bias, int top_k, int n_group, int "
            "topk_group, bool normalize, float scale) -> (Tensor, Tensor)");

}  // namespace
}  // namespace ww
