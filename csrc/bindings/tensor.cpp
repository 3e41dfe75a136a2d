// SPDX-License-Identifier: Apache-2.0
#include "bindings/tensor.h"

#include <algorithm>
#include <vector>

namespace ww {
namespace {

template <typename Sizes>
std::string join(const Sizes& sizes) {
  std::ostringstream out;
  out << '(';
  bool first = true;
  for (int64_t s : sizes) {
    out << (first ? "" : ", ") << s;
    first = false;
  }
  out << ')';
  return out.str();
}

int32_t aoti_dtype(ScalarType t) {
  switch (t) {
    case ScalarType::Float: return aoti_torch_dtype_float32();
    case ScalarType::BFloat16: return aoti_torch_dtype_bfloat16();
    case ScalarType::Half: return aoti_torch_dtype_float16();
    case ScalarType::Int: return aoti_torch_dtype_int32();
    default: fail("empty: no tensor of ", scalar_name(t), " is ever allocated here");
  }
}

}  // namespace

const char* scalar_name(ScalarType t) {
  switch (t) {
    case ScalarType::Float: return "float32";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Half: return "float16";
    case ScalarType::Double: return "float64";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Float8_e4m3fn: return "float8_e4m3fn";
    default: return "another dtype";
  }
}

ScalarType scalar_type(DType t) {
  switch (t) {
    case DType::bf16: return ScalarType::BFloat16;
    case DType::f16: return ScalarType::Half;
    case DType::f32: break;
  }
  return ScalarType::Float;
}

std::string shape_string(const Tensor& t) { return join(t.sizes()); }

const Arg& Arg::shape(const int64_t* sizes, int64_t rank, const char* meaning) const {
  const auto mine = tensor.sizes();
  WW_CHECK(std::equal(mine.begin(), mine.end(), sizes, sizes + rank), op, ": '", name,
           "' has shape ", shape_string(tensor), ", expected ", meaning, " = ",
           join(std::vector(sizes, sizes + rank)));
  return *this;
}

const Arg& Arg::same_shape(const Tensor& other, const char* other_name) const {
  const auto mine = tensor.sizes(), theirs = other.sizes();
  WW_CHECK(std::equal(mine.begin(), mine.end(), theirs.begin(), theirs.end()), op, ": '", name,
           "' has shape ", shape_string(tensor), ", expected that of '", other_name,
           "' = ", shape_string(other));
  return *this;
}

const Arg& Arg::dim(int64_t rank, const char* meaning) const {
  WW_CHECK(tensor.dim() == rank, op, ": '", name, "' has shape ", shape_string(tensor),
           ", expected ", meaning);
  return *this;
}

const Arg& Arg::like(const Tensor& other, const char* other_name) const {
  WW_CHECK(
      tensor.is_cpu() == other.is_cpu() && tensor.get_device_index() == other.get_device_index(),
      op, ": '", name, "' is on ", tensor.is_cpu() ? "cpu" : "cuda", " but '", other_name,
      "' is not");
  return *this;
}

DType Arg::floating() const {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return DType::f32;
    case ScalarType::BFloat16: return DType::bf16;
    case ScalarType::Half: return DType::f16;
    default:
      fail(op, ": '", name, "' is ", scalar_name(tensor.scalar_type()),
           "; supported: float32, bfloat16, float16");
  }
}

DType Arg::floating_of(DType a, DType b) const {
  const ScalarType t = tensor.scalar_type();
  WW_CHECK(t == scalar_type(a) || t == scalar_type(b), op, ": '", name, "' is ", scalar_name(t),
           "; supported: ", dtype_name(a), a == b ? "" : ", ", a == b ? "" : dtype_name(b));
  return t == scalar_type(a) ? a : b;
}

const Arg& Arg::of(ScalarType t) const {
  WW_CHECK(tensor.scalar_type() == t, op, ": '", name, "' is ", scalar_name(tensor.scalar_type()),
           "; supported: ", scalar_name(t));
  return *this;
}

bool Arg::is_int64() const {
  const ScalarType t = tensor.scalar_type();
  WW_CHECK(t == ScalarType::Int || t == ScalarType::Long, op, ": '", name, "' is ", scalar_name(t),
           "; supported: int32, int64");
  return t == ScalarType::Long;
}

Tensor empty_strided(const Tensor& like, const int64_t* sizes, const int64_t* strides, int64_t rank,
                     ScalarType dtype) {
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(rank, sizes, strides, aoti_dtype(dtype),
                                                  device_type, like.get_device_index(), &handle));
  const Tensor made(handle);
  note(made, Access::fresh);
  return made;
}

Tensor empty(const Tensor& like, const int64_t* sizes, int64_t rank, ScalarType dtype) {
  constexpr int64_t kMaxRank = 8;
  WW_CHECK(rank <= kMaxRank, "empty: rank ", rank, " is above ", kMaxRank);
  int64_t strides[kMaxRank];
  int64_t step = 1;
  for (int64_t d = rank; d-- > 0; step *= sizes[d] > 0 ? sizes[d] : 1) strides[d] = step;
  return empty_strided(like, sizes, strides, rank, dtype);
}

Rows rows_of(const Tensor& t) {
  const auto sizes = t.sizes(), strides = t.strides();
  const int64_t last = t.dim() - 1;
  int64_t stride = 0, step = -1;  // of the innermost leading axis; what the next one must have
  bool rows = sizes[last] <= 1 || strides[last] == 1;
  for (int64_t d = last; rows && d-- > 0;) {
    if (sizes[d] == 1) continue;
    if (step < 0)
      stride = strides[d];
    else
      rows = strides[d] == step;
    step = strides[d] * sizes[d];
  }
  if (rows) return {t, stride};
  const Tensor copy = torch::stable::contiguous(t);
  return {copy, sizes[last]};
}

Tensor as_float32(const Tensor& t) {
  return row_major(t.scalar_type() == ScalarType::Float ? t
                                                        : torch::stable::to(t, ScalarType::Float));
}

void read_sequences(const char* op, const Tensor& x, const OptTensor& seq_idx,
                    const OptTensor& cu_seqlens, SequenceLayout& layout) {
  layout.num_seqs = layout.B;
  if (cu_seqlens) {
    const Arg arg{op, "cu_seqlens", *cu_seqlens};
    layout.cu_seqlens_is_int64 = arg.dim(1, "(num_seqs + 1,)").like(x, "x").is_int64();
    layout.num_seqs = arg.size(0) - 1;
    WW_CHECK(layout.num_seqs >= 0, op, ": 'cu_seqlens' is empty, expected (num_seqs + 1,)");
    layout.cu_seqlens = data(*cu_seqlens);
  }
  if (seq_idx) {
    Arg{op, "seq_idx", *seq_idx}
        .shape({layout.B, layout.T}, "(B, T)")
        .like(x, "x")
        .of(ScalarType::Int);
    layout.seq_idx = static_cast<const int32_t*>(data(*seq_idx));
    layout.seq_idx_stride_b = layout.T;
  }
}

}  // namespace ww
