// SPDX-License-Identifier: Apache-2.0
// What fragments wait for, and who lets them go.
#pragma once

#include "engine/launch.h"

namespace ptxsim {

// The fragment's wait is over, or it never waited.
bool may_continue(Warp& w, Fragment& fragment);
// "warp 3 waits at file.ptx line 40 for barrier 1: 96 of 128 threads arrived", for deadlock
// reports.
std::string describe_wait(const Warp& w, const Fragment& fragment);
// Threads left: barriers of which all remaining threads have arrived complete.
void release_if_complete(Block& block);
// One pending asynchronous operation of the cluster completes. False if there is none.
bool complete_one(Cluster& cluster, Random& random);
// Those of `kind` that belong to `lanes` of the warp, with a group of at most `group`, complete
// now, and the lanes know of it.
void complete_groups(Warp& w, AsyncOp::Kind kind, uint64_t group, uint32_t lanes);

void complete_barrier(Launch& launch, NamedBarrier& barrier);
void complete_barrier(Cluster& cluster);

// mbarrier state as it lies in shared memory (mbarrier.cpp).
bool mbarrier_phase_complete(Block& block, uint32_t address, uint32_t parity);
std::string describe_mbarrier(const Block& block, uint32_t address);

}  // namespace ptxsim
