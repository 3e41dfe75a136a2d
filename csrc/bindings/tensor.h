// SPDX-License-Identifier: Apache-2.0
// From torch tensors to raw params: the checks that name an argument, allocation, streams.
// With module.cpp and the *_op.cpp files this folder is the only place that knows torch.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <tuple>

#include "bindings/simulated_cuda.h"
#include "core/check.h"
#include "core/segment.h"
#include "core/types.h"

namespace ww {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptTensor = std::optional<Tensor>;

const char* scalar_name(ScalarType t);
ScalarType scalar_type(DType t);
std::string shape_string(const Tensor& t);

// One op's argument, so that every message starts with "op: 'name'".
struct Arg {
  const char* op;
  const char* name;
  const Tensor& tensor;

  int64_t size(int64_t dim) const { return tensor.size(dim); }
  int64_t stride(int64_t dim) const { return tensor.stride(dim); }

  const Arg& shape(const int64_t* sizes, int64_t rank, const char* meaning) const;
  const Arg& shape(std::initializer_list<int64_t> sizes, const char* meaning) const {
    return shape(sizes.begin(), int64_t(sizes.size()), meaning);
  }
  const Arg& same_shape(const Tensor& other, const char* other_name) const;
  const Arg& dim(int64_t rank, const char* meaning) const;
  const Arg& like(const Tensor& other, const char* other_name) const;  // same device
  DType floating() const;                     // float32, bfloat16 or float16
  DType floating_of(DType a, DType b) const;  // a or b only
  const Arg& of(ScalarType t) const;
  bool is_int64() const;                      // int64 true, int32 false, else throws
};

// Uninitialised tensors on the device of `like`; empty() is row-major.
Tensor empty(const Tensor& like, const int64_t* sizes, int64_t rank, ScalarType dtype);
inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  return empty(like, sizes.begin(), int64_t(sizes.size()), dtype);
}
inline Tensor empty_like(const Tensor& like, ScalarType dtype) {
  return empty(like, like.sizes().data(), like.dim(), dtype);
}
Tensor empty_strided(const Tensor& like, const int64_t* sizes, const int64_t* strides, int64_t rank,
                     ScalarType dtype);

// The tensor itself if it is row-major already, else the one silent copy that an op may make.
inline Tensor row_major(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}
inline OptTensor row_major(const OptTensor& t) {
  return t ? OptTensor(row_major(*t)) : std::nullopt;
}

// (..., D) as rows of neighbouring elements with one stride between them, which slices of a
// projection are; anything else costs the one copy.
struct Rows {
  Tensor tensor;
  int64_t stride;
};
Rows rows_of(const Tensor& t);

// The same for kernels that take any stride but want the last dimension adjacent.
inline Tensor unit_last_stride(const Tensor& t) {
  const int64_t last = t.dim() - 1;
  return t.stride(last) == 1 || t.size(last) <= 1 ? t : torch::stable::contiguous(t);
}

// A small parameter (per expert, per head) in another float dtype, as a float32 row: one tiny copy.
Tensor as_float32(const Tensor& t);

// Fills all of `layout` but B and T, which must be there. The tensors are row-major and outlive it.
void read_sequences(const char* op, const Tensor& x, const OptTensor& seq_idx,
                    const OptTensor& cu_seqlens, SequenceLayout& layout);

// What a kernel reads, and what it writes.
inline const void* data(const Tensor& t) {
  note(t, Access::read);
  return t.const_data_ptr();
}
inline const void* data(const OptTensor& t) { return t ? data(*t) : nullptr; }
inline void* mutable_data(const Tensor& t) {
  note(t, Access::write);
  return t.mutable_data_ptr();
}

}  // namespace ww
