// SPDX-License-Identifier: Apache-2.0
// What only sm_90a has: TMA, mbarriers that count its bytes, and products of a warpgroup. One PTX
// instruction a function; code that calls these belongs under __CUDA_ARCH_FEAT_SM90_ALL.
#pragma once

#include <stdint.h>

namespace ww::ptx {

// --- mbarriers, 8 bytes of shared memory each ---

__device__ inline void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ inline void mbarrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// The phase also waits for so many bytes of copies.
__device__ inline void mbarrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Whether the phase of this parity has ended; the hardware may hold the thread for a while first.
__device__ inline bool mbarrier_try_wait(uint32_t barrier, uint32_t parity) {
  uint32_t ended;
  asm volatile(
      "{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
      : "=r"(ended)
      : "r"(barrier), "r"(parity)
      : "memory");
  return ended;
}
__device__ inline void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  while (!mbarrier_try_wait(barrier, parity)) {
  }
}

// --- TMA ---

// The box of a tensor map at element (c0, c1, c2, c3); its bytes count at the mbarrier.
__device__ inline void tma_load(uint32_t shared, const void* map, int c0, int c1, int c2, int c3,
                                uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4, %5}], [%6];" ::"r"(shared),
      "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(barrier)
      : "memory");
}
__device__ inline void tma_store(const void* map, int c0, int c1, int c2, int c3, uint32_t shared) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(
          map),
      "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(shared)
      : "memory");
}
__device__ inline void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
__device__ inline void tma_store_wait_read() {  // until this thread's stores have read their source
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
// Own accesses to shared memory come before those of TMA and wgmma that are ordered after this.
__device__ inline void fence_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// --- Some threads of a block ---

template <int kBarrier, int kThreads>
__device__ inline void barrier_sync() {
  asm volatile("barrier.cta.sync %0, %1;" ::"n"(kBarrier), "n"(kThreads) : "memory");
}
template <int kBarrier, int kThreads>
__device__ inline bool barrier_or(bool v) {
  uint32_t any;
  asm volatile(
      "{ .reg .pred p, q; setp.ne.u32 p, %1, 0; barrier.cta.red.or.pred q, %2, %3, p; "
      "selp.u32 %0, 1, 0, q; }"
      : "=r"(any)
      : "r"(uint32_t(v)), "n"(kBarrier), "n"(kThreads)
      : "memory");
  return any;
}

// A warpgroup gives registers back, or waits for more of them. What a block starts with is the same
// for all of its threads.
template <int kRegisters>
__device__ inline void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void acquire_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Stores four 8x8 matrices of 16-bit elements; lane l names row l % 8 of matrix l / 8.
__device__ inline void stmatrix(uint32_t address, uint32_t r0, uint32_t r1, uint32_t r2,
                                uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(r0), "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}

// --- Products of a warpgroup: bf16 with fp32 accumulation, M = 64, K = 16 ---

// Operands in shared memory: rows of 128 bytes, 8 of them a swizzle pattern on 1024 bytes. K along
// the rows: the next 16 of K are 32 bytes on. Or K down the rows: they are 2048 bytes on, and
// `next` is how far apart the columns 64 to 127 are.
__device__ inline uint64_t swizzled_operand(uint32_t address, uint32_t next = 16) {
  constexpr uint64_t kSwizzle128 = uint64_t(1) << 62, kPattern = uint64_t(1024 >> 4) << 32;
  return kSwizzle128 | kPattern | uint64_t(next >> 4) << 16 | (address & 0x3ffff) >> 4;
}

// Registers that products write or read must be set before a fence and, where products write them,
// must not be read before a wait. The compiler does not know: pin() before the fence and after the
// wait keeps it from moving their uses.
template <int n>
__device__ inline void pin(float (&v)[n][4]) {
#pragma unroll
  for (int i = 0; i < 4 * n; ++i) asm volatile("" : "+f"(v[i / 4][i % 4])::"memory");
}
template <int n>
__device__ inline void pin(uint32_t (&v)[n][4]) {
#pragma unroll
  for (int i = 0; i < 4 * n; ++i) asm volatile("" : "+r"(v[i / 4][i % 4])::"memory");
}
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kGroups>
__device__ inline void wgmma_wait() {  // until at most kGroups groups are under way
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}

#define WW_TILE(d, n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define WW_TILES(d, n)                                                                       \
  WW_TILE(d, n), WW_TILE(d, n + 1), WW_TILE(d, n + 2), WW_TILE(d, n + 3), WW_TILE(d, n + 4), \
      WW_TILE(d, n + 5), WW_TILE(d, n + 6), WW_TILE(d, n + 7)
#define WW_32                                                                                  \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
  "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WW_64                                                                                    \
  WW_32                                                                                          \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// d (64x64) = a b, or with kAdd d += a b; both in shared memory, K along the rows.
template <bool kAdd>
__device__ inline void wgmma(float (&d)[8][4], uint64_t a, uint64_t b) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %34, 0; "
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WW_32 "}, %32, %33, p, 1, 1, 0, 0; }"
      : WW_TILES(d, 0)
      : "l"(a), "l"(b), "n"(int(kAdd)));
}

// d += a b; a in registers as for mma, b in shared memory, K down the rows.
__device__ inline void wgmma_add(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, 1, 0; "
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WW_32
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1; }"
      : WW_TILES(d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void wgmma_add(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, 1, 0; "
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WW_64
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1; }"
      : WW_TILES(d, 0), WW_TILES(d, 8)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef WW_TILE
#undef WW_TILES
#undef WW_32
#undef WW_64

}  // namespace ww::ptx
