// SPDX-License-Identifier: Apache-2.0
// The group product on Hopper, for what group_product_cuda.h's launcher sends here: bf16 operands,
// rows of operands and results on 16 bytes, and one part, with an addend or not, or two parts.
#pragma once

#include "grouped_gemm/group_product_cuda.h"

namespace ww {

int64_t sm90a_group_product_workspace(int64_t groups);
cudaError_t launch_sm90a_group_product(const GroupProduct& g, cudaStream_t stream);

}  // namespace ww
