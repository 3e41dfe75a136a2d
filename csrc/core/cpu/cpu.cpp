// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/cpu.h"

#include <sys/syscall.h>
#include <unistd.h>
#include <cstdlib>
#include <cstring>

#include <atomic>
#include <vector>

#include "core/check.h"
#include "core/cpu/dispatch.h"

namespace ww {
namespace {

constexpr const char* kNames[kNumIsas] = {"x86-64-v2", "avx2", "avx512", "avx512_bf16", "amx_bf16"};

// Linux keeps AMX tile state off until the process asks for it (arch_prctl, XTILEDATA = 18).
bool amx_permitted() {
  constexpr long kArchReqXcompPerm = 0x1023, kXtileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXtileData) == 0;
}

// Leaf 7, EDX: bit 24 AMX-TILE, bit 22 AMX-BF16; gcc 12 has no name for them.
bool cpuid_amx_bf16() {
  unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
  __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  return (edx >> 24 & 1) && (edx >> 22 & 1);
}

Isa detect() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  if (!avx2) return Isa::base;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512cd");
  if (!avx512) return Isa::avx2;
  const bool bf16 = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
                    __builtin_cpu_supports("avx512vbmi");
  if (!bf16) return Isa::avx512;
  return cpuid_amx_bf16() && amx_permitted() ? Isa::amx_bf16 : Isa::avx512_bf16;
}

Isa parse(const char* name, const char* source) {
  for (int i = 0; i < kNumIsas; ++i) {
    if (std::strcmp(name, kNames[i]) != 0) continue;
    WW_CHECK(i <= int(best_cpu_isa()), source, ": this machine cannot run '", name,
             "'; its best is '", isa_name(best_cpu_isa()), "'");
    return Isa(i);
  }
  fail(source, ": unknown ISA '", name,
       "'; supported: x86-64-v2, avx2, avx512, avx512_bf16, amx_bf16");
}

std::atomic<int>& current() {
  static std::atomic<int> isa = [] {
    const char* wanted = std::getenv("WARPWEAVE_CPU_ISA");
    return int(wanted && *wanted ? parse(wanted, "WARPWEAVE_CPU_ISA") : best_cpu_isa());
  }();
  return isa;
}

}  // namespace

const char* isa_name(Isa isa) { return kNames[int(isa)]; }

Isa best_cpu_isa() {
  static const Isa best = detect();
  return best;
}

Isa cpu_isa() { return Isa(current().load(std::memory_order_relaxed)); }

void set_cpu_isa(const char* name) { current().store(int(parse(name, "set_cpu_isa"))); }

namespace {
std::vector<KernelInfo>& registry() {
  static std::vector<KernelInfo> kernels;  // in a function: kernels register before main
  return kernels;
}
}  // namespace

void register_kernel(const KernelInfo& info) { registry().push_back(info); }

const KernelInfo* registered_kernels(int* count) {
  *count = int(registry().size());
  return registry().data();
}

void dispatch_miss(const char* what, int64_t value, const int64_t* supported, int n) {
  std::ostringstream list;
  for (int i = 0; i < n; ++i) list << (i ? ", " : "") << supported[i];
  fail("no kernel for ", what, " = ", value, "; instantiated: ", list.str());
}

}  // namespace ww
