// SPDX-License-Identifier: Apache-2.0
// Weights as checkpoints store them: E matrices (N,K) whose rows a product reads along K.
//
//   dense   w = data[e][n][k], in the dtype of the other operand
//   e4m3    w = data[e][n][k] * scale
//   nvfp4   w = code[e][n][k] * block_scales[e][n][k / 16] * scale, two codes in a byte of data,
//           the even k in the low nibble
//
// An e4m3 value, and a code times its block scale, is exact in bf16. So a product decodes weights
// to its operands' dtype, accumulates in fp32 and multiplies by scale once, before its epilogue.
#pragma once

#include "core/types.h"

namespace ww {

enum class WeightFormat : int32_t { dense, e4m3, nvfp4 };

struct Weights {
  WeightFormat format;
  const void* data;
  int64_t stride_e, stride_n;              // of data, in elements: bytes for e4m3 and nvfp4
  const e4m3_t* block_scales;              // nvfp4: (E,N,K/16), the last contiguous
  int64_t block_stride_e, block_stride_n;
  const float* scale;                      // null for dense
  int64_t scale_stride_e, scale_stride_n;  // 0, 0: one for all; 1, 0: one a matrix; N, 1: one a row
};

}  // namespace ww
