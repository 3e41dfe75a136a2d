// SPDX-License-Identifier: Apache-2.0
// The CUDA kernel. Lanes in a group share a row of the state and hold 16 elements of it each where
// it is long, so that sums over a row are a small part of the work; a group has kRows rows. The
// state is read once, 16 bytes a lane and access, stays in registers over all tokens, and is
// written once; B and C serve all rows of a group. Bound by memory: 8 bytes an element of fp32
// state.
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"
#include "core/cuda/philox.cuh"
#include "ssm_step/ssm_step.h"

#include <type_traits>

namespace ww {
namespace {

constexpr int kThreads = 64;
constexpr int kLaneElements = 16;  // of a row, a lane's most
constexpr int kRows = 4;  // of a group: as many stores of a result as one instruction can make

struct Task {
  SsmStepParams p;
  int lane_bits;       // of a group: it has 2^lane_bits lanes
  uint32_t tiles;      // of P, a block each; 64-bit divisions would be calls
  bool packed_inputs;  // B and C are vectors where the state is
};

// The part of a row that a lane holds: vectors of V elements, and where they are in memory.
struct Part {
  int vectors;           // that exist
  int column, apart;     // of the first, and from one to the next
  int64_t offset, step;  // the same in memory, in elements

  __device__ Part(int64_t stride, int N, int V, int lane, int lane_bits)
      : vectors((N / V + (1 << lane_bits) - 1 - lane) >> lane_bits),
        column(lane * V),
        apart(V << lane_bits),
        offset(column * stride),
        step((V * stride) << lane_bits) {}
};

template <typename S, int V, int kElements, bool kStochastic>
struct Row {
  float v[kElements];
  bool is_finite;  // if known; only stochastic rounding asks

  __device__ void load(const S* s, Part part, bool exists) {
#pragma unroll
    for (int k = 0; k < kElements / V; ++k)
      if (exists && k < part.vectors)
        load_widened<S, V, V>(s + part.offset + k * part.step, v + k * V);
      else
#pragma unroll
        for (int j = 0; j < V; ++j) v[k * V + j] = 0.f;
  }
  // `counter` is the first of the row; see core/philox.h.
  __device__ void store(S* s, Part part, uint64_t counter, uint64_t seed) const {
#pragma unroll
    for (int k = 0; k < kElements / V; ++k) {
      if (k >= part.vectors) continue;
      S* at = s + part.offset + k * part.step;
      if constexpr (kStochastic) {
        const int n = part.column + k * part.apart;
        const uint64_t c = counter + n / kHalvesOfCounter;
        const uint32_t low[1] = {uint32_t(c)};
        uint32_t words[1][4];
        philox<PhiloxLane>(low, uint32_t(c >> 32), philox_keys(seed), words);
        store_packed<S, V>(at, is_finite ? narrow_stochastic<V, true>(v + k * V, words[0], n)
                                         : narrow_stochastic<V, false>(v + k * V, words[0], n));
      } else {
        store_packed<S, V>(at, narrow<S, V>(v + k * V));
      }
    }
  }
};

// B or C of a token, for the elements that a lane holds of the state.
template <typename U, int V, int kElements>
__device__ inline void load_inputs(const U* u, int64_t stride, Part part, bool packed, float* v) {
  constexpr int kWide = V < kVector<U> ? V : kVector<U>;
#pragma unroll
  for (int k = 0; k < kElements; k += V) {
    const U* at = u + part.offset + k / V * part.step;
    if (k / V >= part.vectors)
#pragma unroll
      for (int j = 0; j < V; ++j) v[k + j] = 0.f;
    else if (packed)
      load_widened<U, kWide, V>(at, v + k);
    else
#pragma unroll
      for (int j = 0; j < V; ++j) v[k + j] = widen(at[j * stride]);
  }
}

template <typename S, int V, int kElements, bool kStochastic>
__global__ void __launch_bounds__(kThreads) ssm_step(const __grid_constant__ Task task) {
  const SsmStepParams& p = task.p;
  const uint32_t heads = uint32_t(p.H), head = blockIdx.x / task.tiles;
  const int64_t tile = blockIdx.x % task.tiles, b = head / heads, h = head % heads;
  const int64_t g = uint32_t(h) / (heads / uint32_t(p.G));
  const int lanes = 1 << task.lane_bits, lane = threadIdx.x & (lanes - 1);
  const int group = threadIdx.x >> task.lane_bits;
  const int64_t row = (tile * (kThreads >> task.lane_bits) + group) * kRows;
  const int64_t slot = p.state_indices ? p.state_indices[b] : b;
  // A slot that is not there would be an access outside of the state.
  const bool is_padding = slot < 0 || slot >= p.slots;

  const int N = int(p.N), count = int(p.P - row < kRows ? p.P - row : kRows);
  const Part part(V > 1 ? 1 : p.state_stride[3], N, V, lane, task.lane_bits);
  S* state = static_cast<S*>(p.state) + slot * p.state_stride[0] + h * p.state_stride[1] +
             row * p.state_stride[2];
  Row<S, V, kElements, kStochastic> rows[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r)
    rows[r].load(state + r * p.state_stride[2], part, r < count && !is_padding);

  const auto counter_of = [&](int64_t t, int r) {
    return uint64_t((((b * p.T + t) * p.H + h) * p.P + row + r) * counters_of_row(p.N));
  };
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
    const auto load = [&](const auto* type, const void* base, const int64_t* stride, float* v) {
      using U = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
      const Part inputs(stride[3], N, V, lane, task.lane_bits);
      load_inputs<U, V, kElements>(
          static_cast<const U*>(base) + b * stride[0] + t * stride[1] + g * stride[2], stride[3],
          inputs, task.packed_inputs, v);
    };
    const auto load_both = [&](const auto* type) {
      load(type, p.Bm, p.Bm_stride, B);
      load(type, p.Cm, p.Cm_stride, C);
    };
    if (p.dtype == DType::f32)
      load_both(static_cast<const float*>(nullptr));
    else if (p.dtype == DType::bf16)
      load_both(static_cast<const bf16_t*>(nullptr));
    else
      load_both(static_cast<const f16_t*>(nullptr));
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
      rows[r].is_finite = fabsf(sum) < INFINITY;  // or else the sum is not
      if (p.intermediate && r < count)
        rows[r].store(static_cast<S*>(p.intermediate) + b * p.intermediate_stride[0] +
                          t * p.intermediate_stride[1] + h * p.intermediate_stride[2] +
                          (row + r) * p.intermediate_stride[3],
                      Part(V > 1 ? 1 : p.intermediate_stride[4], N, V, lane, task.lane_bits),
                      counter_of(t, r), p.seed);
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
    if (r < count)
      rows[r].store(state + r * p.state_stride[2], part, counter_of(p.T - 1, r), p.seed);
}

// --- Launch: by state dtype and rounding, whether rows do not start on 16 bytes, and whether they
// are long ---

#define WW_ROWS(name, dtype, S, V, least, stochastic)                                \
  {                                                                                  \
    {"ssm_step", "short rows" name, dtype, ssm_step<S, V, least, stochastic>}, {     \
      "ssm_step", "long rows" name, dtype, ssm_step<S, V, kLaneElements, stochastic> \
    }                                                                                \
  }
#define WW_STATE(name, dtype, S, stochastic)                    \
  {WW_ROWS(name, dtype, S, kVector<S>, kVector<S>, stochastic), \
   WW_ROWS(name ", unaligned", dtype, S, 1, 4, stochastic)}

const CudaKernel<Task> kKernels[4][2][2] = {
    WW_STATE("", "float32", float, false), WW_STATE("", "bfloat16", bf16_t, false),
    WW_STATE("", "float16", f16_t, false), WW_STATE(", stochastic", "float16", f16_t, true)};

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

// B and C of a lane are vectors: of 16 bytes or what V of their elements are, if that is less.
bool inputs_are_packed(const SsmStepParams& p, int64_t V) {
  const int64_t vector = p.dtype == DType::f32 || V == kVector<float> ? kVector<float> : V;
  const int64_t bytes = vector * (p.dtype == DType::f32 ? 4 : 2);
  for (const void* base : {p.Bm, p.Cm})
    if (reinterpret_cast<uintptr_t>(base) % bytes) return false;
  for (const int64_t* stride : {p.Bm_stride, p.Cm_stride})
    if (stride[3] != 1 || stride[0] % vector || stride[1] % vector || stride[2] % vector)
      return false;
  return true;
}

}  // namespace
}  // namespace ww

WW_EXPORT int ww_ssm_step(const ww::SsmStepParams* params, void* stream) {
  using namespace ww;
  const SsmStepParams& p = *params;
  if (p.B == 0 || p.T == 0 || p.H == 0 || p.P == 0) return cudaSuccess;
  const int64_t vector = p.state_dtype == DType::f32 ? kVector<float> : kVector<bf16_t>;
  const bool wide = is_wide(p, vector);
  const int64_t least = wide ? vector : 4;
  int lane_bits = 2;
  while ((kLaneElements << lane_bits) < p.N && lane_bits < 5) ++lane_bits;
  if ((kLaneElements << lane_bits) < p.N) return unsupported("a state of more than 512 columns");
  const bool is_long = (least << lane_bits) < p.N;
  const int64_t rows = (kThreads >> lane_bits) * kRows, tiles = (p.P + rows - 1) / rows;
  return kKernels[p.stochastic ? 3 : int(p.state_dtype)][!wide][is_long].launch(
      tiles * p.B * p.H, kThreads, static_cast<cudaStream_t>(stream),
      {p, lane_bits, uint32_t(tiles), wide && inputs_are_packed(p, vector)});
}
