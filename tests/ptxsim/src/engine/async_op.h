// SPDX-License-Identifier: Apache-2.0
// Work that was started and is not done: a copy, a tensor-core product, an arrival.
#pragma once

#include <cstdint>
#include <functional>

namespace ptxsim {

struct Warp;

struct Agent {      // of the race checker, races.h
  uint32_t id = 0;  // 0: none
};

struct AsyncOp {
  enum class Kind : uint8_t { copy, bulk, arrival, wgmma };
  std::function<void()> complete;  // runs once
  uint64_t group = 0;              // of its owner, for waits on groups; 0: none
  Warp* owner = nullptr;
  Kind kind = Kind::copy;
  uint32_t lanes = 0;              // of the owner, whose it is
  Agent agent;                     // whoever waits for the operation learns what it did
};

struct DoneOp {                    // complete, but its owner has not waited for it
  AsyncOp::Kind kind;
  uint64_t group;
  uint32_t lanes;
  Agent agent;
};

}  // namespace ptxsim
