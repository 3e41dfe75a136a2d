// SPDX-License-Identifier: Apache-2.0
#include "ssd_scan/ssd_scan.h"

#include "bindings/op.h"

namespace ww {
namespace {

std::tuple<Tensor, Tensor> ssd_scan(const Tensor& x_in, const Tensor& dt, const Tensor& A_in,
                                    const Tensor& B_in, const Tensor& C_in, int64_t chunk_size,
                                    const OptTensor& D_in, const OptTensor& z_in,
                                    const OptTensor& dt_bias_in, bool dt_softplus, double dt_min,
                                    double dt_max, const OptTensor& initial_states,
                                    const OptTensor& seq_idx, const OptTensor& cu_seqlens,
                                    bool return_final_states) {
  constexpr const char* op = "ssd_scan";
  Arg{op, "x", x_in}.dim(4, "(B, T, H, P)");
  Arg{op, "B", B_in}.dim(4, "(B, T, G, N)").like(x_in, "x");
  const Tensor x = unit_last_stride(x_in), B = unit_last_stride(B_in), C = unit_last_stride(C_in);

  SsdScanParams p{};
  p.B = x.size(0), p.T = x.size(1), p.H = x.size(2), p.P = x.size(3), p.G = B.size(2),
  p.N = B.size(3);
  p.Q = chunk_size;
  p.dtype = Arg{op, "x", x}.floating_of(DType::f32, DType::bf16);
  p.dt_dtype = Arg{op, "dt", dt}
                   .shape({p.B, p.T, p.H}, "(B, T, H)")
                   .like(x, "x")
                   .floating_of(DType::f32, p.dtype);
  p.dt_softplus = dt_softplus, p.dt_min = float(dt_min), p.dt_max = float(dt_max);
  Arg{op, "B", B}.shape({p.B, p.T, p.G, p.N}, "(B, T, G, N)").floating_of(p.dtype, p.dtype);
  Arg{op, "C", C}
      .shape({p.B, p.T, p.G, p.N}, "(B, T, G, N)")
      .like(x, "x")
      .floating_of(p.dtype, p.dtype);
  Arg{op, "A", A_in}.shape({p.H}, "(H,)").like(x, "x").floating();
  const Tensor A = as_float32(A_in);
  p.x = data(x), p.x_stride_b = x.stride(0), p.x_stride_t = x.stride(1), p.x_stride_h = x.stride(2);
  p.dt = data(dt), p.dt_stride_b = dt.stride(0), p.dt_stride_t = dt.stride(1),
  p.dt_stride_h = dt.stride(2);
  p.A = static_cast<const float*>(data(A));
  p.B_ = data(B), p.B_stride_b = B.stride(0), p.B_stride_t = B.stride(1),
  p.B_stride_g = B.stride(2);
  p.C = data(C), p.C_stride_b = C.stride(0), p.C_stride_t = C.stride(1), p.C_stride_g = C.stride(2);

  OptTensor D, z, dt_bias, states;
  if (D_in) {
    const Arg arg{op, "D", *D_in};
    if (arg.tensor.dim() == 2)
      arg.shape({p.H, p.P}, "(H,) or (H, P)");
    else
      arg.shape({p.H}, "(H,) or (H, P)");
    arg.like(x, "x").floating();
    D = as_float32(*D_in);
    p.D = static_cast<const float*>(data(D));
    p.D_stride_h = D->stride(0), p.D_stride_p = D->dim() == 2 ? 1 : 0;
  }
  if (z_in) {
    Arg{op, "z", *z_in}
        .shape({p.B, p.T, p.H, p.P}, "(B, T, H, P)")
        .like(x, "x")
        .floating_of(p.dtype, p.dtype);
    z = unit_last_stride(*z_in);
    p.z = data(z), p.z_stride_b = z->stride(0), p.z_stride_t = z->stride(1),
    p.z_stride_h = z->stride(2);
  }
  if (dt_bias_in) {
    Arg{op, "dt_bias", *dt_bias_in}.shape({p.H}, "(H,)").like(x, "x").floating();
    dt_bias = as_float32(*dt_bias_in);
    p.dt_bias = static_cast<const float*>(data(dt_bias));
  }
  const OptTensor cu = row_major(cu_seqlens), idx = row_major(seq_idx);
  read_sequences(op, x, idx, cu, p);
  if (initial_states) {
    Arg{op, "initial_states", *initial_states}
        .shape({p.num_seqs, p.H, p.P, p.N}, "(B or num_seqs, H, P, N)")
        .like(x, "x")
        .floating();
    states = as_float32(*initial_states);
    p.initial_states = static_cast<const float*>(data(states));
  }
  ssd_scan_check(p);

  const Tensor out = empty(x, {p.B, p.T, p.H, p.P}, scalar_type(p.dtype));
  p.out = mutable_data(out);
  const Tensor final_states = return_final_states
                                  ? empty(x, {p.num_seqs, p.H, p.P, p.N}, ScalarType::Float)
                                  : empty(x, {0}, ScalarType::Float);
  if (return_final_states) p.final_states = static_cast<float*>(mutable_data(final_states));

  launch(op, x, p, ssd_scan_cpu, "ww_ssd_scan");
  return {out, final_states};
}

WW_TORCH_OP(
    ssd_scan,
    "(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, int chunk_size, Tensor? D, Tensor? z, "
    "Tensor? dt_bias, bool dt_softplus, float dt_min, float dt_max, Tensor? initial_states, "
    "Tensor? seq_idx, Tensor? cu_seqlens, bool return_final_states) -> (Tensor, Tensor)");

}  // namespace
}  // namespace ww
