// SPDX-License-Identifier: Apache-2.0
// Products of NVFP4 with NVFP4 on CUTLASS, for what grouped_gemm_cuda.cu sends here: one part
// without an addend, k a multiple of 64, codes and results on 16 bytes, block scales on 4.
#pragma once

#include "grouped_gemm/group_product_cuda.h"

namespace ww {

struct BlockScaledProduct {
  int64_t least_rows;                           // of a group, on average
  int64_t (*workspace)(const GroupProduct& g);  // 0 if the device cannot run it
  // Tensor cores take no sign of a block scale. If one is negative, this gives no results but the
  // zeros of the rest; another kernel has to, with the E ends that `left` then has on the device.
  // Else those are 0.
  cudaError_t (*launch)(const GroupProduct& g, const int64_t*& left, cudaStream_t stream);
};
extern const BlockScaledProduct kBlockScaledSm100a, kBlockScaledSm120a;

}  // namespace ww
