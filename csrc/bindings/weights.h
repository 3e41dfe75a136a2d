// SPDX-License-Identifier: Apache-2.0
// Operands that may be quantised: from tensors to the Weights that kernels take.
#pragma once

#include <vector>

#include "bindings/tensor.h"
#include "core/weights.h"
#include "grouped_gemm/grouped_gemm.h"

namespace ww {

struct WeightTensors {  // in the layout that kernels read; holds any copy that this took
  Tensor data;          // the values, or float8_e4m3fn, or uint8 with two codes a byte
  OptTensor block_scales, scale;

  explicit WeightTensors(const Tensor& data, const OptTensor& block_scales = {},
                         const OptTensor& scale = {});
  WeightFormat format() const;
  int64_t k() const;  // values of a row
};

// t checked: (E, N, K) or (N, K), whose sizes but for K are `rows`. Messages name the parts
// name, name.block_scales and name.scale.
Weights weights_of(const char* op, const char* name, const WeightTensors& t,
                   const std::vector<int64_t>& rows, int64_t K, const char* meaning, DType dense);

// a (M,K) times the matrices of b, in out_dtype or, if that is null, the dtype of a. Without
// offsets all is one group, and a that is not quantised may have any leading dimensions.
Tensor grouped_product(const char* op, const WeightTensors& a, const WeightTensors& b,
                       const OptTensor& offsets, bool relu2, const DType* out_dtype,
                       void (*cpu)(const GroupedGemmParams&), const char* cuda_symbol);

}  // namespace ww
