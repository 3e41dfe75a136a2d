// SPDX-License-Identifier: Apache-2.0
// CUDA kernels on CPU tensors, for tests: while a simulated libwarpweave_cuda.so is set, ops on CPU
// tensors go to its launchers, and the simulator is told before each launch what memory the op's
// kernels may touch: what it took with data() and mutable_data(), and what it allocated.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <string>

#include "core/simulator_api.h"

namespace ww {

// Opens `library`, whose CUDA runtime is the simulator's, or goes back to the CPU kernels if it is
// empty.
void simulate_cuda(const std::string& library, Simulator simulator);

extern bool is_simulating;
void note_access(const torch::stable::Tensor& t, Access access);
void forget_accesses();
inline void note(const torch::stable::Tensor& t, Access access) {
  if (is_simulating) note_access(t, access);
}

// As launch_cuda(), of the simulated library.
void launch_simulated(const char* op, const char* symbol, const void* params);

}  // namespace ww
