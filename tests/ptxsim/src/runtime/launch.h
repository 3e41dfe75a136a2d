// SPDX-License-Identifier: Apache-2.0
// Launches: the limits of the device and the kernel, the argument bytes, the run.
#pragma once

#include <vector>

#include "runtime/registration.h"
#include "runtime/stream.h"

namespace ptxsim::runtime {

struct LaunchOptions {
  dim3 cluster{1, 1, 1};
  bool has_cluster = false;  // given at the launch
  bool cooperative = false, programmatic = false;
};

// What the simulator launches, after all checks of the device's limits and the kernel's.
LaunchConfig checked_config(const KernelEntry& kernel, dim3 grid, dim3 block, size_t dynamic_shared,
                            const LaunchOptions& options);
// Checks the launch and copies its arguments; run() executes it.
Operation kernel_operation(const void* function, dim3 grid, dim3 block, void** arguments,
                           size_t dynamic_shared, const LaunchOptions& options = {});

// Blocks' dynamic shared memory that a launch of this kernel may ask for.
int max_dynamic_shared(const KernelEntry& kernel);
// The cluster that a launch without the attribute has: of the kernel's directives or attributes, or
// 1.
dim3 cluster_of(const KernelEntry& kernel, bool* is_required);
LaunchOptions read_attributes(const cudaLaunchConfig_t& config);
// Blocks an SM holds, 0 if none fits.
int blocks_per_sm(const KernelEntry& kernel, int64_t threads, size_t dynamic_shared);

struct Parameter { uint64_t offset, bytes; };
std::vector<Parameter> parameters_of(const ptx::Function& function, uint64_t* total);

}  // namespace ptxsim::runtime
