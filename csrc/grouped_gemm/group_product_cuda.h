// SPDX-License-Identifier: Apache-2.0
// The matrix product behind all experts and projections on CUDA:
//
//   out[m,n] = act(sum over parts of sum_k a[rows[m],k] * b[e,n,k] + addend[m,n])
//
// for the group e that row m is in. Group ends lie on the device, so nothing waits for the host: a
// persistent grid walks the tiles of all groups. One fp32 accumulator, one rounding.
#pragma once

#include <cuda_runtime.h>

#include "core/types.h"

namespace ww {

struct ProductPart {
  const void* a;        // (.., K), K contiguous
  int64_t a_stride;
  const int32_t* rows;  // (M) row of a for each row of out; null: row m
  const void* b;        // (E,N,K), K contiguous
  int64_t b_stride_e, b_stride_n;
  int64_t K;
};

struct GroupProduct {
  int64_t M, N, E;
  const void* ends;    // (E) end of each group, not decreasing; null: one group of all rows
  bool ends_is_int64;
  bool zero_rest;      // rows that are in no group give 0; else they stay as they are
  bool relu2;          // max(v,0)^2
  int parts;
  ProductPart part[2];
  const void* addend;  // (M,N) row-major in the operands' dtype; may be null
  void* gathered;      // (M,K) in the operands' dtype for part[0]'s rows, if it names some; may be
                       // null, and then they are gathered tile by tile
  float* partial;      // (M,N), for the first of two parts where each is a product of its own;
                       // may be null, and then none is
  void* out;           // (M,N), N contiguous
  int64_t out_stride;
  DType out_dtype;     // the operands' or f32
  void* workspace;     // group_product_workspace() bytes
};

// For products of at most `groups` groups on the current device.
int64_t group_product_workspace(int64_t groups);

// Operands are f32 or bf16.
cudaError_t launch_group_product(const GroupProduct& g, DType dtype, cudaStream_t stream);

}  // namespace ww
