// SPDX-License-Identifier: Apache-2.0
#include "nvfp4_grouped_matmul/nvfp4_grouped_matmul.h"

#include "core/cpu/cpu.h"
#include "grouped_gemm/grouped_gemm_cpu.h"

namespace ww {

WW_CPU_KERNEL_SHARED(nvfp4_grouped_matmul, grouped_gemm, GroupedGemmCpu, "float32 bfloat16 nvfp4");

void nvfp4_grouped_matmul_cpu(const GroupedGemmParams& p) {
  grouped_product_cpu("nvfp4_grouped_matmul", p);
}

}  // namespace ww
