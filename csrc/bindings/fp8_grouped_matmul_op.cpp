// SPDX-License-Identifier: Apache-2.0
#include "fp8_grouped_matmul/fp8_grouped_matmul.h"

#include "bindings/op.h"
#include "bindings/weights.h"

namespace ww {
namespace {

Tensor fp8_grouped_matmul(const Tensor& a, const Tensor& b, const OptTensor& scale_a,
                          const Tensor& scale_b, const Tensor& offsets, bool relu2, bool float32) {
  constexpr const char* op = "fp8_grouped_matmul";
  const DType out_dtype = float32 ? DType::f32 : DType::bf16;
  Arg{op, "b", b}.of(ScalarType::Float8_e4m3fn);
  if (scale_a)
    Arg{op, "a", a}.of(ScalarType::Float8_e4m3fn);
  else
    Arg{op, "a", a}.floating_of(DType::f32, DType::bf16);
  return grouped_product(op, WeightTensors(a, {}, scale_a), WeightTensors(b, {}, scale_b), offsets,
                         relu2, &out_dtype, fp8_grouped_matmul_cpu, "ww_fp8_grouped_matmul");
}

WW_TORCH_OP(fp8_grouped_matmul,
            "(Tensor a, Tensor b, Tensor? scale_a, Tensor scale_b, Tensor offsets, bool relu2, "
            "bool float32) -> Tensor");

}  // namespace
}  // namespace ww
