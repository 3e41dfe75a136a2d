// SPDX-License-Identifier: Apache-2.0
#include "bindings/weights.h"

#include <algorithm>

#include "bindings/op.h"

namespace ww {

WeightTensors::WeightTensors(const Tensor& data_in, const OptTensor& block_scales_in,
                             const OptTensor& scale_in)
    : data(unit_last_stride(data_in)), scale(row_major(scale_in)) {
  if (block_scales_in) block_scales = unit_last_stride(*block_scales_in);
}

WeightFormat WeightTensors::format() const {
  switch (data.scalar_type()) {
    case ScalarType::Byte: return WeightFormat::nvfp4;
    case ScalarType::Float8_e4m3fn: return WeightFormat::e4m3;
    default: return WeightFormat::dense;
  }
}

int64_t WeightTensors::k() const {
  return data.size(data.dim() - 1) * (format() == WeightFormat::nvfp4 ? 2 : 1);
}

Weights weights_of(const char* op, const char* name, const WeightTensors& t,
                   const std::vector<int64_t>& rows, int64_t K, const char* meaning, DType dense) {
  const WeightFormat format = t.format();
  const bool is_nvfp4 = format == WeightFormat::nvfp4, is_dense = format == WeightFormat::dense;
  const Arg arg{op, name, t.data};
  const int64_t rank = int64_t(rows.size()), batch = rank - 1;
  std::vector<int64_t> sizes = rows;
  WW_CHECK(!is_nvfp4 || K % 16 == 0, op, ": '", name, "' has K = ", K,
           "; supported: multiples of 16");
  sizes.push_back(is_nvfp4 ? K / 2 : K);
  arg.shape(sizes.data(), rank + 1, meaning);
  if (is_dense) arg.floating_of(dense, dense);
  const auto check_part = [&](const OptTensor& part, bool wanted, const std::string& part_name) {
    WW_CHECK(part.has_value() == wanted, op, ": '", name, "' is ",
             scalar_name(t.data.scalar_type()), wanted ? ", which needs '" : ", which takes no '",
             part_name, "'");
  };
  Weights w{};
  w.format = format;
  w.data = data(t.data);
  w.stride_e = batch ? t.data.stride(0) : 0, w.stride_n = t.data.stride(batch);

  const std::string blocks_name = std::string(name) + ".block_scales";
  check_part(t.block_scales, is_nvfp4, blocks_name);
  if (is_nvfp4) {
    sizes.back() = K / 16;
    Arg{op, blocks_name.c_str(), *t.block_scales}
        .shape(sizes.data(), rank + 1, "(.., N, K / 16)")
        .like(t.data, name)
        .of(ScalarType::Float8_e4m3fn);
    w.block_scales = static_cast<const e4m3_t*>(data(t.block_scales));
    w.block_stride_e = batch ? t.block_scales->stride(0) : 0;
    w.block_stride_n = t.block_scales->stride(batch);
  }

  const std::string scale_name = std::string(name) + ".scale";
  check_part(t.scale, !is_dense, scale_name);
  if (!is_dense) {
    const int64_t dims = t.scale->dim();
    Arg{op, scale_name.c_str(), *t.scale}
        .shape(rows.data(), std::min(dims, rank), "(), or one of each matrix or row")
        .like(t.data, name)
        .of(ScalarType::Float);
    w.scale = static_cast<const float*>(data(t.scale));
    w.scale_stride_n = dims == rank;
    w.scale_stride_e = batch && dims ? (dims == rank ? rows[1] : 1) : 0;
  }
  return w;
}

Tensor grouped_product(const char* op, const WeightTensors& a, const WeightTensors& b,
                       const OptTensor& offsets_in, bool relu2, const DType* out_dtype,
                       void (*cpu)(const GroupedGemmParams&), const char* cuda_symbol) {
  const bool is_dense = a.format() == WeightFormat::dense;
  std::vector<int64_t> sizes(a.data.sizes().begin(), a.data.sizes().end());
  if (!is_dense || offsets_in || sizes.empty()) Arg{op, "a", a.data}.dim(2, "(M, K)");
  Arg{op, "b", b.data}
      .dim(offsets_in ? 3 : 2, offsets_in ? "(E, N, K)" : "(N, K)")
      .like(a.data, "a");
  GroupedGemmParams p{};
  p.M = 1, p.K = a.k();
  for (size_t i = 0; i + 1 < sizes.size(); ++i) p.M *= sizes[i];
  p.E = offsets_in ? b.data.size(0) : 1, p.N = b.data.size(offsets_in ? 1 : 0);
  p.dtype = is_dense ? Arg{op, "a", a.data}.floating_of(DType::f32, DType::bf16) : DType::bf16;
  p.out_dtype = out_dtype ? *out_dtype : p.dtype;
  p.relu2 = relu2;
  const Rows rows = is_dense ? rows_of(a.data) : Rows{a.data, 0};
  WW_CHECK(!is_dense || !(a.block_scales || a.scale), op, ": 'a' is ",
           scalar_name(a.data.scalar_type()), ", which takes no scales");
  if (is_dense)
    p.a.data = data(rows.tensor), p.a.stride_n = rows.stride;
  else
    p.a = weights_of(op, "a", a, {p.M}, p.K, "(M, K)", p.dtype);
  p.b = offsets_in ? weights_of(op, "b", b, {p.E, p.N}, p.K, "(E, N, K)", p.dtype)
                   : weights_of(op, "b", b, {p.N}, p.K, "(N, K)", p.dtype);
  const OptTensor offsets = row_major(offsets_in);
  if (offsets)
    p.offsets_is_int64 =
        Arg{op, "offsets", *offsets}.shape({p.E}, "(E,)").like(a.data, "a").is_int64();
  p.offsets = data(offsets);
  sizes.back() = p.N;
  const Tensor out = empty(a.data, sizes.data(), int64_t(sizes.size()), scalar_type(p.out_dtype));
  p.out = mutable_data(out), p.out_stride_m = p.N;

  launch(op, a.data, p, cpu, cuda_symbol);
  return out;
}

}  // namespace ww
