// SPDX-License-Identifier: Apache-2.0
// The classes in which executed warp instructions are counted.
#pragma once

#include <cstdint>

namespace ptxsim {

enum class InstructionClass : uint8_t {
  integer,
  float32,
  float64,
  half,
  special_function,
  convert,
  move,
  predicate,
  control,
  warp,
  barrier,
  mbarrier,
  mma,
  wgmma,
  ldmatrix,
  stmatrix,
  load_global,
  store_global,
  load_shared,
  store_shared,
  load_local,
  store_local,
  load_param,
  atomic,
  cp_async,
  bulk,
  tma,
  async_control,
  fence,
  no_action,
  count
};
const char* name_of(InstructionClass kind);

}  // namespace ptxsim
