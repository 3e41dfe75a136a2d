// SPDX-License-Identifier: Apache-2.0
#include "nvfp4_grouped_matmul/nvfp4_grouped_matmul.h"

#include "bindings/op.h"
#include "bindings/weights.h"

namespace ww {
namespace {

Tensor nvfp4_grouped_matmul(const Tensor& a, const OptTensor& a_block_scales,
                            const OptTensor& a_scale, const Tensor& b, const Tensor& b_block_scales,
                            const Tensor& b_scale, const Tensor& offsets, bool relu2,
                            bool float32) {
  constexpr const char* op = "nvfp4_grouped_matmul";
  const DType out_dtype = float32 ? DType::f32 : DType::bf16;
  Arg{op, "b", b}.of(ScalarType::Byte);
  if (!a_block_scales) Arg{op, "a", a}.floating_of(DType::f32, DType::bf16);
  return grouped_product(op, WeightTensors(a, a_block_scales, a_scale),
                         WeightTensors(b, b_block_scales, b_scale), offsets, relu2, &out_dtype,
                         nvfp4_grouped_matmul_cpu, "ww_nvfp4_grouped_matmul");
}

WW_TORCH_OP(nvfp4_grouped_matmul,
            "(Tensor a, Tensor? a_block_scales, Tensor? a_scale, Tensor b, Tensor b_block_scales, "
            "Tensor b_scale, Tensor offsets, bool relu2, bool float32) -> Tensor");

}  // namespace
}  // namespace ww
