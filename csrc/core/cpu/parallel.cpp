// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/parallel.h"

#include <cstdlib>
#include <new>

namespace ww {
namespace {

void serial_for(int64_t n, int64_t, RangeFn fn, void* ctx) { fn(ctx, 0, n); }

int one_thread() { return 1; }

ParallelFor g_parallel_for = serial_for;
int (*g_num_threads)() = one_thread;

struct Block {
  void* memory = nullptr;
  size_t bytes = 0;
  ~Block() { std::free(memory); }

  void* reserve(size_t wanted) {
    if (wanted <= bytes) return memory;
    std::free(memory);
    bytes = 0;
    memory = std::aligned_alloc(64, (wanted + 63) / 64 * 64);
    if (!memory) throw std::bad_alloc();
    bytes = wanted;
    return memory;
  }
};

}  // namespace

void set_parallel_for(ParallelFor impl, int (*num_threads)()) {
  g_parallel_for = impl;
  g_num_threads = num_threads;
}

int num_threads() { return g_num_threads(); }

void parallel_for_range(int64_t n, int64_t grain, RangeFn fn, void* ctx) {
  if (n <= 0) return;
  if (n <= grain) return fn(ctx, 0, n);
  g_parallel_for(n, grain, fn, ctx);
}

void* thread_scratch(size_t bytes) {
  static thread_local Block block;
  return block.reserve(bytes);
}

void* call_scratch(size_t bytes) {
  static thread_local Block block;
  return block.reserve(bytes);
}

}  // namespace ww
