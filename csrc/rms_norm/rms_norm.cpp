// SPDX-License-Identifier: Apache-2.0
#include "rms_norm/rms_norm.h"

#include "core/check.h"
#include "core/cpu/cpu.h"

namespace ww {

WW_CPU_KERNEL_VECTOR(rms_norm, RmsNormParams, "float32 bfloat16 float16");

void rms_norm_check(const RmsNormParams& p) {
  WW_CHECK(p.group_size >= 1 && p.D % p.group_size == 0, "rms_norm: 'group_size' is ", p.group_size,
           "; supported: divisors of D = ", p.D);
  WW_CHECK(p.weight_dtype == p.dtype || p.weight_dtype == DType::f32, "rms_norm: 'weight' is ",
           dtype_name(p.weight_dtype), "; supported: float32 or the dtype of 'x', ",
           dtype_name(p.dtype));
  WW_CHECK(!p.residual || !p.gate, "rms_norm: 'residual' and 'gate' exclude each other");
}

void rms_norm_cpu(const RmsNormParams& p) {
  rms_norm_check(p);
  if (p.rows > 0 && p.D > 0) rms_norm_kernel(p);
}

}  // namespace ww
