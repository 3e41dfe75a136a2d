// SPDX-License-Identifier: Apache-2.0
#include "bindings/op.h"
#include "bindings/weights.h"

namespace ww {
namespace {

Tensor grouped_gemm(const Tensor& a, const Tensor& b, const Tensor& offsets, bool relu2) {
  constexpr const char* op = "grouped_gemm";
  Arg{op, "a", a}.floating_of(DType::f32, DType::bf16);
  return grouped_product(op, WeightTensors(a), WeightTensors(b), offsets, relu2, nullptr,
                         grouped_gemm_cpu, "ww_grouped_gemm");
}

WW_TORCH_OP(grouped_gemm, "(Tensor a, Tensor b, Tensor offsets, bool relu2) -> Tensor");

}  // namespace
}  // namespace ww
