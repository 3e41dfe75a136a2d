// SPDX-License-Identifier: Apache-2.0
// cutlass::gemm::device::Gemm of CUTLASS 2.x on sm_80 tensor cores: multistage, one 128x128 tile a
// block. d = a b + c, or a b where c is null; c and d are row-major (m, n), a is row-major (m, k).
//
//   entry            a, b -> c, d   b is    multiples  exercises
//   sm80_bf16        bf16 -> f32    (n, k)  n 4, k 8   mma m16n8k16, ldmatrix, cp.async.cg 16
//   sm80_f16         f16 -> f16     (k, n)  n 8, k 8   f16 accumulators, ldmatrix.trans
//   sm80_s8          s8 -> s32      (n, k)  n 4, k 16  mma m16n8k32 .satfinite
//   sm80_tf32        f32 -> f32     (n, k)  none       mma m16n8k8, cp.async.ca 4
//   sm80_bf16_split  bf16 -> f32    (n, k)  n 4, k 8   k in `slices`, added up in order: blocks
//                                                      wait on semaphores in global memory
//   sm80_bf16_stream bf16 -> f32    (n, k)  n 4, k 8   stream-K: blocks share the last tiles,
//                                                      partial sums go through global memory
#include <type_traits>

#include "cutlass/epilogue/thread/linear_combination.h"
#include "cutlass/gemm/device/gemm.h"
#include "cutlass/gemm/device/gemm_universal.h"
#include "launch.h"

namespace {

using cutlass::gemm::GemmShape;
using Row = cutlass::layout::RowMajor;
using Column = cutlass::layout::ColumnMajor;

template <class In, class LayoutB, class Out, class Block, class Warp, class Mma, int kAlignIn,
          int kAlignOut, int kStages, bool kSplit = false>
using Gemm = cutlass::gemm::device::Gemm<
    In, Row, In, LayoutB, Out, Row, Out, cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80, Block,
    Warp, Mma, cutlass::epilogue::thread::LinearCombination<Out, kAlignOut, Out, Out>,
    cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>, kStages, kAlignIn, kAlignIn,
    kSplit,
    std::conditional_t<std::is_same_v<In, int8_t>, cutlass::arch::OpMultiplyAddSaturate,
                       cutlass::arch::OpMultiplyAdd>>;

template <class Gemm>
int run(int m, int n, int k, const void* a, const void* b, const void* c, void* d, int slices = 1) {
  using Out = typename Gemm::ElementC;
  constexpr bool kRowB = std::is_same_v<typename Gemm::LayoutB, Row>;
  return oracle::run<Gemm>({{m, n, k},
                            {static_cast<const typename Gemm::ElementA*>(a), k},
                            {static_cast<const typename Gemm::ElementB*>(b), kRowB ? n : k},
                            {static_cast<const Out*>(c ? c : d), n},
                            {static_cast<Out*>(d), n},
                            {Out(1), Out(c ? 1 : 0)},
                            slices});
}

using Bf16 = cutlass::bfloat16_t;
using F16 = cutlass::half_t;
using Tile32 = GemmShape<128, 128, 32>;
using Warp32 = GemmShape<64, 64, 32>;

}  // namespace

ORACLE_EXPORT int sm80_bf16(int m, int n, int k, const void* a, const void* b, const void* c,
                            void* d) {
  return run<Gemm<Bf16, Column, float, Tile32, Warp32, GemmShape<16, 8, 16>, 8, 4, 3>>(m, n, k, a,
                                                                                       b, c, d);
}

ORACLE_EXPORT int sm80_f16(int m, int n, int k, const void* a, const void* b, const void* c,
                           void* d) {
  return run<Gemm<F16, Row, F16, Tile32, Warp32, GemmShape<16, 8, 16>, 8, 8, 4>>(m, n, k, a, b, c,
                                                                                 d);
}

ORACLE_EXPORT int sm80_s8(int m, int n, int k, const void* a, const void* b, const void* c,
                          void* d) {
  return run<Gemm<int8_t, Column, int32_t, GemmShape<128, 128, 64>, GemmShape<64, 64, 64>,
                  GemmShape<16, 8, 32>, 16, 4, 3>>(m, n, k, a, b, c, d);
}

ORACLE_EXPORT int sm80_tf32(int m, int n, int k, const void* a, const void* b, const void* c,
                            void* d) {
  return run<Gemm<float, Column, float, GemmShape<128, 128, 16>, GemmShape<64, 64, 16>,
                  GemmShape<16, 8, 8>, 1, 1, 3>>(m, n, k, a, b, c, d);
}

ORACLE_EXPORT int sm80_bf16_split(int m, int n, int k, const void* a, const void* b, const void* c,
                                  void* d, int slices) {
  return run<Gemm<Bf16, Column, float, Tile32, Warp32, GemmShape<16, 8, 16>, 8, 4, 3, true>>(
      m, n, k, a, b, c, d, slices);
}

// sms: multiprocessors to spread the work over; -1 for all.
ORACLE_EXPORT int sm80_bf16_stream(int m, int n, int k, const void* a, const void* b, const void* c,
                                   void* d, int sms) {
  using Gemm = cutlass::gemm::device::GemmUniversal<
      Bf16, Row, Bf16, Column, float, Row, float, cutlass::arch::OpClassTensorOp,
      cutlass::arch::Sm80, Tile32, Warp32, GemmShape<16, 8, 16>,
      cutlass::epilogue::thread::LinearCombination<float, 4, float, float>,
      cutlass::gemm::threadblock::ThreadblockSwizzleStreamK, 3, 8, 8>;
  const int64_t batch = 0;  // strides between batches, of which there is one
  return oracle::run<Gemm>({cutlass::gemm::GemmUniversalMode::kGemm,
                            {m, n, k},
                            1,
                            {1.f, c ? 1.f : 0.f},
                            a,
                            b,
                            c ? c : d,
                            d,
                            batch,
                            batch,
                            batch,
                            batch,
                            k,
                            k,
                            n,
                            n,
                            sms});
}
