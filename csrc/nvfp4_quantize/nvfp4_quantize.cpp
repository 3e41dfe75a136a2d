// SPDX-License-Identifier: Apache-2.0
#include "nvfp4_quantize/nvfp4_quantize.h"

#include <cmath>

#include "core/check.h"
#include "core/cpu/cpu.h"
#include "core/numerics.h"

namespace ww {

WW_CPU_KERNEL_VECTOR(nvfp4_quantize, Nvfp4QuantizeParams, "float32 bfloat16 float16");

void nvfp4_quantize_check(const Nvfp4QuantizeParams& p) {
  WW_CHECK(p.K % 16 == 0, "nvfp4_quantize: 'x' has K = ", p.K, "; supported: multiples of 16");
  if (!p.tiles) return;
  WW_CHECK(p.N % 16 == 0, "nvfp4_quantize: 'block' is '2d' and 'x' has N = ", p.N,
           "; supported: multiples of 16");
  WW_CHECK(p.scale_rows % 16 == 0, "nvfp4_quantize: 'block' is '2d' and each row has a global ",
           "scale; supported: one for all or one a matrix");
}

void nvfp4_quantize_cpu(const Nvfp4QuantizeParams& p) {
  nvfp4_quantize_check(p);
  if (p.given)
    for (int64_t i = 0; i < nvfp4_scales(p); ++i)
      WW_CHECK(p.given[i] > 0 && std::isfinite(p.given[i]), "nvfp4_quantize: 'global_scale' is ",
               p.given[i], " at ", i, "; supported: positive and finite");
  int64_t first = -1;
  Nvfp4QuantizeParams q = p;
  q.nonfinite = &first;
  nvfp4_quantize_kernel(q);
  if (first < 0) return;
  const int64_t row = first / p.K, k = first % p.K;
  const float value = load_param(p.x, p.dtype, row * p.x_stride + k);
  WW_CHECK(std::isfinite(value), "nvfp4_quantize: 'x' is ", value, " in row ", row, ", column ", k,
           "; supported: finite values");
  fail("nvfp4_quantize: 'x' is too large in row ", row, " from column ", k, " on, 'hadamard' ",
       "overflows; supported: sums of 16 magnitudes below 3.4e38");
}

}  // namespace ww
