// SPDX-License-Identifier: Apache-2.0
// One function for each PTX instruction that the kernels here need and CUDA C++ has no name for.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

namespace ptx {

__device__ inline uint32_t address(const void* shared) {
  return uint32_t(__cvta_generic_to_shared(shared));
}

// A wgmma operand without swizzling: core matrices of 128 bytes one after the other.
__device__ inline uint64_t plain_operand(const void* shared) {
  constexpr uint64_t kLeading = 128 / 16, kStride = 256 / 16;
  return uint64_t(address(shared) >> 4) | kLeading << 16 | kStride << 32;
}

// --- mbarriers ---

__device__ inline void mbarrier_init(uint64_t* bar, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(bar)), "r"(count)
               : "memory");
}
__device__ inline void mbarrier_inval(uint64_t* bar) {
  asm volatile("mbarrier.inval.shared.b64 [%0];" ::"r"(address(bar)) : "memory");
}
__device__ inline void mbarrier_arrive(uint64_t* bar) {
  asm volatile("{ .reg .b64 t; mbarrier.arrive.shared::cta.b64 t, [%0]; }" ::"r"(address(bar))
               : "memory");
}
__device__ inline void mbarrier_arrive(uint64_t* bar, uint32_t count) {
  asm volatile(
      "{ .reg .b64 t; mbarrier.arrive.noComplete.shared.b64 t, [%0], %1; }" ::"r"(address(bar)),
      "r"(count)
      : "memory");
}
__device__ inline bool mbarrier_test(uint64_t* bar, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, "
      "p; }"
      : "=r"(done)
      : "r"(address(bar)), "r"(parity)
      : "memory");
  return done;
}

__device__ inline void mbarrier_expect(uint64_t* bar, uint32_t bytes) {  // and arrives
  asm volatile(
      "{ .reg .b64 t; mbarrier.arrive.expect_tx.shared::cta.b64 t, [%0], %1; }" ::"r"(address(bar)),
      "r"(bytes)
      : "memory");
}
__device__ inline void mbarrier_wait(uint64_t* bar, uint32_t parity) {
  asm volatile(
      "{ .reg .pred p;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@!p bra again; }" ::"r"(address(bar)),
      "r"(parity)
      : "memory");
}

// --- TMA ---

__device__ inline void fence_async() { asm volatile("fence.proxy.async;" ::: "memory"); }
__device__ inline void load(void* to, const CUtensorMap* map, int x, int y, uint64_t* bar) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
      "%3}], [%4];" ::"r"(address(to)),
      "l"(map), "r"(x), "r"(y), "r"(address(bar))
      : "memory");
}
__device__ inline void store(const CUtensorMap* map, int x, int y, const void* from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
      "r"(x), "r"(y), "r"(address(from))
      : "memory");
}
__device__ inline void bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* bar) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(address(to)),
      "l"(from), "r"(bytes), "r"(address(bar))
      : "memory");
}
__device__ inline void bulk_store(void* to, const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
               "r"(address(from)), "r"(bytes)
               : "memory");
}
__device__ inline void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
__device__ inline void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// --- wgmma ---

enum Swizzle : uint64_t { kSwizzle128 = 1, kSwizzle64 = 2, kNoSwizzle = 0 };
// K-major, 8 rows being `stride` bytes; `leading`: from one 16-byte column to the next without
// swizzle.
__device__ inline uint64_t descriptor(const void* tile, Swizzle swizzle, uint64_t leading,
                                      uint64_t stride) {
  return ((address(tile) & 0x3ffff) >> 4) | (leading >> 4) << 16 | (stride >> 4) << 32 |
         uint64_t(swizzle) << 62;
}
// Keeps the compiler from moving what defines the accumulators behind the fence.
template <int kCount>
__device__ inline void pin(float (&d)[kCount]) {
#pragma unroll
  for (float& x : d) asm volatile("" : "+f"(x)::"memory");
}
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

__device__ inline void wgmma_n8(float (&d)[4], uint64_t a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, 1, 1, 1, 0, 0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "l"(a), "l"(b));
}
__device__ inline void wgmma_n32(float (&d)[16], uint64_t a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, 1, 1, 1, 0, 0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15])
      : "l"(a), "l"(b));
}

}  // namespace ptx
