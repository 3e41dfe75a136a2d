// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels: four launches and no word to the host.
//
//   permute  the (token, choice) pairs sorted by expert: one block counts, sums and places them.
//            The order inside an expert is up to the schedule, and no result depends on it
//   up       the group product of the pairs' rows of x, gathered by the product, with relu2
//   down     the group product of that, in fp32
//   combine  per token the weighted sum of its choices in ascending order of expert
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"
#include "core/cuda/workspace.h"
#include "grouped_gemm/group_product_cuda.h"
#include "moe_mlp/moe_mlp.h"

namespace ww {
namespace {

constexpr int kPermuteThreads = 1024;
constexpr int kCombineThreads = 128;
constexpr int kMaxExperts = 8192;  // counters in 32 KB of shared memory
constexpr int kMaxChoices = 128;

struct Workspace : WorkspaceParts {
  int32_t *ends, *tokens, *places;  // (E), (T top_k) token of each sorted pair, place of each pair
  void* h;                          // (T top_k, I) in the operands' dtype
  float* y;                         // (T top_k, K); before that, the pairs' rows of x
  void* products;

  Workspace(const MoeMlpParams& p, void* base) : WorkspaceParts{base} {
    const int64_t pairs = p.T * p.top_k;
    ends = take<int32_t>(p.E);
    tokens = take<int32_t>(pairs);
    places = take<int32_t>(pairs);
    h = take<char>(pairs * p.I * (p.dtype == DType::f32 ? 4 : 2));
    y = take<float>(pairs * p.K);
    products = take<char>(group_product_workspace(p.E));
  }
};

struct Task {
  MoeMlpParams p;
  Workspace w;
};

// An index out of range names no expert here: the host cannot refuse what it does not see.
__device__ inline int expert_of(const MoeMlpParams& p, int64_t pair) {
  const int64_t e = p.indices_is_int64 ? static_cast<const int64_t*>(p.indices)[pair]
                                       : static_cast<const int32_t*>(p.indices)[pair];
  return e >= 0 && e < p.E ? int(e) : -1;
}

// f(pair, its expert) for this thread's pairs. Eight loads are under way at a time: with one block
// on the card nothing else hides their latency.
template <typename F>
__device__ inline void for_pairs(const MoeMlpParams& p, uint32_t pairs, F&& f) {
  constexpr int kAtOnce = 8;
#pragma unroll 1
  for (uint32_t first = threadIdx.x; first < pairs; first += kAtOnce * kPermuteThreads) {
    int expert[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const uint32_t i = first + j * kPermuteThreads;
      expert[j] = i < pairs ? expert_of(p, i) : -1;
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j)
      if (const uint32_t i = first + j * kPermuteThreads; i < pairs) f(i, expert[j]);
  }
}

__global__ void __launch_bounds__(kPermuteThreads) permute(const __grid_constant__ Task task) {
  extern __shared__ int32_t count[];  // of each expert, then where its next pair goes
  __shared__ int32_t warps[32];
  const MoeMlpParams& p = task.p;
  const uint32_t pairs = uint32_t(p.T * p.top_k);
  const int experts = int(p.E);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int e = threadIdx.x; e < experts; e += kPermuteThreads) count[e] = 0;
  __syncthreads();
  for_pairs(p, pairs, [&](uint32_t, int e) {
    if (e >= 0) atomicAdd(&count[e], 1);
  });
  __syncthreads();
  int before = 0;  // pairs of the experts below this step
  for (int first = 0; first < experts; first += kPermuteThreads) {
    const int e = first + threadIdx.x, mine = e < experts ? count[e] : 0;
    int sum = mine;
#pragma unroll
    for (int away = 1; away < 32; away *= 2) {
      const int other = __shfl_up_sync(~0u, sum, away);
      if (lane >= away) sum += other;
    }
    if (lane == 31) warps[warp] = sum;
    __syncthreads();
    int start = before;
    for (int w = 0; w < 32; ++w) {
      if (w < warp) start += warps[w];
      before += warps[w];
    }
    if (e < experts) {
      count[e] = start + sum - mine;
      task.w.ends[e] = start + sum;
    }
    __syncthreads();  // warps[] is free again, count[] complete
  }
  for_pairs(p, pairs, [&](uint32_t i, int e) {
    const int place = e >= 0 ? atomicAdd(&count[e], 1) : -1;
    task.w.places[i] = place;
    if (place >= 0) task.w.tokens[place] = int(i / uint32_t(p.top_k));
  });
}

struct Choice {
  const float* y;  // its expert's result
  float weight;
};

// V columns a thread, 4 or 1. With 8, for 16 bytes of results in bf16, the vectors of fp32 that
// they come from would lie 32 bytes apart from lane to lane: twice the sectors for each load.
template <typename T, int V>
__device__ inline void weighted_sums(const Choice* choice, int count, int64_t columns, T* out) {
  for (int64_t n = threadIdx.x * V; n < columns; n += kCombineThreads * V) {
    float sum[V] = {};
#pragma unroll 2
    for (int i = 0; i < count; ++i) {
      float v[V];
      widen<float>(load_packed<float, V>(choice[i].y + n), v);
#pragma unroll
      for (int j = 0; j < V; ++j) sum[j] = fmaf(choice[i].weight, v[j], sum[j]);
    }
    store_packed<T, V>(out + n, narrow<T, V>(sum));
  }
}

template <typename T>
__global__ void __launch_bounds__(kCombineThreads) combine(const __grid_constant__ Task task) {
  __shared__ int32_t expert[kMaxChoices];
  __shared__ Choice choice[kMaxChoices];  // in ascending order of expert
  const MoeMlpParams& p = task.p;
  const int64_t t = blockIdx.x;
  const int choices = int(p.top_k), mine = threadIdx.x;
  const int64_t pair = t * choices + mine;
  static_assert(kMaxChoices <= kCombineThreads, "a thread a choice");
  if (mine < choices) expert[mine] = expert_of(p, pair);
  const int absent = __syncthreads_count(mine < choices && expert[mine] < 0);  // the lowest ranks
  if (mine < choices && expert[mine] >= 0) {
    int rank = -absent;
    for (int j = 0; j < choices; ++j)
      rank += expert[j] < expert[mine] || (expert[j] == expert[mine] && j < mine);
    choice[rank] = {task.w.y + task.w.places[pair] * p.K, p.weights[pair]};
  }
  __syncthreads();
  T* out = static_cast<T*>(p.out) + t * p.out_stride_t;
  constexpr int V = 4;
  if (p.K % V == 0 && p.out_stride_t % V == 0 &&
      reinterpret_cast<uintptr_t>(p.out) % (V * sizeof(T)) == 0)
    weighted_sums<T, V>(choice, choices - absent, p.K, out);
  else
    weighted_sums<T, 1>(choice, choices - absent, p.K, out);
}

const CudaKernel<Task> kPermute{"moe_mlp", "permute", "float32 bfloat16", permute};
const CudaKernel<Task> kCombine[2] = {{"moe_mlp", "combine", "float32", combine<float>},
                                      {"moe_mlp", "combine", "bfloat16", combine<bf16_t>}};

int run(const MoeMlpParams& p, cudaStream_t stream) {
  if (p.T == 0 || p.K == 0) return cudaSuccess;
  if (p.T * p.top_k > INT32_MAX) return unsupported("more than 2^31 pairs of token and expert");
  if (p.E > kMaxExperts) return unsupported("more than 8192 experts");
  if (p.top_k > kMaxChoices) return unsupported("top_k above 128");
  const Task task{p, Workspace(p, p.workspace)};
  const int64_t pairs = p.T * p.top_k;
  cudaError_t status =
      kPermute.launch(int64_t(1), kPermuteThreads, stream, task, int(p.E * sizeof(int32_t)));
  if (status != cudaSuccess) return status;

  GroupProduct up{};
  up.M = pairs, up.N = p.I, up.E = p.E, up.ends = task.w.ends, up.relu2 = true, up.parts = 1;
  up.part[0] = {p.x, p.x_stride_t, task.w.tokens, p.up, p.K};
  up.out = task.w.h, up.out_stride = p.I, up.out_dtype = p.dtype;
  up.gathered = task.w.y, up.workspace = task.w.products;
  status = launch_group_product(up, p.dtype, stream);
  if (status != cudaSuccess) return status;

  GroupProduct down{};
  down.M = pairs, down.N = p.K, down.E = p.E, down.ends = task.w.ends, down.parts = 1;
  down.part[0] = {task.w.h, p.I, nullptr, p.down, p.I};
  down.out = task.w.y, down.out_stride = p.K, down.out_dtype = DType::f32;
  down.workspace = task.w.products;
  status = launch_group_product(down, p.dtype, stream);
  if (status != cudaSuccess) return status;
  return kCombine[p.dtype == DType::bf16].launch(p.T, kCombineThreads, stream, task);
}

}  // namespace
}  // namespace ww

WW_EXPORT int64_t ww_moe_mlp_workspace(const ww::MoeMlpParams* p) {
  return ww::Workspace(*p, nullptr).bytes;
}
WW_EXPORT int ww_moe_mlp(const ww::MoeMlpParams* p, void* stream) {
  return ww::run(*p, static_cast<cudaStream_t>(stream));
}
