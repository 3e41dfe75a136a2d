// SPDX-License-Identifier: Apache-2.0
// Threads and scratch memory for CPU kernels. The bindings install torch's parallel_for at load, so
// torch.set_num_threads is honoured; without torch (C++ use) the loop runs on the calling thread.
//
// Work is cut into tasks whose results do not depend on who runs them: the same bits for any number
// of threads. Bodies must not throw.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace ww {

using RangeFn = void (*)(void* ctx, int64_t begin, int64_t end);
using ParallelFor = void (*)(int64_t n, int64_t grain, RangeFn fn, void* ctx);

void set_parallel_for(ParallelFor impl, int (*num_threads)());
void parallel_for_range(int64_t n, int64_t grain, RangeFn fn, void* ctx);
int num_threads();

// f(begin, end) over disjoint parts of [0, n), each at least `grain` long but for the last.
template <typename F>
static inline void parallel_for(int64_t n, int64_t grain, const F& f) {
  parallel_for_range(
      n, grain,
      [](void* ctx, int64_t begin, int64_t end) { (*static_cast<const F*>(ctx))(begin, end); },
      const_cast<F*>(&f));
}

// f(task) for tasks of unequal length: each thread has a share of neighbouring tasks, so that what
// one fetches ahead is the next one's, and helps the others when it is done. `work` is the
// multiply-adds of an average task: what is too little to pay for waking a thread stays on this
// one.
template <typename F>
static inline void parallel_tasks(int64_t n, int64_t work, const F& f) {
  constexpr int64_t kWorkPerThread = 1 << 18;  // some 20 us of reading weights
  constexpr int64_t kMostShares = 64;          // more threads begin with helping
  int64_t workers = 1 + n * work / kWorkPerThread;
  if (workers > n) workers = n;
  if (workers > num_threads()) workers = num_threads();
  struct alignas(64) Share { int64_t next, end; } shares[kMostShares];
  const int64_t count = workers < kMostShares ? workers : kMostShares;
  for (int64_t s = 0; s < count; ++s) shares[s] = {n * s / count, n * (s + 1) / count};
  parallel_for(workers, 1, [&](int64_t worker, int64_t) {
    for (int64_t s = 0; s < count; ++s) {
      Share& share = shares[(worker + s) % count];
      for (int64_t i; (i = __atomic_fetch_add(&share.next, 1, __ATOMIC_RELAXED)) < share.end;) f(i);
    }
  });
}

// 64-byte aligned memory of the calling thread, uninitialised, valid until its next call on the
// same thread. It is kept for later calls, since fresh pages cost more than the arithmetic they
// serve.
void* thread_scratch(size_t bytes);

// The same, for what all threads of one kernel call share: taken by the calling thread before it
// forks.
void* call_scratch(size_t bytes);

// Hands out aligned pieces of a scratch block: first with a null base to measure, then for real.
struct Carver {
  char* base;
  size_t used = 0;

  template <typename T>
  __attribute__((always_inline)) T* take(int64_t count) {  // never a symbol of a per-ISA object
    T* piece = reinterpret_cast<T*>(base + used);
    used += (size_t(count) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
};

}  // namespace ww
