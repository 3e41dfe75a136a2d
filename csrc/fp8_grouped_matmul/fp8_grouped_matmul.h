// SPDX-License-Identifier: Apache-2.0
// Rows sorted by expert times that expert's matrix of 8-bit weights, the one contract for every
// backend: grouped_gemm with b e4m3, and a dense or e4m3.
#pragma once

#include "grouped_gemm/grouped_gemm.h"

namespace ww { void fp8_grouped_matmul_cpu(const GroupedGemmParams& p); }  // namespace ww
