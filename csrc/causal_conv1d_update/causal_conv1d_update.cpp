// SPDX-License-Identifier: Apache-2.0
#include "causal_conv1d_update/causal_conv1d_update.h"

#include "core/check.h"
#include "core/cpu/cpu.h"
#include "core/cpu/slots.h"

namespace ww {

WW_CPU_KERNEL_VECTOR(causal_conv1d_update, CausalConv1dUpdateParams, "float32 bfloat16 float16");

void causal_conv1d_update_check(const CausalConv1dUpdateParams& p) {
  constexpr const char* op = "causal_conv1d_update";
  WW_CHECK(p.W >= 2 && p.W <= 4, op, ": 'weight' has width ", p.W, "; supported: 2, 3, 4");
  WW_CHECK(p.S >= p.W - 1, op, ": 'conv_state' has ", p.S,
           " columns; supported: at least W-1 = ", p.W - 1);
  WW_CHECK(p.weight_dtype == p.dtype || p.weight_dtype == DType::f32, op, ": 'weight' is ",
           dtype_name(p.weight_dtype), "; supported: float32 or the dtype of 'x', ",
           dtype_name(p.dtype));
  WW_CHECK(p.state_indices || p.slots == p.B || p.B == 0, op, ": 'conv_state' has ", p.slots,
           " rows; supported without conv_state_indices: the batch size of 'x', ", p.B);
  const int64_t sizes[] = {p.slots, p.C, p.S};
  for (int d = 0; d < 3; ++d)
    WW_CHECK(sizes[d] <= 1 || p.state_stride[d] != 0, op, ": 'conv_state' has stride 0 over axis ",
             d, " of size ", sizes[d], "; supported: elements that do not share memory");
}

void causal_conv1d_update_cpu(const CausalConv1dUpdateParams& p) {
  causal_conv1d_update_check(p);
  if (p.state_indices)
    check_slots("causal_conv1d_update", "conv_state_indices", p.state_indices, p.B, p.slots);
  causal_conv1d_update_kernel(p);
}

}  // namespace ww
