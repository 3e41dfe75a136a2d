// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/segments.h"

#include "core/check.h"

namespace ww {
namespace {

std::vector<Segment> from_cu_seqlens(const char* op, const SequenceLayout& s) {
  auto at = [&](int64_t i) {
    return s.cu_seqlens_is_int64 ? static_cast<const int64_t*>(s.cu_seqlens)[i]
                                 : int64_t(static_cast<const int32_t*>(s.cu_seqlens)[i]);
  };
  WW_CHECK(at(0) == 0, op, ": 'cu_seqlens' must start at 0, got ", at(0));
  WW_CHECK(at(s.num_seqs) == s.T, op, ": 'cu_seqlens' must end at the number of tokens ", s.T,
           ", got ", at(s.num_seqs));
  std::vector<Segment> segments;
  for (int64_t i = 0; i < s.num_seqs; ++i) {
    WW_CHECK(at(i) <= at(i + 1), op, ": 'cu_seqlens' must not decrease, got ", at(i), " then ",
             at(i + 1), " at ", i);
    segments.push_back({0, at(i), at(i + 1), i, i, false});
  }
  return segments;
}

}  // namespace

void check_sequences(const char* op, const SequenceLayout& s) {
  WW_CHECK(!s.seq_idx || !s.cu_seqlens, op, ": 'seq_idx' and 'cu_seqlens' exclude each other");
  WW_CHECK(!s.cu_seqlens || s.B == 1, op, ": 'cu_seqlens' needs one packed row, but 'x' has batch ",
           s.B);
}

std::vector<Segment> make_segments(const char* op, const SequenceLayout& s) {
  if (s.cu_seqlens) return from_cu_seqlens(op, s);
  std::vector<Segment> segments;
  for (int64_t b = 0; b < s.B; ++b) {
    const int32_t* idx = s.seq_idx ? s.seq_idx + b * s.seq_idx_stride_b : nullptr;
    int64_t begin = 0;
    for (int64_t t = 1; idx && t < s.T; ++t) {
      if (idx[t] == idx[t - 1]) continue;
      segments.push_back({b, begin, t, begin == 0 ? b : -1, -1, idx[t - 1] < 0});
      begin = t;
    }
    segments.push_back({b, begin, s.T, begin == 0 ? b : -1, b, idx && s.T > 0 && idx[s.T - 1] < 0});
  }
  return segments;
}

}  // namespace ww
