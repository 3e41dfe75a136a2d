// SPDX-License-Identifier: Apache-2.0
#include "core/parallel.h"

#include <cstdlib>
#include <new>

namespace ww {
namespace {

void serial_for(int64_t n, int64_t, RangeFn fn, void* ctx) { fn(ctx, 0, n); }

ParallelFor g_parallel_for = serial_for;

struct Block {
  void* memory = nullptr;
  size_t bytes = 0;
  ~Block() { std::free(memory); }
};

}  // namespace

void set_parallel_for(ParallelFor impl) { g_parallel_for = impl; }

void parallel_for_range(int64_t n, int64_t grain, RangeFn fn, void* ctx) {
  if (n <= 0) return;
  if (n <= grain) return fn(ctx, 0, n);
  g_parallel_for(n, grain, fn, ctx);
}

void* thread_scratch(size_t bytes) {
  static thread_local Block block;
  if (bytes > block.bytes) {
    std::free(block.memory);
    block.bytes = 0;
    block.memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!block.memory) throw std::bad_alloc();
    block.bytes = bytes;
  }
  return block.memory;
}

}  // namespace ww
