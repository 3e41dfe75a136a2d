// SPDX-License-Identifier: Apache-2.0
// Rows sorted by expert times that expert's matrix of 4-bit weights, the one contract for every
// backend: grouped_gemm with b nvfp4, and a dense or nvfp4.
#pragma once

#include "grouped_gemm/grouped_gemm.h"

namespace ww { void nvfp4_grouped_matmul_cpu(const GroupedGemmParams& p); }  // namespace ww
