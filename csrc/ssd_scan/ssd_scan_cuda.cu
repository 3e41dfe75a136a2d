// SPDX-License-Identifier: Apache-2.0
// Which CUDA kernel a scan takes: kWhen.. and why_not.. below. Strides never change the kernel, and
// so not the bits.
#include "core/cuda/tensor_map.h"
#include "ssd_scan/ssd_hopper.cuh"
#include "ssd_scan/ssd_recurrent.cuh"
#include "ssd_scan/ssd_stream.cuh"

namespace ww {
namespace {

constexpr int64_t kShortestSegment = 256;  // below this handing states on costs more than it brings

constexpr const char* kWhenHopper =
    "compute capability 9.0, where stream would take tiles of 64 columns and N up to 128";
constexpr const char* kWhenStream =
    "8 divides P and N, and N is at most 256; of the tiles that hold N those that waste least of "
    "P. "
    "If rows x heads x tiles are fewer than multiprocessors, rows are cut into segments of 256 "
    "tokens "
    "or more";
constexpr const char* kWhenRecurrent = "everything else";

struct StreamKernel {
  int P, N, shared, accumulators;  // of a block
  CudaKernel<StreamTask> kernel;

  template <int kP, int kN, int kBuffers>
  static StreamKernel make(const char* variant) {
    using S = Stream<kP, kN, kBuffers>;
    return {kP,
            kN,
            S::kSharedBytes,
            kP * kN,
            {"ssd_scan", variant, "bfloat16", ssd_stream<kP, kN, kBuffers>, kWhenStream}};
  }
};
const StreamKernel kStream[] = {StreamKernel::make<64, 64, 2>("stream P64 N64"),
                                StreamKernel::make<80, 64, 2>("stream P80 N64"),
                                StreamKernel::make<64, 128, 2>("stream P64 N128"),
                                StreamKernel::make<80, 128, 2>("stream P80 N128"),
                                StreamKernel::make<32, 256, 1>("stream P32 N256")};

struct HopperKernel {
  static constexpr int kP = 64;
  int N, shared;
  CudaKernel<HopperTask> kernel;

  template <int kN>
  static HopperKernel make(const char* variant) {
    return {kN,
            Hopper<kN>::kSharedBytes,
            {"ssd_scan", variant, "bfloat16", ssd_hopper<kN>, kWhenHopper}};
  }
};
const HopperKernel kHopper[] = {HopperKernel::make<64>("hopper P64 N64"),
                                HopperKernel::make<128>("hopper P64 N128")};

const CudaKernel<RecurrentTask> kRecurrent[2][3] = {
    {{"ssd_scan", "recurrent", "float32", ssd_recurrent<float, 4, 4>, kWhenRecurrent},
     {"ssd_scan", "recurrent x4", "float32", ssd_recurrent<float, 16, 2>, kWhenRecurrent},
     {"ssd_scan", "recurrent x8", "float32", ssd_recurrent<float, 32, 1>, kWhenRecurrent}},
    {{"ssd_scan", "recurrent", "bfloat16", ssd_recurrent<bf16_t, 4, 4>, kWhenRecurrent},
     {"ssd_scan", "recurrent x4", "bfloat16", ssd_recurrent<bf16_t, 16, 2>, kWhenRecurrent},
     {"ssd_scan", "recurrent x8", "bfloat16", ssd_recurrent<bf16_t, 32, 1>, kWhenRecurrent}}};

// Null if it can.
const char* why_not_stream(const SsdScanParams& p) {
  if (p.dtype != DType::bf16) return "operands are not bfloat16";
  if (p.P % 8 || p.N % 8 || p.N == 0) return "8 does not divide P and N";
  return p.N <= 256 ? nullptr : "N is above 256";
}

const StreamKernel* stream_kernel(const SsdScanParams& p) {
  if (why_not_stream(p)) return nullptr;
  const auto padded = [&](const StreamKernel& k) { return (p.P + k.P - 1) / k.P * k.P; };
  const StreamKernel* best = nullptr;
  for (const StreamKernel& k : kStream)
    if (p.N <= k.N && (!best || (k.N == best->N && padded(k) < padded(*best)))) best = &k;
  return best;
}

// The kernel for sm_90a with the same tiles; or null, and why a Hopper device has none.
const HopperKernel* hopper_kernel(const StreamKernel& k, const char** why) {
  int capability;
  *why = "";
  if (compute_capability(&capability) != cudaSuccess || capability != 90) return nullptr;
  for (const HopperKernel& hopper : kHopper) {
    if (k.P != hopper.kP || k.N != hopper.N) continue;
    cudaFuncAttributes attributes;
    if (cudaFuncGetAttributes(&attributes, hopper.kernel.row.function) == cudaSuccess &&
        attributes.maxThreadsPerBlock >= kHopperThreads)
      return &hopper;
    *why = "this build has no code for sm_90a";
    return nullptr;
  }
  *why = "tiles are not of 64 columns of P and up to 128 of N";
  return nullptr;
}

bool make_tensor_maps(const SsdScanParams& p, HopperTask* task) {
  return make_tensor_map(&task->x, p.x, {p.P, p.T, p.H, p.B},
                         {p.x_stride_t, p.x_stride_h, p.x_stride_b}) &&
         make_tensor_map(&task->B, p.B_, {p.N, p.T, p.G, p.B},
                         {p.B_stride_t, p.B_stride_g, p.B_stride_b}) &&
         make_tensor_map(&task->C, p.C, {p.N, p.T, p.G, p.B},
                         {p.C_stride_t, p.C_stride_g, p.C_stride_b}) &&
         make_tensor_map(&task->out, p.out, {p.P, p.T, p.H, p.B},
                         {p.H * p.P, p.P, p.T * p.H * p.P});
}

bool is_aligned(const SsdScanParams& p) {
  for (const void* base : {p.x, p.B_, p.C, p.z})
    if (reinterpret_cast<uintptr_t>(base) % 16) return false;
  for (int64_t stride :
       {p.x_stride_b, p.x_stride_t, p.x_stride_h, p.B_stride_b, p.B_stride_t, p.B_stride_g,
        p.C_stride_b, p.C_stride_t, p.C_stride_g, p.z_stride_b, p.z_stride_t, p.z_stride_h})
    if (stride % 8) return false;
  return true;
}

struct StreamPlan {
  uint32_t tiles, units, segments;
  int64_t segment_tokens, state_bytes, flag_bytes;
};

cudaError_t plan_stream(const SsdScanParams& p, const StreamKernel& k, StreamPlan* plan) {
  int sms;
  const cudaError_t status = multiprocessors(&sms);
  if (status != cudaSuccess) return status;
  const int64_t tiles = (p.P + k.P - 1) / k.P, units = p.num_seqs * p.H * tiles;
  if (units > INT32_MAX) return cudaErrorInvalidConfiguration;
  int64_t segments = 1, tokens = p.T;
  if (!p.cu_seqlens && units > 0) {
    segments = (sms + units - 1) / units;
    const int64_t most = p.T / kShortestSegment;
    segments = segments < most ? segments : (most > 0 ? most : 1);
    tokens = ((p.T + segments - 1) / segments + 63) / 64 * 64;
    segments = tokens > 0 ? (p.T + tokens - 1) / tokens : 1;
    segments = segments > 0 ? segments : 1;
  }
  *plan = {uint32_t(tiles),
           uint32_t(units),
           uint32_t(segments),
           tokens,
           (segments - 1) * units * k.accumulators * int64_t(sizeof(float)),
           ((segments - 1) * units + 1) * int64_t(sizeof(int32_t))};
  return cudaSuccess;
}

int run_stream(const SsdScanParams& p, const StreamKernel& k, cudaStream_t stream) {
  StreamPlan plan;
  cudaError_t status = plan_stream(p, k, &plan);
  if (status != cudaSuccess) return status;
  HopperTask task{};
  static_cast<StreamTask&>(task) = {
      p,       plan.tiles, plan.units, plan.segments, plan.segment_tokens, is_aligned(p),
      nullptr, nullptr};
  if (plan.segments > 1) {
    task.states = static_cast<float*>(p.workspace);
    task.ready = reinterpret_cast<int32_t*>(static_cast<char*>(p.workspace) + plan.state_bytes);
    status = cudaMemsetAsync(task.ready, 0, size_t(plan.flag_bytes), stream);
    if (status != cudaSuccess) return status;
  }
  const int64_t blocks = int64_t(plan.units) * plan.segments;
  const char* why;
  const HopperKernel* hopper = hopper_kernel(k, &why);
  const Because because(*why || plan.segments == 1
                            ? why
                            : "rows are cut into segments for want of other parallel work");
  if (hopper) {
    task.is_mapped = make_tensor_maps(p, &task);
    return hopper->kernel.launch(blocks, kHopperThreads, stream, task, hopper->shared);
  }
  return k.kernel.launch(blocks, 128, stream, task, k.shared);
}

int run_recurrent(const SsdScanParams& p, cudaStream_t stream) {
  int lanes = 4, size = 0;
  while (lanes < 32 && lanes * 4 < p.N) lanes *= 2;
  for (const int elements : {4, 16, 32}) {
    if (lanes * elements >= p.N) break;
    ++size;
  }
  if (size == 3) return unsupported("N above 1024");
  const int64_t rows = kRecurrentThreads / lanes * (4 >> size);
  const int64_t tiles = (p.P + rows - 1) / rows;
  const Because because(why_not_stream(p));
  return kRecurrent[p.dtype == DType::bf16][size].launch(
      p.num_seqs * p.H * tiles, kRecurrentThreads, stream, {p, lanes, uint32_t(tiles)});
}

}  // namespace
}  // namespace ww

WW_EXPORT int64_t ww_ssd_scan_workspace(const ww::SsdScanParams* p) {
  const ww::StreamKernel* k = ww::stream_kernel(*p);
  ww::StreamPlan plan;
  if (!k || ww::plan_stream(*p, *k, &plan) != cudaSuccess || plan.segments == 1) return 0;
  return plan.state_bytes + plan.flag_bytes;
}

WW_EXPORT int ww_ssd_scan(const ww::SsdScanParams* p, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  if (p->num_seqs == 0 || p->H == 0 || p->P == 0) return cudaSuccess;
  if (const ww::StreamKernel* k = ww::stream_kernel(*p)) return ww::run_stream(*p, *k, s);
  return ww::run_recurrent(*p, s);
}
