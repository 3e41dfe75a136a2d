// SPDX-License-Identifier: Apache-2.0
#include "nvfp4_quantize/nvfp4_quantize.h"

#include <algorithm>
#include <vector>

#include "bindings/op.h"

namespace ww {
namespace {

constexpr const char* op = "nvfp4_quantize";

// The scale of () for all, (...) for each matrix or (..., N) for each row: how many rows share one.
int64_t rows_of_scale(const Tensor& scale, const Tensor& x, int64_t rows) {
  const auto sizes = scale.sizes(), of_x = x.sizes();
  const int64_t rank = scale.dim(), free = x.dim() - rank;
  WW_CHECK(
      (rank == 0 || free == 1 || free == 2) && std::equal(sizes.begin(), sizes.end(), of_x.begin()),
      op, ": 'global_scale' has shape ", shape_string(scale),
      ", expected (), (...) or (..., N) for 'x' of shape ", shape_string(x));
  if (rank == 0) return rows;
  return free == 1 ? 1 : of_x[x.dim() - 2];
}

// The third is the global scale, empty if one is given.
std::tuple<Tensor, Tensor, Tensor> nvfp4_quantize(const Tensor& x, const OptTensor& global_scale,
                                                  const OptTensor& seed, bool by_row, bool tiles,
                                                  bool hadamard, bool four_over_six) {
  WW_CHECK(x.dim() >= 2, op, ": 'x' has shape ", shape_string(x), ", expected (..., N, K)");
  Nvfp4QuantizeParams p{};
  p.dtype = Arg{op, "x", x}.floating();
  const int64_t rank = x.dim();
  p.N = x.size(rank - 2), p.K = x.size(rank - 1);
  p.rows = 1;
  for (int64_t d = 0; d < rank - 1; ++d) p.rows *= x.size(d);
  p.tiles = tiles, p.hadamard = hadamard, p.four_over_six = four_over_six;
  p.scale_rows = by_row ? 1 : p.rows;
  OptTensor given;
  if (global_scale) {
    Arg{op, "global_scale", *global_scale}.like(x, "x").floating_of(DType::f32, DType::f32);
    p.scale_rows = rows_of_scale(*global_scale, x, p.rows);
    given = row_major(*global_scale);
    p.given = static_cast<const float*>(data(given));
  }
  nvfp4_quantize_check(p);
  if (seed) {  // on the CPU, whatever the device of x
    p.stochastic = true;
    p.seed = uint64_t(*static_cast<const int64_t*>(seed->const_data_ptr()));
  }
  const Rows rows = rows_of(x);
  p.x = data(rows.tensor), p.x_stride = rows.stride;

  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  const int64_t scale_rank = global_scale ? 1 : by_row ? rank - 1 : 0;
  const int64_t none = 0;
  const Tensor scale = empty(x, global_scale ? &none : sizes.data(), scale_rank, ScalarType::Float);
  if (!global_scale) p.global_scale = static_cast<float*>(mutable_data(scale));
  sizes.back() = p.K / 2;
  const Tensor codes = empty(x, sizes.data(), rank, ScalarType::Byte);
  p.codes = static_cast<uint8_t*>(mutable_data(codes));
  sizes.back() = p.K / 16;
  const Tensor block_scales = empty(x, sizes.data(), rank, ScalarType::Float8_e4m3fn);
  p.block_scales = static_cast<e4m3_t*>(mutable_data(block_scales));
  launch(op, x, p, nvfp4_quantize_cpu, "ww_nvfp4_quantize");
  return {codes, block_scales, scale};
}

WW_TORCH_OP(nvfp4_quantize,
            "(Tensor x, Tensor? global_scale, Tensor? seed, bool by_row, bool tiles, "
            "bool hadamard, bool four_over_six) -> (Tensor, Tensor, Tensor)");

}  // namespace
}  // namespace ww
