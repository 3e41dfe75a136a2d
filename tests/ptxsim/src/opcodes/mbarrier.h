// SPDX-License-Identifier: Apache-2.0
// mbarrier objects, as they lie in shared memory: PTX ISA 9.7.13.15. The 64 bits are ours to lay
// out, for the ISA calls them opaque; keeping the state there means that whatever overwrites it
// breaks it.
#pragma once

#include "engine/launch.h"

namespace ptxsim {

struct Mbarrier {
  uint32_t pending = 0;   // arrivals that the current phase still needs
  uint32_t expected = 0;  // arrivals of the next phase
  int32_t tx = 0;         // bytes that the current phase still needs
  uint32_t phase = 0;     // parity of the current phase
  static constexpr uint32_t kMaxCount = (1u << 20) - 1;

  static Mbarrier load(uint64_t bits, bool* is_valid);
  uint64_t store() const;
  bool is_complete() const { return pending == 0 && tx == 0; }
  void complete_phase() { pending = expected, phase ^= 1; }
};

// One operation on the object at a checked place of a block; the race checker is told.
enum class MbarrierStep : uint8_t { arrive, expect_tx, complete_tx, arrive_expect_tx, arrive_drop };
// Returns the state before it, which is the token of an arrival.
uint64_t step_mbarrier(Launch& launch, Block& block, uint32_t offset, MbarrierStep step,
                       uint32_t count, uint32_t tx, Warp* w, const Op* op, int lane);

// One more arrival is pending in the current phase: cp.async.mbarrier.arrive without .noinc.
void raise_mbarrier(Block& block, uint32_t offset, const Warp& w, const Op& op, int lane);

}  // namespace ptxsim
