// SPDX-License-Identifier: Apache-2.0
// From accesses to the counters of counters.h, which says what each means.
#pragma once

#include "counters/counters.h"
#include "engine/memory.h"

namespace ptxsim {

// What these lanes of an access touch.
void count_global(Warp& w, const Place* places, uint32_t lanes, const Access& access);
void count_shared(Warp& w, const Place* places, uint32_t lanes, const Access& access);

// One group: `n` pieces of `bytes` at these shared offsets.
void count_wavefronts(const uint32_t* offsets, int n, uint32_t bytes, Wavefronts& count);
// The lanes of a warp, in as many groups as they need.
void count_wavefronts(const Place* places, uint32_t mask, uint32_t bytes, Wavefronts& count);
// A copy of whole lines.
void count_lines(uint32_t offset, uint64_t bytes, Wavefronts& count);
// An instruction's sectors, in any order (they are sorted), or one contiguous piece.
void count_sectors(Block& block, uint64_t* sectors, int n, bool is_store, Traffic& traffic);
void count_range(Block& block, uint64_t address, uint64_t bytes, bool is_store, Traffic& traffic);
// One side of a bulk copy.
void count_bulk(Warp& w, const Place& place, uint64_t bytes, bool is_store);

}  // namespace ptxsim
