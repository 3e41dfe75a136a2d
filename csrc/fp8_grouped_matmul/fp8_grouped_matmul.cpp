// SPDX-License-Identifier: Apache-2.0
#include "fp8_grouped_matmul/fp8_grouped_matmul.h"

#include "core/cpu/cpu.h"
#include "grouped_gemm/grouped_gemm_cpu.h"

namespace ww {

WW_CPU_KERNEL_SHARED(fp8_grouped_matmul, grouped_gemm, GroupedGemmCpu,
                     "float32 bfloat16 float8_e4m3fn");

void fp8_grouped_matmul_cpu(const GroupedGemmParams& p) {
  grouped_product_cpu("fp8_grouped_matmul", p);
}

}  // namespace ww
