// SPDX-License-Identifier: Apache-2.0
// The simulator's own C interface, which the Python driver calls by ctypes.
//
// Functions that return int return 0, or -1 and the reason in ptxsim_error(). Strings belong to the
// library and live until the thread's next call of a function that returns one.
#pragma once

#include <cstdint>

#include "core/simulator_api.h"

#pragma GCC visibility push(default)
extern "C" {

const char* ptxsim_error();
// Why the last CUDA call that failed did, and why the last module that did not load did not.
const char* ptxsim_cuda_failure();
const char* ptxsim_load_error();

// --- The device ---

// Chooses the device by name and forgets everything of the one before: memory, streams, modules,
// reports, options.
int ptxsim_reset(const char* device);
const char* ptxsim_devices();  // JSON: an array of all that can be chosen
const char* ptxsim_device();   // JSON: the chosen one, or null
// "seed", "check_races", "check_unwritten", "max_reports", "max_instructions", "host_threads",
// "memory_limit", "capture", "execute"
int ptxsim_set_option(const char* name, uint64_t value);

// --- Memory of the caller that kernels may use as device memory ---

int ptxsim_expose(const void* pointer, uint64_t bytes, int read_only, int written,
                  const char* name);
int ptxsim_forget(const void* pointer);
// The hooks of an op's call (core/simulator_api.h). Each call runs under the next seed, and with
// the option "capture" as a CUDA graph: whatever cannot be captured is an error.
const char* ptxsim_begin_call(const ww::Extent* extents, int32_t count, void** stream);
const char* ptxsim_end_call();

// --- What happened since the last ptxsim_clear() ---

void ptxsim_clear();
int ptxsim_report_count();
const char* ptxsim_report(int index);       // JSON
const char* ptxsim_report_text(int index);  // for people
int ptxsim_launch_count();
const char* ptxsim_counters(int launch);    // JSON
const char* ptxsim_printed();               // what kernels printed

// --- Modules ---

// Until the next reset, the translation unit of the kernel `name`, or else the library whose file
// name contains `name`, holds this PTX instead of its own. Only before the first use of what is in
// it.
int ptxsim_replace_ptx(const char* name, const char* ptx);
const char* ptxsim_kernels();  // JSON: the kernels of loaded modules with their attributes
const char* ptxsim_ptx(const char* kernel);  // the module that was loaded for a kernel, or null
// Registers that ptxas gave a kernel: from now on its launches are held to them.
int ptxsim_set_registers(const char* kernel, int registers);
// The text as parsed and printed again, or null.
const char* ptxsim_parse(const char* ptx);
// JSON: the distinct instructions of the text without their operands ("ld.global.u32"), or null.
const char* ptxsim_forms(const char* ptx);

// --- PTX text without host code ---

// The module's number until the next reset, or -1. `name` is what reports call it.
int ptxsim_load(const char* ptx, const char* name);
// Runs a kernel to its end. `parameters` are its parameter bytes, laid out as PTX does. Neither
// CUDA's error state nor the limits of dynamic shared memory that need an opt-in apply.
int ptxsim_launch(int module, const char* kernel, const uint32_t grid[3], const uint32_t block[3],
                  const uint32_t cluster[3], uint64_t dynamic_shared, const void* parameters,
                  uint64_t bytes);

}  // extern "C"
#pragma GCC visibility pop
