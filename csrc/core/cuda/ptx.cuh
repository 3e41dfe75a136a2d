// SPDX-License-Identifier: Apache-2.0
// One PTX instruction a function. Shared memory is named by its 32-bit address.
#pragma once

#include <stdint.h>

namespace ww::ptx {

// Approximations; without .ftz each would cost three instructions more for subnormals.

__device__ inline float ex2_approx(float v) {  // 2^v to 2 ulp; results below 2^-126 are 0
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(v));
  return v;
}

__device__ inline float rcp_approx(float v) {  // 1/v to 1 ulp
  asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(v));
  return v;
}

// --- Pairs of values ---

__device__ inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t v;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(v) : "r"(a), "r"(b), "r"(c));
  return v;
}

// --- Shared memory ---

__device__ inline uint32_t shared_address(const void* p) {
  return uint32_t(__cvta_generic_to_shared(p));
}

__device__ inline void store_shared(uint32_t address, uint4 v) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}

template <int kOffset = 0>
__device__ inline void store_shared(uint32_t address, uint32_t v) {
  asm volatile("st.shared.b32 [%0 + %2], %1;" ::"r"(address), "r"(v), "n"(kOffset) : "memory");
}
template <int kOffset = 0>
__device__ inline uint32_t load_shared(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.b32 %0, [%1 + %2];" : "=r"(v) : "r"(address), "n"(kOffset) : "memory");
  return v;
}

template <int kOffset>
__device__ inline void load_shared_x2(uint32_t (&v)[2], uint32_t address) {
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2 + %3];"
               : "=r"(v[0]), "=r"(v[1])
               : "r"(address), "n"(kOffset)
               : "memory");
}
template <int kOffset>
__device__ inline void load_shared_x4(uint32_t (&v)[4], uint32_t address) {
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4 + %5];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(address), "n"(kOffset)
               : "memory");
}
template <int kOffset>
__device__ inline uint32_t load_shared_byte(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u8 %0, [%1 + %2];" : "=r"(v) : "r"(address), "n"(kOffset) : "memory");
  return v;
}

// Copies 16 bytes past L1, of which only the first `bytes` are read and the rest are zero.
__device__ inline void cp_async(uint32_t shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(bytes)
               : "memory");
}
template <int kOffset>
__device__ inline void cp_async(uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0 + %2], [%1], 16;" ::"r"(shared), "l"(global),
               "n"(kOffset)
               : "memory");
}
// 4 bytes through L1, for rows of which a sector is copied in several steps.
__device__ inline void cp_async_word(uint32_t shared, const void* global, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(bytes)
               : "memory");
}
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroups>
__device__ inline void cp_async_wait() {  // until at most kGroups groups are under way
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// --- Words between blocks ---

__device__ inline int32_t load_acquire(const int32_t* p) {
  int32_t v;
  asm volatile("ld.acquire.gpu.global.b32 %0, [%1];"
               : "=r"(v)
               : "l"(__cvta_generic_to_global(p))
               : "memory");
  return v;
}
__device__ inline void store_release(int32_t* p, int32_t v) {
  asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(__cvta_generic_to_global(p)), "r"(v)
               : "memory");
}

// --- Matrices: fragments as in the PTX ISA, "Matrix Fragments for mma.m16n8k16" ---

// Four 8x8 matrices of 16-bit elements; lane l names row l % 8 of matrix l / 8.
template <int kOffset = 0>
__device__ inline void ldmatrix(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4 + %5];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address), "n"(kOffset)
               : "memory");
}
template <int kOffset = 0>
__device__ inline void ldmatrix_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4 + %5];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address), "n"(kOffset)
               : "memory");
}

// d (16x8) += a (16x16) b (16x8), bf16 with fp32 accumulation.
__device__ inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same of E4M3, 16x32 and 32x8. sm_89.
__device__ inline void mma_e4m3(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same of E2M1, 16x64 and 64x8, with a word of E4M3 block scales, taken without their signs,
// for each row of a in lanes 4g and, 8 rows further, 4g + 1, and for each column of b in lane 4g.
// sm_120a.
__device__ inline void mma_nvfp4(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                 uint32_t scales_a, uint32_t scales_b) {
  constexpr uint16_t kFirst = 0;
  asm("mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1"
      ".f32.ue4m3 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, %10, {%12, %12}, "
      "%11, {%12, %12};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(scales_a), "r"(scales_b),
        "h"(kFirst));
}

// d = a b
__device__ inline void mma_bf16_first(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                      uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%10, %10, %10, %10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.f));
}

}  // namespace ww::ptx
