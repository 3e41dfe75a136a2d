// SPDX-License-Identifier: Apache-2.0
// The CUDA kernel. Lanes in a group, a power of two that just spans N, share a row of the state and
// hold kElements of it each; a warp has several groups, a group kRows rows. The state is read once,
// 16 bytes a lane and access, stays in registers over all tokens, and is written once; B and C are
// read once a warp and serve all of its rows. Bound by memory: 8 bytes an element of fp32 state.
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"
#include "ssm_step/ssm_step.h"

namespace ww {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = 4;  // of a group: as many stores of a result as one instruction can make

struct Task {
  SsmStepParams p;
  int lanes;       // of a group
  uint32_t tiles;  // of P, a block each; 64-bit divisions would be calls
};

template <typename S, int V, int kElements>
struct Row {
  float v[kElements];

  __device__ void load(const S* s, int64_t stride, int64_t count, int lane, int lanes) {
#pragma unroll
    for (int k = 0; k < kElements / V; ++k) {
      const int64_t i = (lane + int64_t(k) * lanes) * V;
      if (i < count)
        widen<S>(load_packed<S, V>(s + i * stride), v + k * V);
      else
#pragma unroll
        for (int j = 0; j < V; ++j) v[k * V + j] = 0.f;
    }
  }
  __device__ void store(S* s, int64_t stride, int64_t count, int lane, int lanes) const {
#pragma unroll
    for (int k = 0; k < kElements / V; ++k) {
      const int64_t i = (lane + int64_t(k) * lanes) * V;
      if (i < count) store_packed<S, V>(s + i * stride, narrow<S, V>(v + k * V));
    }
  }
};

template <int V, int kElements>
__device__ inline void load_inputs(const void* base, DType dtype, int64_t first, int64_t stride,
                                   int64_t count, int lane, int lanes, float* v) {
#pragma unroll
  for (int k = 0; k < kElements; ++k) {
    const int64_t i = (lane + int64_t(k / V) * lanes) * V + k % V;
    v[k] = i < count ? load_param(base, dtype, first + i * stride) : 0.f;
  }
}

template <typename S, int V, int kElements>
__global__ void __launch_bounds__(kThreads) ssm_step(const __grid_constant__ Task task) {
  const SsmStepParams& p = task.p;
  const uint32_t heads = uint32_t(p.H), head = blockIdx.x / task.tiles;
  const int64_t tile = blockIdx.x % task.tiles, b = head / heads, h = head % heads;
  const int64_t g = uint32_t(h) / (heads / uint32_t(p.G));
  const int lanes = task.lanes, lane = threadIdx.x % lanes, group = threadIdx.x / lanes;
  const int64_t row = (tile * (kThreads / lanes) + group) * kRows;
  const int64_t slot = p.state_indices ? p.state_indices[b] : b;
  // A slot that is not there would be an access outside of the state.
  const bool is_padding = slot < 0 || slot >= p.slots;

  S* state[kRows];
  Row<S, V, kElements> rows[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    state[r] = static_cast<S*>(p.state) + slot * p.state_stride[0] + h * p.state_stride[1] +
               (row + r) * p.state_stride[2];
    rows[r].load(state[r], p.state_stride[3], row + r < p.P && !is_padding ? p.N : 0, lane, lanes);
  }

  const float A = load_param(p.A, p.A_dtype, h * p.A_stride);
  const float bias = p.dt_bias ? load_param(p.dt_bias, p.dt_bias_dtype, h * p.dt_bias_stride) : 0.f;
  // Lane r of a group has the inputs and the result of its row r.
  const int64_t own = row + lane;
  const bool owns = lane < kRows && own < p.P;
  const float D =
      p.D && owns ? load_param(p.D, p.D_dtype, h * p.D_stride[0] + own * p.D_stride[1]) : 0.f;

#pragma unroll 1
  for (int64_t t = 0; t < p.T; ++t) {
    const int64_t out = ((b * p.T + t) * p.H + h) * p.P + own;
    if (is_padding) {
      if (owns) store_param(p.out, p.dtype, out, 0.f);
      continue;
    }
    const float raw =
        load_param(p.dt, p.dt_dtype, b * p.dt_stride[0] + t * p.dt_stride[1] + h * p.dt_stride[2]);
    const float step = time_step(raw + bias, p.dt_softplus, p.dt_min, p.dt_max);
    const float decay = expf(step * A);
    const float x = owns ? load_param(p.x, p.dtype,
                                      b * p.x_stride[0] + t * p.x_stride[1] + h * p.x_stride[2] +
                                          own * p.x_stride[3])
                         : 0.f;
    float B[kElements], C[kElements];
    load_inputs<V, kElements>(p.Bm, p.dtype,
                              b * p.Bm_stride[0] + t * p.Bm_stride[1] + g * p.Bm_stride[2],
                              p.Bm_stride[3], p.N, lane, lanes, B);
    load_inputs<V, kElements>(p.Cm, p.dtype,
                              b * p.Cm_stride[0] + t * p.Cm_stride[1] + g * p.Cm_stride[2],
                              p.Cm_stride[3], p.N, lane, lanes, C);
    float y = 0.f;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float input = step * __shfl_sync(~0u, x, r, lanes);
      float sum = 0.f;
#pragma unroll
      for (int k = 0; k < kElements; ++k) {
        rows[r].v[k] = fmaf(input, B[k], rows[r].v[k] * decay);
        sum = fmaf(rows[r].v[k], C[k], sum);
      }
      for (int away = lanes / 2; away > 0; away /= 2) sum += __shfl_xor_sync(~0u, sum, away);
      if (lane == r) y = sum;
      if (p.intermediate && row + r < p.P)
        rows[r].store(static_cast<S*>(p.intermediate) + b * p.intermediate_stride[0] +
                          t * p.intermediate_stride[1] + h * p.intermediate_stride[2] +
                          (row + r) * p.intermediate_stride[3],
                      p.intermediate_stride[4], p.N, lane, lanes);
    }
    if (!owns) continue;
    y = fmaf(D, x, y);
    if (p.z)
      y *= silu<float>(load_param(
          p.z, p.dtype,
          b * p.z_stride[0] + t * p.z_stride[1] + h * p.z_stride[2] + own * p.z_stride[3]));
    store_param(p.out, p.dtype, out, y);
  }
  if (is_padding) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r)
    if (row + r < p.P) rows[r].store(state[r], p.state_stride[3], p.N, lane, lanes);
}

// --- Launch: by state dtype, whether rows do not start on 16 bytes, and elements a lane ---

#define WW_SIZES(name, dtype, S, V, least)                            \
  {                                                                   \
    {"ssm_step", name, dtype, ssm_step<S, V, least>},                 \
        {"ssm_step", name " x2", dtype, ssm_step<S, V, 2 * least>}, { \
      "ssm_step", name " x4", dtype, ssm_step<S, V, 4 * least>        \
    }                                                                 \
  }
#define WW_STATE(dtype, S) \
  {WW_SIZES("step", dtype, S, kVector<S>, kVector<S>), WW_SIZES("step, unaligned", dtype, S, 1, 8)}

const CudaKernel<Task> kKernels[3][2][3] = {
    WW_STATE("float32", float), WW_STATE("bfloat16", bf16_t), WW_STATE("float16", f16_t)};

bool is_wide(const SsmStepParams& p, int64_t vector) {
  for (const void* base : {p.state, p.intermediate})
    if (reinterpret_cast<uintptr_t>(base) % 16) return false;
  if (p.state_stride[3] != 1 || p.N % vector) return false;
  for (int d = 0; d < 3; ++d)
    if (p.state_stride[d] % vector) return false;
  if (!p.intermediate) return true;
  for (int d = 0; d < 4; ++d)
    if (p.intermediate_stride[d] % vector) return false;
  return p.intermediate_stride[4] == 1;
}

}  // namespace
}  // namespace ww

WW_EXPORT int ww_ssm_step(const ww::SsmStepParams* params, void* stream) {
  using namespace ww;
  const SsmStepParams& p = *params;
  if (p.B == 0 || p.T == 0 || p.H == 0 || p.P == 0) return cudaSuccess;
  const int64_t vector = p.state_dtype == DType::f32 ? kVector<float> : kVector<bf16_t>;
  const bool wide = is_wide(p, vector);
  const int64_t least = wide ? vector : 8;
  int lanes = kRows;
  while (lanes < 32 && lanes * least < p.N) lanes *= 2;
  int size = 0;
  while (size < 3 && lanes * (least << size) < p.N) ++size;
  if (size == 3) return unsupported("a state of more than 512 elements a row (1024 in 16 bits)");
  const int64_t rows = kThreads / lanes * kRows, tiles = (p.P + rows - 1) / rows;
  return kKernels[int(p.state_dtype)][!wide][size].launch(
      tiles * p.B * p.H, kThreads, static_cast<cudaStream_t>(stream), {p, lanes, uint32_t(tiles)});
}
