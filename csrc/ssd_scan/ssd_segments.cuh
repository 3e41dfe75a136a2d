// SPDX-License-Identifier: Apache-2.0
// Blocks that stream rows of tokens through a state. Where rows and heads do not fill the card, a
// row is cut into segments: a block first runs its segment for the state alone, adds what it gets
// from the block before, hands the sum on and only then computes its outputs; x and B of a segment
// are read a second time, mostly from L2.
#pragma once

#include "core/cuda/ptx.cuh"
#include "ssd_scan/ssd_sequences.cuh"

namespace ww {

struct StreamTask {
  SsdScanParams p;
  uint32_t tiles, units;   // tiles of P; rows x heads x tiles
  uint32_t segments;       // of a row
  int64_t segment_tokens;  // a multiple of 64
  bool is_aligned;         // rows of x, B, C and z start on 16 bytes
  float* states;           // (segments - 1, units) accumulators, if there are several segments
  int32_t* ready;          // (segments - 1, units) flags, and a counter of the blocks that started
};

struct StreamSegment {
  uint32_t unit, index, row;
  int64_t b, h, p0;
  int64_t begin, end;  // tokens
  bool is_last;

  // The work of a block that is the `work`th to start. kP columns of a head are a unit.
  template <int kP>
  __device__ static StreamSegment make(const StreamTask& task, uint32_t work) {
    StreamSegment s;
    const uint32_t heads = uint32_t(task.p.H);
    s.index = work / task.units, s.unit = work % task.units;
    s.row = s.unit / task.tiles / heads;
    s.h = s.unit / task.tiles % heads;
    s.p0 = int64_t(s.unit % task.tiles) * kP;
    const TokenRow tokens = token_row(task.p, s.row);
    s.b = tokens.batch;
    s.begin = tokens.begin + s.index * task.segment_tokens;
    s.is_last = s.index + 1 == task.segments;
    s.end = s.is_last || s.begin + task.segment_tokens > tokens.end ? tokens.end
                                                                    : s.begin + task.segment_tokens;
    return s;
  }
};

// Blocks that others wait for must have started before them, whatever order the card starts them
// in: so they take their work in the order in which they come. A thread's call.
__device__ inline uint32_t take_work(const StreamTask& task) {
  return task.segments == 1 ? blockIdx.x
                            : atomicAdd(reinterpret_cast<uint32_t*>(
                                            task.ready + int64_t(task.segments - 1) * task.units),
                                        1u);
}

// Runs a segment by S::kThreads threads, each with S::kFours quadruples of the state.
template <typename S>
__device__ inline void run_segment(const StreamTask& task, const StreamSegment& segment, S& s) {
  const SsdScanParams& p = task.p;
  const int64_t states = (int64_t(segment.row) * p.H + segment.h) * p.P * p.N;
  const auto set_initial = [&] {
    s.zero_state();
    if (p.initial_states)
      s.for_pairs([&](float2& v, int64_t at) {
        v = {p.initial_states[states + at], p.initial_states[states + at + 1]};
      });
  };
  const auto place = [&](uint32_t of) {
    return (int64_t(of) * task.units + segment.unit) * S::kFours * S::kThreads + threadIdx.x;
  };
  const auto flag = [&](uint32_t of) {
    return &task.ready[int64_t(of) * task.units + segment.unit];
  };
  float4* handed = reinterpret_cast<float4*>(task.states);
  const auto load_handed = [&](float4(&from)[S::kFours]) {
    if (threadIdx.x == 0)
      while (ptx::load_acquire(flag(segment.index - 1)) == 0) {
      }
    s.sync();
#pragma unroll
    for (int i = 0; i < S::kFours; ++i)
      from[i] = handed[place(segment.index - 1) + i * S::kThreads];
  };

  if (!segment.is_last) {
    const bool is_first = segment.index == 0;
    if (is_first)
      set_initial();
    else
      s.zero_state();
    s.has_state = is_first && p.initial_states;
    const float decay = s.template run<false>();
    float4* to = handed + place(segment.index);
    float4 from[S::kFours];
    if (!is_first) load_handed(from);
#pragma unroll
    for (int i = 0; i < S::kFours; ++i) {
      const float* local = s.four_of_state(i);
      float4 sum{local[0], local[1], local[2], local[3]};
      if (!is_first && decay != 0.f)
        sum = {fmaf(decay, from[i].x, sum.x), fmaf(decay, from[i].y, sum.y),
               fmaf(decay, from[i].z, sum.z), fmaf(decay, from[i].w, sum.w)};
      to[i * S::kThreads] = sum;
    }
    __threadfence();
    s.sync();
    if (threadIdx.x == 0) ptx::store_release(flag(segment.index), 1);
  }
  if (segment.index == 0) {
    set_initial();
  } else {
    float4 from[S::kFours];
    load_handed(from);
#pragma unroll
    for (int i = 0; i < S::kFours; ++i) {
      float* local = s.four_of_state(i);
      local[0] = from[i].x, local[1] = from[i].y, local[2] = from[i].z, local[3] = from[i].w;
    }
  }
  s.has_state = p.initial_states || segment.index > 0;
  s.template run<true>();
  if (segment.is_last && p.final_states)
    s.for_pairs([&](float2& v, int64_t at) {
      *reinterpret_cast<float2*>(p.final_states + states + at) = v;
    });
}

}  // namespace ww
