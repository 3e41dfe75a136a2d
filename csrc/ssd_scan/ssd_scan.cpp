// SPDX-License-Identifier: Apache-2.0
#include "ssd_scan/ssd_scan.h"

#include "core/check.h"
#include "core/cpu.h"
#include "core/segments.h"
#include "ssd_scan/ssd_scan_cpu.h"

namespace ww {

WW_CPU_KERNEL_MATRIX(ssd_scan, SsdScanCpu, "float32 bfloat16");

void ssd_scan_check(const SsdScanParams& p) {
  WW_CHECK(p.Q >= 1 && p.Q <= kMaxSsdChunk, "ssd_scan: 'chunk_size' is ", p.Q, "; supported: 1 to ", kMaxSsdChunk);
  WW_CHECK(p.G > 0 ? p.H % p.G == 0 : p.H == 0, "ssd_scan: 'B' has ", p.G, " groups, which do not divide the ", p.H,
           " heads of 'x'");
  WW_CHECK(p.dt_min <= p.dt_max, "ssd_scan: 'dt_limit' is (", p.dt_min, ", ", p.dt_max, "); the first must not pass the second");
  WW_CHECK(!p.seq_idx || !p.cu_seqlens, "ssd_scan: 'seq_idx' and 'cu_seqlens' exclude each other");
  WW_CHECK(!p.cu_seqlens || p.B == 1, "ssd_scan: 'cu_seqlens' needs one packed row, but 'x' has batch ", p.B);
}

void ssd_scan_cpu(const SsdScanParams& p) {
  ssd_scan_check(p);
  const std::vector<Segment> segments = make_segments(
      "ssd_scan", {p.B, p.T, p.seq_idx, p.seq_idx_stride_b, p.cu_seqlens, p.cu_seqlens_is_int64, p.num_seqs});
  ssd_scan_kernel({p, segments.data(), int64_t(segments.size())});
}

}  // namespace ww
