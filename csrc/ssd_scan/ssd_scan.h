// SPDX-License-Identifier: Apache-2.0
// The Mamba-2 state space scan (arXiv 2405.21060), the one contract for every backend. Per head h
// with group g = h / (H/G), state s in R^{P x N}, s = initial state (or 0) before the first token:
//
//   dt' = clamp(softplus?(dt + dt_bias), dt_min, dt_max)      softplus is linear above 20
//   s   = exp(dt' A) s + (dt' x_t) B_t^T
//   y_t = (s C_t + D x_t) * silu(z_t)?
//
// The state starts anew where seq_idx changes and at each cu_seqlens offset. It is carried in fp32.
// Inside a chunk of Q tokens the recurrence is evaluated in its dual, quadratic form as matrix
// products whose operands have the dtype of x (fp32 accumulation); Q changes rounding and speed,
// nothing else. y is rounded once. Subnormal fp32 intermediates may be taken as zero. out aliases
// nothing.
#pragma once

#include "core/segment.h"
#include "core/types.h"

namespace ww {

struct SsdScanParams : SequenceLayout {
  int64_t H, P, G, N;                         // G divides H
  int64_t Q;                                  // chunk length, 1 to kMaxSsdChunk
  DType dtype;                                // of x, B, C, z, out: f32 or bf16
  DType dt_dtype;                             // of dt: dtype or f32
  bool dt_softplus;
  float dt_min, dt_max;
  const void* x;                              // (B,T,H,P), P contiguous
  int64_t x_stride_b, x_stride_t, x_stride_h;
  const void* dt;                             // (B,T,H)
  int64_t dt_stride_b, dt_stride_t, dt_stride_h;
  const float* A;                             // (H)
  const void* B_;                             // (B,T,G,N), N contiguous
  int64_t B_stride_b, B_stride_t, B_stride_g;
  const void* C;                              // (B,T,G,N), N contiguous
  int64_t C_stride_b, C_stride_t, C_stride_g;
  const float* D;                             // (H) or (H,P), D_stride_p 0 or 1; may be null
  int64_t D_stride_h, D_stride_p;
  const void* z;                              // (B,T,H,P), P contiguous; may be null
  int64_t z_stride_b, z_stride_t, z_stride_h;
  const float* dt_bias;                       // (H); may be null
  const float* initial_states;                // (num_seqs,H,P,N) row-major; may be null: zeros
  void* out;                                  // (B,T,H,P) row-major
  float* final_states;                        // (num_seqs,H,P,N) row-major; may be null: not wanted
  void* workspace;                            // CUDA: ww_ssd_scan_workspace() bytes
};

constexpr int64_t kMaxSsdChunk = 1024;        // a chunk's Q x Q products are kept per thread

void ssd_scan_check(const SsdScanParams& p);  // throws ww::Error on what the contract forbids
void ssd_scan_cpu(const SsdScanParams& p);

}  // namespace ww
