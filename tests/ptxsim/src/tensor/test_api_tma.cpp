// SPDX-License-Identifier: Apache-2.0
// C functions for test_tensor_tma.py: the bytes a tensor map's box stands for, and the swizzle.
#include <algorithm>
#include <cstdint>

#include "tensor/swizzle.h"
#include "tensor/test_api.h"
#include "tensor/tma.h"

using namespace ptxsim;

extern "C" {

uint32_t ptxsim_test_swizzle(uint32_t address, uint32_t span, uint32_t base_offset) {
  return swizzle(address, span, base_offset);
}

// `map` is rank, type, swizzle (as CUtensorMapSwizzle), interleave, then five numbers each of size,
// stride (four are used), box and element stride. Four numbers a segment go to `segments`: global
// address, shared address, bytes, in bounds. Returns their number, or -1. `bytes` gets the
// transaction's and the shared copy's.
int ptxsim_test_tma(const uint64_t* map, uint64_t address, const int32_t* coordinates, int gather,
                    uint32_t shared, uint64_t* segments, uint32_t* bytes, char* error) {
  int count = -1;
  test::guarded(error, [&] {
    TensorMap m;
    m.rank = int(map[0]);
    m.type = TensorType(map[1]);
    m.interleave = Interleave(map[3]);
    m.address = address;
    if (!set_swizzle(m, uint32_t(map[2]))) throw std::runtime_error("no such swizzle");
    const uint64_t* at = map + 4;
    std::copy_n(at, 5, m.size);
    std::copy_n(at + 5, 4, m.stride);
    std::copy_n(at + 10, 5, m.box);
    std::copy_n(at + 15, 5, m.element_stride);
    std::vector<TmaSegment> found;
    if (gather) {
      tma_gather4(m, coordinates, shared, found);
    } else {
      tma_tile(m, coordinates, shared, found);
    }
    for (const TmaSegment& s : found) {
      *segments++ = s.global;
      *segments++ = s.shared;
      *segments++ = s.bytes;
      *segments++ = s.in_bounds;
    }
    bytes[0] = tma_transaction_bytes(m);
    bytes[1] = tma_shared_bytes(m);
    count = int(found.size());
  });
  return count;
}

}  // extern "C"
