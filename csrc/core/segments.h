// SPDX-License-Identifier: Apache-2.0
// From the three descriptions of packed sequences to the list of their runs, in host memory.
//
// Plain batches: one run a row. cu_seqlens (B == 1): one run a sequence. seq_idx: a run wherever
// neighbouring tokens of a row have the same index.
#pragma once

#include <vector>

#include "core/segment.h"

namespace ww {

struct SequenceLayout {    // raw pointers, host memory; at most one description is given
  int64_t B, T;
  const int32_t* seq_idx;  // (B,T), T contiguous; may be null
  int64_t seq_idx_stride_b;
  const void* cu_seqlens;  // (num_seqs + 1); may be null
  bool cu_seqlens_is_int64;
  int64_t num_seqs;        // rows of the initial and final states: B without cu_seqlens
};

// Throws ww::Error naming `op` if cu_seqlens does not start at 0, decreases or does not end at T.
// Empty sequences and rows keep a segment of no tokens, so that their final state is written.
std::vector<Segment> make_segments(const char* op, const SequenceLayout& layout);

}  // namespace ww
