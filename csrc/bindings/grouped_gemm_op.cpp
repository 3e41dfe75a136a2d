// SPDX-License-Identifier: Apache-2.0
#include "bindings/op.h"
#include "grouped_gemm/grouped_gemm.h"

namespace ww {
namespace {

Tensor grouped_gemm(const Tensor& a_in, const Tensor& b_in, const Tensor& offsets_in, bool relu2) {
  constexpr const char* op = "grouped_gemm";
  Arg{op, "a", a_in}.dim(2, "(M, K)");
  Arg{op, "b", b_in}.dim(3, "(E, N, K)").like(a_in, "a");
  const Tensor a = unit_last_stride(a_in), b = unit_last_stride(b_in),
               offsets = row_major(offsets_in);

  GroupedGemmParams p{};
  p.M = a.size(0), p.K = a.size(1), p.E = b.size(0), p.N = b.size(1);
  p.dtype = Arg{op, "a", a}.floating_of(DType::f32, DType::bf16);
  Arg{op, "b", b}.shape({p.E, p.N, p.K}, "(E, N, K)").floating_of(p.dtype, p.dtype);
  p.relu2 = relu2;
  p.a = data(a), p.a_stride_m = a.stride(0);
  p.b = data(b), p.b_stride_e = b.stride(0), p.b_stride_n = b.stride(1);
  p.offsets_is_int64 = Arg{op, "offsets", offsets}.shape({p.E}, "(E,)").like(a, "a").is_int64();
  p.offsets = data(offsets);
  const Tensor out = empty(a, {p.M, p.N}, scalar_type(p.dtype));
  p.out = mutable_data(out), p.out_stride_m = p.N;

  launch(op, a, p, grouped_gemm_cpu, "ww_grouped_gemm");
  return out;
}

WW_TORCH_OP(grouped_gemm, "(Tensor a, Tensor b, Tensor offsets, bool relu2) -> Tensor");

}  // namespace
}  // namespace ww
