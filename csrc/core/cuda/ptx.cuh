// SPDX-License-Identifier: Apache-2.0
// One PTX instruction a function. Without .ftz each would cost three more for subnormals.
#pragma once

namespace ww::ptx {

__device__ inline float ex2_approx(float v) {  // 2^v to 2 ulp; results below 2^-126 are 0
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(v));
  return v;
}

__device__ inline float rcp_approx(float v) {  // 1/v to 1 ulp
  asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(v));
  return v;
}

}  // namespace ww::ptx
