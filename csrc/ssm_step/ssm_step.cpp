// SPDX-License-Identifier: Apache-2.0
#include "ssm_step/ssm_step.h"

#include "core/check.h"
#include "core/cpu/cpu.h"
#include "core/cpu/slots.h"

namespace ww {

WW_CPU_KERNEL_VECTOR(ssm_step, SsmStepParams, "float32 bfloat16 float16");

namespace {

void check_written(const char* name, const int64_t* sizes, const int64_t* strides, int rank) {
  for (int d = 0; d < rank; ++d)
    WW_CHECK(sizes[d] <= 1 || strides[d] != 0, "ssm_step: '", name, "' has stride 0 over axis ", d,
             " of size ", sizes[d], "; supported: elements that do not share memory");
}

}  // namespace

void ssm_step_check(const SsmStepParams& p) {
  WW_CHECK(p.G >= 1 && p.H % p.G == 0, "ssm_step: 'B' has ", p.G,
           " groups; supported: divisors of H = ", p.H);
  WW_CHECK(p.state_indices || p.slots == p.B || p.B == 0, "ssm_step: 'state' has ", p.slots,
           " rows; supported without state_indices: the batch size of 'x', ", p.B);
  WW_CHECK(p.dt_min <= p.dt_max, "ssm_step: 'dt_limit' is (", p.dt_min, ", ", p.dt_max,
           "); supported: (low, high) with low <= high");
  WW_CHECK(!p.stochastic || p.state_dtype == DType::f16,
           "ssm_step: 'rounding' is 'stochastic' and ", "'state' is ", dtype_name(p.state_dtype),
           "; supported: float16");
  const int64_t sizes[] = {p.slots, p.H, p.P, p.N};
  check_written("state", sizes, p.state_stride, 4);
  const int64_t sizes_t[] = {p.B, p.T, p.H, p.P, p.N};
  if (p.intermediate) check_written("intermediate_states", sizes_t, p.intermediate_stride, 5);
}

void ssm_step_cpu(const SsmStepParams& p) {
  ssm_step_check(p);
  if (p.state_indices) check_slots("ssm_step", "state_indices", p.state_indices, p.B, p.slots);
  ssm_step_kernel(p);
}

}  // namespace ww
