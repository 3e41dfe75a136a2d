// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/vector_math.h"

#include "core/cpu/cpu.h"

namespace ww {

WW_CPU_KERNEL_VECTOR(vector_math, VectorMath, "float32");

void vector_math(const VectorMath& args) { vector_math_kernel(args); }

}  // namespace ww
