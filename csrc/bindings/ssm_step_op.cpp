// SPDX-License-Identifier: Apache-2.0
#include "bindings/op.h"
#include "ssm_step/ssm_step.h"

namespace ww {
namespace {

constexpr const char* op = "ssm_step";

void copy_strides(const Tensor& t, int64_t* out) {
  const auto strides = t.strides();
  for (int64_t d = 0; d < t.dim(); ++d) out[d] = strides[d];
}

// Checks a tensor that has a time axis if x has one, and fills its strides as if it always had.
const void* token_operand(const char* name, const Tensor& t, const Tensor& x,
                          std::initializer_list<int64_t> sizes, const char* meaning,
                          const char* meaning_time, int64_t* strides) {
  const bool time = x.dim() == 4;
  const int64_t* with_time = sizes.begin();
  int64_t expected[4], rank = 0;
  for (int64_t d = 0; d < int64_t(sizes.size()); ++d)
    if (d != 1 || time) expected[rank++] = with_time[d];
  Arg{op, name, t}.shape(expected, rank, time ? meaning_time : meaning).like(x, "x");
  copy_strides(t, strides);
  if (!time) {
    for (int64_t d = rank; d > 1; --d) strides[d] = strides[d - 1];
    strides[1] = 0;
  }
  return data(t);
}

Tensor ssm_step(const Tensor& state, const Tensor& x, const Tensor& dt, const Tensor& A,
                const Tensor& B, const Tensor& C, const OptTensor& D, const OptTensor& z,
                const OptTensor& dt_bias, bool dt_softplus, double dt_min, double dt_max,
                const OptTensor& state_indices, const OptTensor& intermediate_states,
                const OptTensor& seed) {
  WW_CHECK(x.dim() == 3 || x.dim() == 4, op, ": 'x' has shape ", shape_string(x),
           ", expected (B, H, P) or (B, T, H, P)");
  const bool time = x.dim() == 4;
  Arg{op, "state", state}.dim(4, "(B or slots, H, P, N)").like(x, "x");
  Arg{op, "B", B}.dim(x.dim(), time ? "(B, T, G, N)" : "(B, G, N)");

  SsmStepParams p{};
  p.B = x.size(0), p.T = time ? x.size(1) : 1, p.H = x.size(-2), p.P = x.size(-1);
  p.G = B.size(-2), p.N = B.size(-1), p.slots = state.size(0);
  p.dtype = Arg{op, "x", x}.floating();
  p.dt_softplus = dt_softplus;
  p.dt_min = float(dt_min), p.dt_max = float(dt_max);
  p.x = token_operand("x", x, x, {p.B, p.T, p.H, p.P}, "(B, H, P)", "(B, T, H, P)", p.x_stride);
  p.dt = token_operand("dt", dt, x, {p.B, p.T, p.H}, "(B, H)", "(B, T, H)", p.dt_stride);
  p.Bm = token_operand("B", B, x, {p.B, p.T, p.G, p.N}, "(B, G, N)", "(B, T, G, N)", p.Bm_stride);
  p.Cm = token_operand("C", C, x, {p.B, p.T, p.G, p.N}, "(B, G, N)", "(B, T, G, N)", p.Cm_stride);
  if (z) {
    p.z = token_operand("z", *z, x, {p.B, p.T, p.H, p.P}, "(B, H, P)", "(B, T, H, P)", p.z_stride);
    Arg{op, "z", *z}.floating_of(p.dtype, p.dtype);
  }
  Arg{op, "B", B}.floating_of(p.dtype, p.dtype);
  Arg{op, "C", C}.floating_of(p.dtype, p.dtype);
  p.dt_dtype = Arg{op, "dt", dt}.floating();

  p.A_dtype = Arg{op, "A", A}.shape({p.H}, "(H,)").like(x, "x").floating();
  p.A = data(A), p.A_stride = A.stride(0);
  if (D) {
    const Arg arg{op, "D", *D};
    if (D->dim() == 2)
      arg.shape({p.H, p.P}, "(H, P)");
    else
      arg.shape({p.H}, "(H,) or (H, P)");
    p.D_dtype = arg.like(x, "x").floating();
    p.D = data(*D);
    copy_strides(*D, p.D_stride);
  }
  if (dt_bias) {
    p.dt_bias_dtype = Arg{op, "dt_bias", *dt_bias}.shape({p.H}, "(H,)").like(x, "x").floating();
    p.dt_bias = data(*dt_bias), p.dt_bias_stride = dt_bias->stride(0);
  }
  p.state_dtype =
      Arg{op, "state", state}.shape({p.slots, p.H, p.P, p.N}, "(B or slots, H, P, N)").floating();
  copy_strides(state, p.state_stride);
  const OptTensor indices = row_major(state_indices);
  if (indices) {
    Arg{op, "state_indices", *indices}.shape({p.B}, "(B,)").like(x, "x").of(ScalarType::Int);
    p.state_indices = static_cast<const int32_t*>(data(*indices));
  }
  if (intermediate_states) {
    Arg{op, "intermediate_states", *intermediate_states}
        .shape({p.B, p.T, p.H, p.P, p.N}, "(B, T, H, P, N)")
        .like(x, "x")
        .floating_of(p.state_dtype, p.state_dtype);
    p.intermediate = mutable_data(*intermediate_states);
    copy_strides(*intermediate_states, p.intermediate_stride);
  }
  if (seed) {  // on the CPU, whatever the device of x
    p.stochastic = true;
    p.seed = uint64_t(*static_cast<const int64_t*>(seed->const_data_ptr()));
  }
  p.state = mutable_data(state);
  ssm_step_check(p);

  const Tensor out = empty_like(x, scalar_type(p.dtype));
  p.out = mutable_data(out);
  launch(op, x, p, ssm_step_cpu, "ww_ssm_step");
  return out;
}

WW_TORCH_OP(ssm_step,
            "(Tensor(a!) state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, "
            "Tensor? z, Tensor? dt_bias, bool dt_softplus, float dt_min, float dt_max, Tensor? "
            "state_indices, Tensor(b!)? intermediate_states, Tensor? seed) -> Tensor");

}  // namespace
}  // namespace ww
