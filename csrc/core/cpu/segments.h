// SPDX-License-Identifier: Apache-2.0
// From the three descriptions of packed sequences to the list of their runs, in host memory.
//
// Plain batches: one run a row. cu_seqlens (B == 1): one run a sequence. seq_idx: a run wherever
// neighbouring tokens of a row have the same index.
#pragma once

#include <vector>

#include "core/segment.h"

namespace ww {

// Throws ww::Error naming `op` if both descriptions are given, or cu_seqlens with a batch.
void check_sequences(const char* op, const SequenceLayout& layout);

// In host memory. Throws ww::Error naming `op` if cu_seqlens does not start at 0, decreases or does
// not end at T. Empty sequences and rows keep a segment of no tokens, so that their final state is
// written.
std::vector<Segment> make_segments(const char* op, const SequenceLayout& layout);

}  // namespace ww
