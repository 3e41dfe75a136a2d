// SPDX-License-Identifier: Apache-2.0
// What nvcc's generated code registers when a library is loaded: fat binaries, kernels, variables.
// A module is loaded when one of its kernels or variables is first used.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/fatbin.h"
#include "runtime/session.h"

namespace ptxsim::runtime {

struct FatBinary {
  std::string name;                 // of the library it is in, for reports
  std::vector<Image> images;
  std::string replacement;          // of the PTX, until the next reset
  cudaError_t error = cudaSuccess;  // why it cannot be loaded
  std::string why;
  bool unreadable = false;          // the error is not of the device: it stays after a reset
  std::unique_ptr<LoadedModule> module;
  Target loaded;
  bool is_initialized = false;      // __cudaInitModule: managed variables have their host pointers
};

// Attributes that cudaFuncSetAttribute changes.
struct FunctionAttributes {
  int max_dynamic_shared = -1;  // -1: what is left of the 48 KiB that need no opt-in
  int carveout = -1;
  int required_cluster[3] = {};
  int cluster_policy = 0;
  bool non_portable_cluster = false;
};

struct KernelEntry {
  FatBinary* binary;
  const void* host;
  std::string name;
  Kernel* kernel = nullptr;  // of the loaded module
  FunctionAttributes set;
};

struct VariableEntry {
  FatBinary* binary;
  std::string name;
  uint64_t bytes;
  void** managed = nullptr;  // the host pointer of a managed variable
};

// A kernel by its host function or its cudaKernel_t, loaded.
KernelEntry& loaded_kernel(const void* function);
KernelEntry& registered_kernel(const void* function);  // not necessarily loaded
// A variable's device memory by its host shadow.
void* loaded_variable(const void* symbol, uint64_t* bytes);

std::vector<KernelEntry*> registered_kernels();
void unload_modules();
// Until the next reset, what holds the kernel `name`, or else the library whose file name contains
// `name`, holds this PTX. Throws std::invalid_argument unless there is one such, not yet loaded.
void replace_ptx(const std::string& name, const std::string& ptx);
void initialize_managed();  // after a reset, for libraries that were initialised before
std::string& load_error();  // of the last module that failed

}  // namespace ptxsim::runtime
