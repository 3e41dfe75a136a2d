// SPDX-License-Identifier: Apache-2.0
// Rows times one matrix of 4-bit weights, the one contract for every backend.
//
//   out[m,n] = sa[m] * sb[n] * sum_k a[m,k] * b[n,k]
//
// GroupedGemmParams with E = 1, no offsets, no activation and b nvfp4; a is dense (sa = 1) or
// nvfp4.
#pragma once

#include "grouped_gemm/grouped_gemm.h"

namespace ww { void nvfp4_matmul_cpu(const GroupedGemmParams& p); }  // namespace ww
