// SPDX-License-Identifier: Apache-2.0
#include "causal_conv1d/causal_conv1d.h"

#include "causal_conv1d/causal_conv1d_cpu.h"
#include "core/check.h"
#include "core/cpu/cpu.h"
#include "core/cpu/segments.h"

namespace ww {

WW_CPU_KERNEL_VECTOR(causal_conv1d, CausalConv1dCpu, "float32 bfloat16 float16");

void causal_conv1d_check(const CausalConv1dParams& p) {
  WW_CHECK(p.W >= 2 && p.W <= 4, "causal_conv1d: 'weight' has width ", p.W, "; supported: 2, 3, 4");
  WW_CHECK(p.weight_dtype == p.dtype || p.weight_dtype == DType::f32, "causal_conv1d: 'weight' is ",
           dtype_name(p.weight_dtype), "; supported: float32 or the dtype of 'x', ",
           dtype_name(p.dtype));
  check_sequences("causal_conv1d", p);
}

void causal_conv1d_cpu(const CausalConv1dParams& p) {
  causal_conv1d_check(p);
  const std::vector<Segment> segments = make_segments("causal_conv1d", p);
  causal_conv1d_kernel({p, segments.data(), int64_t(segments.size())});
}

}  // namespace ww
