// SPDX-License-Identifier: Apache-2.0
// Pairs of kernels, right and with one fault, for the checkers: asynchronous work of sm_90a.
// run(name, grid, block, in, out) launches one on floats. in[i] is i.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "entries.h"
#include "ptx.cuh"
#include "tensor_map.h"

namespace cg = cooperative_groups;

namespace {

constexpr uint32_t kBytes = 256 * sizeof(float);

// --- wgmma: a product of ones by one warpgroup, so each of its elements is 16 ---

enum class Wgmma {
  right,
  no_proxy_fence,
  no_fence,
  no_commit,
  no_wait,
  early_read,
  early_a,
  early_a_read,
  early_d,
  early_b,
  early_copy
};

// A in registers; what writes a register of the product has to be in one piece of PTX with it,
// since in C++ it would be another register.
template <Wgmma kFault>
__device__ float multiply_from_registers(uint64_t b) {
  float out;
#define MULTIPLY(write_a, write_d)                                                               \
  asm volatile(                                                                                  \
      "{ .reg .b32 a<4>; .reg .f32 d<4>;\n"                                                      \
      "mov.b32 a0, 0x3f803f80; mov.b32 a1, a0; mov.b32 a2, a0; mov.b32 a3, a0;\n"                \
      "mov.b32 d0, 0; mov.b32 d1, 0; mov.b32 d2, 0; mov.b32 d3, 0;\n"                            \
      "wgmma.fence.sync.aligned;\n"                                                              \
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {d0, d1, d2, d3}, {a0, a1, a2, a3}, " \
      "%1, 1, 1, 1, 0;\n"                                                                        \
      "wgmma.commit_group.sync.aligned;\n" write_a write_d                                       \
      "wgmma.wait_group.sync.aligned 0;\n"                                                       \
      "mov.f32 %0, d0; }"                                                                        \
      : "=f"(out)                                                                                \
      : "l"(b))
  if (kFault == Wgmma::early_a)
    MULTIPLY("mov.b32 a3, 0;\n", "");
  else if (kFault == Wgmma::early_a_read)
    MULTIPLY("{ .reg .b32 t; mov.b32 t, a3; }\n", "");
  else if (kFault == Wgmma::early_d)
    MULTIPLY("", "mov.b32 d0, 0;\n");
  else
    MULTIPLY("", "");
#undef MULTIPLY
  return out;
}

template <Wgmma kFault, bool kFromRegisters = false>
__global__ void wgmma(const float* in, float* out) {
  __shared__ alignas(128) __nv_bfloat16 a[64 * 16], b[8 * 16];
  __shared__ uint64_t bar;
  for (int i = 0; i < 8; ++i) a[i * 128 + threadIdx.x] = __float2bfloat16(in[1]);
  b[threadIdx.x] = __float2bfloat16(in[1]);
  if (kFault != Wgmma::no_proxy_fence) ptx::fence_async();
  if (threadIdx.x == 0) ptx::mbarrier_init(&bar, 1);
  __syncthreads();
  const uint64_t of_b = ptx::descriptor(b, ptx::kNoSwizzle, 128, 256);
  if (kFromRegisters) {
    out[threadIdx.x] = multiply_from_registers<kFault>(of_b);
    return;
  }
  float d[4] = {};
  ptx::pin(d);
  if (kFault != Wgmma::no_fence) ptx::wgmma_fence();
  ptx::wgmma_n8(d, ptx::descriptor(a, ptx::kNoSwizzle, 128, 256), of_b);
  if (kFault != Wgmma::no_commit) ptx::wgmma_commit();
  if (kFault == Wgmma::early_read) out[threadIdx.x] = d[0];
  if (kFault == Wgmma::early_b) b[threadIdx.x] = __float2bfloat16(in[2]);
  if (kFault == Wgmma::early_copy && threadIdx.x == 0) {
    ptx::mbarrier_expect(&bar, 256);
    ptx::bulk_load(b, in, 256, &bar);
    ptx::mbarrier_wait(&bar, 0);
  }
  if (kFault != Wgmma::no_wait) ptx::wgmma_wait();
  if (kFault != Wgmma::early_read) out[threadIdx.x] = d[0];
}

// --- Bulk copies ---

enum class Load { right, no_wait, small_expect, large_expect, huge_expect, exit, unfenced_write };
template <Load kFault>
__global__ void bulk_load(const float* in, float* out) {
  __shared__ alignas(16) float s[256];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) ptx::mbarrier_init(&bar, 1);
  if (kFault == Load::unfenced_write) s[threadIdx.x] = 0;
  __syncthreads();
  if (threadIdx.x == 0) {
    ptx::mbarrier_expect(&bar, kFault == Load::small_expect   ? kBytes / 2
                               : kFault == Load::large_expect ? kBytes * 2
                               : kFault == Load::huge_expect  ? 1 << 20
                                                              : kBytes);
    ptx::bulk_load(s, in, kBytes, &bar);
  }
  if (kFault == Load::exit) return;
  if (kFault != Load::no_wait) ptx::mbarrier_wait(&bar, 0);
  out[threadIdx.x] = s[255 - threadIdx.x];
}

enum class Store { right, no_proxy_fence, no_barrier, no_wait, exit };
template <Store kFault>
__global__ void bulk_store(const float* in, float* out) {
  __shared__ alignas(16) float s[256];
  s[threadIdx.x] = in[255 - threadIdx.x];
  if (kFault != Store::no_proxy_fence) ptx::fence_async();
  if (kFault != Store::no_barrier) __syncthreads();
  if (threadIdx.x == 0) {
    ptx::bulk_store(out, s, kBytes);
    ptx::bulk_commit();
    if (kFault != Store::no_wait && kFault != Store::exit) ptx::bulk_wait_read();
  }
  __syncthreads();
  if (kFault != Store::exit) s[threadIdx.x] = 0;
  if (kFault != Store::exit && threadIdx.x == 0) ptx::bulk_wait_read();
}

// --- Clusters ---

enum class Remote { right, no_start, no_end };
template <Remote kFault>
__global__ __cluster_dims__(2) void remote(const float* in, float* out) {
  __shared__ float s[128];
  cg::cluster_group cluster = cg::this_cluster();
  if (kFault != Remote::no_start) cluster.sync();
  cluster.map_shared_rank(s, cluster.block_rank() ^ 1)[threadIdx.x] =
      in[blockIdx.x * 128 + threadIdx.x];
  cluster.sync();
  float sum = s[threadIdx.x];
  if (kFault == Remote::no_end) sum += cluster.map_shared_rank(s, 0)[threadIdx.x];
  out[blockIdx.x * 128 + threadIdx.x] = sum;
}

// --- Tensor maps that the kernel changes ---

__device__ CUtensorMap changed_map;

enum class Map { right, no_release, no_acquire };
template <Map kFault>
__global__ void map(const float* in, float* out) {
  __shared__ alignas(128) float s[256];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(&bar, 1);
    asm volatile(
        "tensormap.replace.tile.global_address.global.b1024.b64 [%0], %1;" ::"l"(&changed_map),
        "l"(in)
        : "memory");
    if (kFault != Map::no_release)
      asm volatile("fence.proxy.tensormap::generic.release.gpu;" ::: "memory");
  }
  __syncthreads();
  if (threadIdx.x == 32) {
    if (kFault != Map::no_acquire)
      asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(&changed_map)
                   : "memory");
    ptx::mbarrier_expect(&bar, kBytes);
    ptx::load(s, &changed_map, 0, 0, &bar);
  }
  ptx::mbarrier_wait(&bar, 0);
  out[threadIdx.x] = s[255 - threadIdx.x];
}

const Entry kEntries[] = {{"wgmma", wgmma<Wgmma::right>},
                          {"wgmma_proxy_fence_missing", wgmma<Wgmma::no_proxy_fence>},
                          {"wgmma_fence_missing", wgmma<Wgmma::no_fence>},
                          {"wgmma_commit_missing", wgmma<Wgmma::no_commit>},
                          {"wgmma_wait_missing", wgmma<Wgmma::no_wait>},
                          {"wgmma_early_read", wgmma<Wgmma::early_read>},
                          {"wgmma_early_write", wgmma<Wgmma::early_b>},
                          {"wgmma_early_copy", wgmma<Wgmma::early_copy>},
                          {"wgmma_registers", wgmma<Wgmma::right, true>},
                          {"wgmma_registers_a_written", wgmma<Wgmma::early_a, true>},
                          {"wgmma_registers_a_read", wgmma<Wgmma::early_a_read, true>},
                          {"wgmma_registers_d_written", wgmma<Wgmma::early_d, true>},
                          {"load", bulk_load<Load::right>},
                          {"load_wait_missing", bulk_load<Load::no_wait>},
                          {"load_expects_less", bulk_load<Load::small_expect>},
                          {"load_expects_more", bulk_load<Load::large_expect>},
                          {"load_expects_too_much", bulk_load<Load::huge_expect>},
                          {"load_over_unfenced_write", bulk_load<Load::unfenced_write>},
                          {"exit_with_load", bulk_load<Load::exit>},
                          {"store", bulk_store<Store::right>},
                          {"store_fence_missing", bulk_store<Store::no_proxy_fence>},
                          {"store_barrier_missing", bulk_store<Store::no_barrier>},
                          {"store_wait_missing", bulk_store<Store::no_wait>},
                          {"exit_with_store", bulk_store<Store::exit>},
                          {"remote", remote<Remote::right>},
                          {"remote_before_start", remote<Remote::no_start>},
                          {"remote_after_exit", remote<Remote::no_end>},
                          {"map", map<Map::right>},
                          {"map_release_missing", map<Map::no_release>},
                          {"map_acquire_missing", map<Map::no_acquire>}};

}  // namespace

EXPORT int run(const char* name, int grid, int block, const float* in, float* out) {
  const CUtensorMap of_out =
      tensor_map(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, out, 16, 16, 16, 16, CU_TENSOR_MAP_SWIZZLE_NONE);
  if (const cudaError_t error = cudaMemcpyToSymbol(changed_map, &of_out, sizeof of_out))
    return error;
  return launch(kEntries, name, grid, block, in, out);
}
