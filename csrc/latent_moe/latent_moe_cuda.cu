// SPDX-License-Identifier: Apache-2.0
// On CUDA the layer is a sequence of launches: group products of one group for the projections, the
// experts between them, and one product of two parts for fc2 and shared_down, whose sum is rounded
// once. Quantised weights have a scale of their own, so then it is a product and another that adds
// to it in fp32.
#include <algorithm>

#include "core/cuda/launch.h"
#include "core/cuda/workspace.h"
#include "grouped_gemm/group_product_cuda.h"
#include "latent_moe/latent_moe.h"

extern "C" int64_t ww_moe_mlp_workspace(const ww::MoeMlpParams* p);
extern "C" int ww_moe_mlp(const ww::MoeMlpParams* p, void* stream);

namespace ww {
namespace {

MoeMlpParams experts_of(const LatentMoeParams& p) {
  MoeMlpParams experts = p.experts;
  experts.x = p.fc1.data ? p.latent : p.x;
  experts.x_stride_t = p.fc1.data ? p.l : p.x_stride_t;
  experts.out = p.routed, experts.out_stride_t = p.l;
  experts.workspace = p.workspace;
  return experts;
}

// (T,N) of rows (T,K) times a weight (N,K).
GroupProduct product(const LatentMoeParams& p, const void* rows, int64_t stride,
                     const Weights& weight, int64_t N, int64_t K, void* out) {
  GroupProduct g{};
  g.M = p.T, g.N = N, g.E = 1, g.parts = 1;
  g.part[0] = {rows, stride, nullptr, weight, K};
  g.out = out, g.out_stride = N, g.out_dtype = p.dtype;
  g.workspace = p.workspace;  // free before and after the experts
  return g;
}

int64_t products_bytes() { return on_256_bytes(group_product_workspace(1)); }

int run(const LatentMoeParams& p, cudaStream_t stream) {
  if (p.fc1.data) {
    const cudaError_t status = launch_group_product(
        product(p, p.x, p.x_stride_t, p.fc1, p.l, p.d, p.latent), p.dtype, stream);
    if (status != cudaSuccess) return status;
  }
  if (p.shared_up.data) {
    GroupProduct g = product(p, p.x, p.x_stride_t, p.shared_up, p.S, p.d, p.shared);
    g.relu2 = true;
    const cudaError_t status = launch_group_product(g, p.dtype, stream);
    if (status != cudaSuccess) return status;
  }
  const MoeMlpParams experts = experts_of(p);
  if (const int status = ww_moe_mlp(&experts, stream)) return status;

  float* partial = reinterpret_cast<float*>(static_cast<char*>(p.workspace) + products_bytes());
  GroupProduct g = product(p, p.routed, p.l, p.fc2, p.d, p.l, p.out);
  if (!p.fc2.data) {
    g.parts = 0, g.addend = p.routed, g.addend_dtype = p.dtype;
  } else if (p.shared_down.data && (p.fc2.scale || p.shared_down.scale)) {
    g.out = partial, g.out_dtype = DType::f32;
    const cudaError_t status = launch_group_product(g, p.dtype, stream);
    if (status != cudaSuccess) return status;
    g.parts = 0, g.addend = partial, g.addend_dtype = DType::f32;
    g.out = p.out, g.out_dtype = p.dtype;
  }
  if (p.shared_down.data) g.part[g.parts++] = {p.shared, p.S, nullptr, p.shared_down, p.S};
  g.partial = partial;
  return launch_group_product(g, p.dtype, stream);
}

}  // namespace
}  // namespace ww

WW_EXPORT int64_t ww_latent_moe_workspace(const ww::LatentMoeParams* p) {
  const ww::MoeMlpParams experts = ww::experts_of(*p);
  const int64_t partial =
      p->fc2.data && p->shared_down.data ? p->T * p->d * int64_t(sizeof(float)) : 0;
  return std::max(ww_moe_mlp_workspace(&experts), ww::products_bytes() + partial);
}
WW_EXPORT int ww_latent_moe(const ww::LatentMoeParams* p, void* stream) {
  return ww::run(*p, static_cast<cudaStream_t>(stream));
}
