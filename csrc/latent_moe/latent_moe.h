// SPDX-License-Identifier: Apache-2.0
// LatentMoE: routed experts inside a latent space, plus a shared expert, the one contract for every
// backend (Nemotron 3 Super and Ultra; with fc1 and fc2 null, the plain MoE layer of Nano).
//
//   out = fc2 · experts(fc1 · x) + shared_down · relu2(shared_up · x)
//
// experts() is moe_mlp in width l. Rounded to the dtype of x: the latent fc1·x, the routed result,
// the shared activation. The last two products, with the scales of quantised weights, are added in
// fp32 and rounded once.
#pragma once

#include "moe_mlp/moe_mlp.h"

namespace ww {

struct LatentMoeParams {
  int64_t T, d, l, S;    // tokens, model width, latent width (d without fc1), shared width or 0
  DType dtype;           // f32 or bf16, of x, out and dense weights
  const void* x;         // (T,d), d contiguous
  int64_t x_stride_t;
  Weights fc1;           // (l,d); absent, data being null, with fc2: l == d
  Weights fc2;           // (d,l)
  Weights shared_up;     // (S,d); absent with shared_down: S == 0
  Weights shared_down;   // (d,S)
  MoeMlpParams experts;  // x and out are set here: to latent (or x) and to routed
  void* latent;          // workspace (T,l), unused without fc1
  void* routed;          // workspace (T,l)
  void* shared;          // workspace (T,S)
  void* out;             // (T,d) row-major
  void* workspace;       // CUDA: ww_latent_moe_workspace() bytes
};

void latent_moe_cpu(const LatentMoeParams& p);  // throws ww::Error on an index out of range

}  // namespace ww
