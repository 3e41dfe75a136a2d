// SPDX-License-Identifier: Apache-2.0
// What the CPU kernel gets: the contract's params and the sequences they describe.
#pragma once

#include "core/segment.h"
#include "ssd_scan/ssd_scan.h"

namespace ww {

struct SsdScanCpu {
  const SsdScanParams& p;
  const Segment* segments;
  int64_t num_segments;
};

}  // namespace ww
