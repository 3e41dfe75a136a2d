// SPDX-License-Identifier: Apache-2.0
// What a simulator of CUDA devices is told of an op's call: the memory its kernels may touch.
#pragma once

#include <stdint.h>

namespace ww {

enum class Access : int32_t { read, write, fresh };  // fresh: the op's own, nothing is in it yet

struct Extent {  // from the first to the last element of a tensor; extents of a call may overlap
  const void* begin;
  uint64_t bytes;
  const char* name;
  Access access;
};

// Both return null, or what is wrong. `begin` says on which stream to launch; `end` waits for the
// work and takes the memory back.
struct Simulator {
  const char* (*begin)(const Extent* extents, int32_t count, void** stream);
  const char* (*end)();
};

}  // namespace ww
