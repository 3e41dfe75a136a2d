// SPDX-License-Identifier: Apache-2.0
// The matrix product behind all experts and projections on CUDA:
//
//   out[m,n] = act(sum over parts of sum_k a[rows[m],k] * b[e,n,k] + addend[m,n])
//
// for the group e that row m is in; quantised weights, and rows with a scale, are in one part and
// their scales multiply its sum. Group ends lie on the device, so nothing waits for the host: a
// persistent grid walks the tiles of all groups. One fp32 accumulator, one rounding.
#pragma once

#include <cuda_runtime.h>

#include "core/types.h"
#include "core/weights.h"
#include "grouped_gemm/grouped_gemm.h"

namespace ww {

struct ProductPart {
  const void* a;                           // (.., K), K contiguous
  int64_t a_stride;
  const int32_t* rows;                     // (M) row of a for each row of out; null: row m
  Weights b;                               // (E,N,K), K contiguous
  int64_t K;
  const e4m3_t* a_block_scales = nullptr;  // if a is in the format of nvfp4 as b is: (.., K/16)
  int64_t a_block_stride = 0;
};

struct GroupProduct {
  int64_t M, N, E;
  const void* ends;        // (E) end of each group, not decreasing; null: one group of all rows
  bool ends_is_int64;
  bool zero_rest;          // rows that are in no group give 0; else they stay as they are
  bool relu2;              // max(v,0)^2
  int parts;
  ProductPart part[2];
  const float* row_scale;  // of quantised rows, one each or, with stride 0, one for all; or null
  int64_t row_scale_stride;
  const void* addend;      // (M,N) row-major; may be null
  DType addend_dtype;      // of the operands, or f32
  void* gathered;   // (M,K) in the operands' dtype for part[0]'s rows, if it names some; may be
                    // null, and then they are gathered tile by tile
  float* partial;   // (M,N), for the first of two parts where each is a product of its own;
                    // may be null, and then none is
  void* out;        // (M,N), N contiguous
  int64_t out_stride;
  DType out_dtype;  // bf16 or f32
  void* workspace;  // group_product_workspace() bytes
};

// For products of at most `groups` groups on the current device.
int64_t group_product_workspace(int64_t groups);

// `dtype` of the rows, and of dense weights, is f32 or bf16.
cudaError_t launch_group_product(const GroupProduct& g, DType dtype, cudaStream_t stream);

// For the ops that are one such product.
int64_t grouped_product_workspace(const GroupedGemmParams& p);
int launch_grouped_product(const GroupedGemmParams& p, void* stream);

}  // namespace ww
