// SPDX-License-Identifier: Apache-2.0
// Products whose rows and weights are in one quantised format, on tensor cores that take it, for
// what grouped_gemm_cuda.cu sends here: one part whose codes lie on 16 bytes and block scales on 4.
#pragma once

#include "grouped_gemm/group_product_cuda.h"

namespace ww {

cudaError_t launch_sm89_group_product(const GroupProduct& g, cudaStream_t stream);    // e4m3
cudaError_t launch_sm120a_group_product(const GroupProduct& g, cudaStream_t stream);  // nvfp4

}  // namespace ww
