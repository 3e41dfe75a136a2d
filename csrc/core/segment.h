// SPDX-License-Identifier: Apache-2.0
// Which tokens of a batch belong together. No std: per-ISA and CUDA files include this.
#pragma once

#include <stdint.h>

namespace ww {

// The part of an op's params that says it, as (B,T) rows, packed sequences or runs in rows; at most
// one of seq_idx and cu_seqlens is given.
struct SequenceLayout {
  int64_t B, T;
  int64_t num_seqs;        // rows of the initial and final states: B, or those of cu_seqlens
  const int32_t* seq_idx;  // (B,T), T contiguous, equal in a sequence, < 0: padding; may be null
  int64_t seq_idx_stride_b;
  const void* cu_seqlens;  // (num_seqs + 1) offsets, B == 1; may be null
  bool cu_seqlens_is_int64;
};

// A run of tokens that one recurrence or convolution walks through.
struct Segment {
  int64_t batch, begin, end;  // tokens [begin, end) of row `batch`
  int64_t initial;            // row of the initial states, or -1: starts from zero
  int64_t final;              // row of the final states that this run ends, or -1
  bool padding;               // its seq_idx is negative
};

}  // namespace ww
