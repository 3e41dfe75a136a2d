// SPDX-License-Identifier: Apache-2.0
// PTX text that is loaded and launched without host code of its own: what tests of opcodes run.
#pragma once

#include <string>
#include <vector>

#include "runtime/launch.h"

namespace ptxsim::runtime {

int load_direct(const char* ptx, const std::string& name);  // the module's number
// Throws with the report of the fault, if there is one.
void launch_direct(int module, const std::string& kernel, dim3 grid, dim3 block, dim3 cluster,
                   size_t dynamic_shared, const std::vector<uint8_t>& parameters);
void unload_direct_modules();

}  // namespace ptxsim::runtime
