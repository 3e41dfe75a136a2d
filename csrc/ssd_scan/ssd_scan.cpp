// SPDX-License-Identifier: Apache-2.0
#include "ssd_scan/ssd_scan.h"

#include "core/check.h"
#include "core/cpu/cpu.h"
#include "core/cpu/segments.h"
#include "ssd_scan/ssd_scan_cpu.h"

namespace ww {

WW_CPU_KERNEL_MATRIX(ssd_scan, SsdScanCpu, "float32 bfloat16");

void ssd_scan_check(const SsdScanParams& p) {
  WW_CHECK(p.Q >= 1 && p.Q <= kMaxSsdChunk, "ssd_scan: 'chunk_size' is ", p.Q, "; supported: 1 to ",
           kMaxSsdChunk);
  WW_CHECK(p.G > 0 ? p.H % p.G == 0 : p.H == 0, "ssd_scan: 'B' has ", p.G,
           " groups, which do not divide the ", p.H, " heads of 'x'");
  WW_CHECK(p.dt_min <= p.dt_max, "ssd_scan: 'dt_limit' is (", p.dt_min, ", ", p.dt_max,
           "); the first must not pass the second");
  check_sequences("ssd_scan", p);
}

void ssd_scan_cpu(const SsdScanParams& p) {
  ssd_scan_check(p);
  const std::vector<Segment> segments = make_segments("ssd_scan", p);
  ssd_scan_kernel({p, segments.data(), int64_t(segments.size())});
}

}  // namespace ww
