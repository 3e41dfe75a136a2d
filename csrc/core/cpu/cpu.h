// SPDX-License-Identifier: Apache-2.0
// The CPU instruction sets that kernels are compiled for, and the choice among them.
//
// Each room's x_cpu.inc is compiled once per ISA with WW_ISA set to the namespace; WW_CPU_KERNEL
// declares those functions and gathers them in a table. A call takes the best entry that is not
// above the current ISA. WARPWEAVE_CPU_ISA=<name> or set_cpu_isa() lowers it, so one machine tests
// them all.
#pragma once

#include "core/types.h"

namespace ww {

enum class Isa : int { base, avx2, avx512, avx512_bf16, amx_bf16 };
inline constexpr int kNumIsas = 5;

const char* isa_name(Isa isa);       // "x86-64-v2" for base, else the enumerator
Isa best_cpu_isa();                  // what this machine can run
Isa cpu_isa();                       // what calls take now
void set_cpu_isa(const char* name);  // throws ww::Error on an unknown or unsupported name

struct KernelInfo {                  // one row of the registry that `warpweave doctor` prints
  const char* op;
  const char* target;                // "cpu:avx2", "cuda:sm_90a"
  const char* dtypes;
  int isa;                           // the Isa of a CPU kernel, -1 for CUDA
};
void register_kernel(const KernelInfo& info);
const KernelInfo* registered_kernels(int* count);

template <typename Params>
struct CpuKernel {
  using Fn = void (*)(const Params&);
  Fn by_isa[kNumIsas];

  CpuKernel(const char* op, const char* dtypes, Fn base, Fn avx2, Fn avx512, Fn avx512_bf16,
            Fn amx_bf16)
      : by_isa{base, avx2, avx512, avx512_bf16, amx_bf16} {
    static constexpr const char* kTargets[kNumIsas] = {"cpu:x86-64-v2", "cpu:avx2", "cpu:avx512",
                                                       "cpu:avx512_bf16", "cpu:amx_bf16"};
    for (int i = 0; i < kNumIsas; ++i)
      if (by_isa[i]) register_kernel({op, kTargets[i], dtypes, i});
  }

  void operator()(const Params& p) const {
    int i = int(cpu_isa());
    while (!by_isa[i]) --i;  // base is always there
    by_isa[i](p);
  }
};

}  // namespace ww

// A kernel of vector arithmetic only: three ISAs are enough.
#define WW_CPU_KERNEL_VECTOR(fn, Params, dtypes)                  \
  namespace base { void fn(const Params&); }                      \
  namespace avx2 { void fn(const Params&); }                      \
  namespace avx512 { void fn(const Params&); }                    \
  static const CpuKernel<Params> fn##_kernel {                    \
    #fn, dtypes, base::fn, avx2::fn, avx512::fn, nullptr, nullptr \
  }

// A kernel with matrix products: also the bf16 dot and tile instructions.
#define WW_CPU_KERNEL_MATRIX(fn, Params, dtypes) WW_CPU_KERNEL_SHARED(fn, fn, Params, dtypes)

// An op that the matrix kernel `fn` of another room does too.
#define WW_CPU_KERNEL_SHARED(op, fn, Params, dtypes)                           \
  namespace base { void fn(const Params&); }                                   \
  namespace avx2 { void fn(const Params&); }                                   \
  namespace avx512 { void fn(const Params&); }                                 \
  namespace avx512_bf16 { void fn(const Params&); }                            \
  namespace amx_bf16 { void fn(const Params&); }                               \
  [[maybe_unused]] static const CpuKernel<Params> op##_kernel {                \
    #op, dtypes, base::fn, avx2::fn, avx512::fn, avx512_bf16::fn, amx_bf16::fn \
  }
