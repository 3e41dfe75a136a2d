// SPDX-License-Identifier: Apache-2.0
// The product of NVFP4 rows with NVFP4 weights on the FP4 tensor cores of sm_120, for what
// grouped_gemm_cuda.cu sends here: one part whose codes lie on 16 bytes and block scales on 4.
#pragma once

#include "grouped_gemm/group_product_cuda.h"

namespace ww {
cudaError_t launch_sm120a_group_product(const GroupProduct& g, cudaStream_t stream);
}
