// SPDX-License-Identifier: Apache-2.0
// The Mamba-2 recurrence for one token or a few, state updated in place; the one contract for every
// backend. Head h reads group h / (H/G) of Bm and Cm.
//
//   s = dt[b,t,h] + dt_bias[h], softplus(s) if dt_softplus, clamped to [dt_min, dt_max]
//   state[p,n] = exp(s A[h]) state[p,n] + s x[b,t,h,p] Bm[b,t,g,n]
//   out[b,t,h,p] = (sum_n state[p,n] Cm[b,t,g,n] + D[h,p] x[b,t,h,p]) * silu(z[b,t,h,p])
//
// The state is read once, kept in fp32 over all tokens and rounded once when written back; a 16-bit
// intermediate is rounded from the same fp32. Stochastic rounding, of fp16, is that of
// core/philox.h with row ((b T + t) H + h) P + p: the state after token t is rounded alike as an
// intermediate and as the last one, whatever slot it is in. Nothing of a row with a negative state
// index is touched but its output, which is 0. Any strides; no two elements of state or
// intermediate may share memory.
#pragma once

#include "core/types.h"

namespace ww {

struct SsmStepParams {
  int64_t B, T, H, P, G, N, slots;
  DType dtype;        // of x, Bm, Cm, z, out
  DType state_dtype;  // of state, intermediate
  DType dt_dtype, A_dtype, D_dtype, dt_bias_dtype;
  bool dt_softplus;
  float dt_min, dt_max;
  bool stochastic;               // only with f16 states
  uint64_t seed;                 // of it
  void* state;                   // (slots,H,P,N)
  int64_t state_stride[4];
  const int32_t* state_indices;  // (B) contiguous; may be null: row b has slot b
  const void* x;                 // (B,T,H,P)
  int64_t x_stride[4];
  const void* dt;                // (B,T,H)
  int64_t dt_stride[3];
  const void* Bm;                // (B,T,G,N)
  int64_t Bm_stride[4];
  const void* Cm;                // (B,T,G,N)
  int64_t Cm_stride[4];
  const void* z;                 // (B,T,H,P); may be null: no gate
  int64_t z_stride[4];
  const void* A;                 // (H)
  int64_t A_stride;
  const void* D;                 // (H,P), stride 0 over P for one value a head; may be null
  int64_t D_stride[2];
  const void* dt_bias;           // (H); may be null
  int64_t dt_bias_stride;
  void* intermediate;            // (B,T,H,P,N): the state after each token; may be null: not wanted
  int64_t intermediate_stride[5];
  void* out;                     // (B,T,H,P) contiguous
};

void ssm_step_check(const SsmStepParams& p);  // throws ww::Error on what the contract forbids
void ssm_step_cpu(
    const SsmStepParams& p);  // also refuses state indices out of range or given twice
// Exported by libwarpweave_cuda.so; see core/cuda/api.h.
// int ww_ssm_step(const SsmStepParams*, void* stream)

}  // namespace ww
