// SPDX-License-Identifier: Apache-2.0
// Which bytes of global and of shared memory a cp.async.bulk.tensor or cp.reduce.async.bulk.tensor
// moves: the same for loads, stores, reductions and prefetches.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensormap.h"

namespace ptxsim {

// Bytes that are contiguous on both sides, all within the tensor or all outside it. Outside, a load
// fills the shared bytes and a store leaves them out.
struct TmaSegment {
  uint64_t global = 0;  // 0 outside the tensor
  uint32_t shared = 0;
  uint32_t bytes = 0;
  bool in_bounds = false;
};

// Appends the segments of the box whose corner is at `coordinates`, innermost first, and whose
// shared copy starts at `shared`, a multiple of 128. Throws std::invalid_argument for interleaved
// maps, which are not simulated.
void tma_tile(const TensorMap& map, const int32_t* coordinates, uint32_t shared,
              std::vector<TmaSegment>& segments);

// .tile::gather4 and .tile::scatter4: of a matrix, four rows of the box's width that need not be
// neighbours; `coordinates` are the column and the rows. Throws unless the box is of one row.
constexpr int kGatherRows = 4;
void tma_gather4(const TensorMap& map, const int32_t* coordinates, uint32_t shared,
                 std::vector<TmaSegment>& segments);

// What an mbarrier counts for the load of one box, also where it lies outside the tensor. The types
// with gaps in shared memory count without them, as CUTLASS expects.
uint32_t tma_transaction_bytes(const TensorMap& map);

// Size of the shared copy, gaps included.
uint32_t tma_shared_bytes(const TensorMap& map);

}  // namespace ptxsim
