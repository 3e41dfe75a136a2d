// SPDX-License-Identifier: Apache-2.0
#include "runtime/registration.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <map>

namespace ptxsim::runtime {
namespace {

struct Registry {
  std::vector<std::unique_ptr<FatBinary>> binaries;
  std::map<const void*, std::unique_ptr<KernelEntry>> kernels;  // by host function
  std::map<const void*, KernelEntry*> handles;                  // by cudaKernel_t
  std::map<const void*, VariableEntry> variables;               // by host shadow
  std::string load_error;
};

// Never destroyed: libraries unregister while the process exits.
Registry& registry() {
  static Registry& instance = *new Registry;
  return instance;
}

std::string library_of(const void* address) {
  Dl_info info;
  if (!dladdr(address, &info) || !info.dli_fname) return "module";
  const char* slash = std::strrchr(info.dli_fname, '/');
  return slash ? slash + 1 : info.dli_fname;
}

std::string targets_of(const std::vector<Image>& images) {
  std::string list;
  for (const Image& image : images)
    list += (list.empty() ? "" : ", ") + std::string(image.is_ptx ? "PTX " : "machine code ") +
            image.target.name();
  return list.empty() ? "nothing" : list;
}

void set_error(FatBinary& binary, cudaError_t error, const std::string& why) {
  binary.error = error;
  binary.why = binary.name + ": " + why;
}

void load(FatBinary& binary) {
  const Device& device = session().device();
  const Image* image = choose_image(binary.images, device);
  if (!image)
    return set_error(binary, cudaErrorNoKernelImageForDevice,
                     "no PTX that " + std::string(device.name) + " (" + device.arch +
                         ") runs; it holds " + targets_of(binary.images));
  if (image->is_compressed)
    return set_error(
        binary, cudaErrorInvalidKernelImage,
        "the PTX for " + image->target.name() + " is compressed: compile with nvcc --no-compress");
  try {
    binary.module = session().simulator().load(
        binary.replacement.empty() ? image->text : binary.replacement, binary.name);
    binary.loaded = image->target;
  } catch (const std::runtime_error& e) {
    set_error(binary, cudaErrorInvalidPtx, image->target.name() + ": " + e.what());
  }
}

LoadedModule& loaded(FatBinary& binary) {
  if (!binary.module && binary.error == cudaSuccess) load(binary);
  if (binary.error != cudaSuccess) {
    registry().load_error = binary.why;
    fail(binary.error, binary.why);
  }
  return *binary.module;
}

void* variable_of(VariableEntry& entry, uint64_t* bytes) {
  void* address = loaded(*entry.binary).variable(entry.name, bytes);
  if (!address) fail(cudaErrorInvalidSymbol, "the module has no variable " + entry.name);
  return address;
}

FatBinary* binary_of(void** handle) { return reinterpret_cast<FatBinary*>(handle); }

void set_managed_pointers(FatBinary& binary) {
  for (auto& [host, entry] : registry().variables) {
    uint64_t bytes;
    if (entry.binary == &binary && entry.managed) *entry.managed = variable_of(entry, &bytes);
  }
}

}  // namespace

KernelEntry& registered_kernel(const void* function) {
  const auto by_host = registry().kernels.find(function);
  if (by_host != registry().kernels.end()) return *by_host->second;
  const auto by_handle = registry().handles.find(function);
  if (by_handle == registry().handles.end())
    fail(cudaErrorInvalidDeviceFunction, "no kernel was registered for this function");
  return *by_handle->second;
}

KernelEntry& loaded_kernel(const void* function) {
  KernelEntry& entry = registered_kernel(function);
  LoadedModule& module = loaded(*entry.binary);
  if (!entry.kernel) entry.kernel = module.kernel(entry.name);
  if (!entry.kernel) fail(cudaErrorInvalidDeviceFunction, "the module has no kernel " + entry.name);
  return entry;
}

void* loaded_variable(const void* symbol, uint64_t* bytes) {
  const auto found = registry().variables.find(symbol);
  if (found != registry().variables.end()) return variable_of(found->second, bytes);
  // In host code the name of a managed variable stands for the memory itself.
  for (auto& [host, entry] : registry().variables)
    if (entry.managed && *entry.managed == symbol) return variable_of(entry, bytes);
  fail(cudaErrorInvalidSymbol, "no variable was registered for this symbol");
}

std::vector<KernelEntry*> registered_kernels() {
  std::vector<KernelEntry*> all;
  for (const auto& [host, entry] : registry().kernels) all.push_back(entry.get());
  std::sort(all.begin(), all.end(), [](auto* a, auto* b) { return a->name < b->name; });
  return all;
}

void unload_modules() {
  for (const auto& [host, entry] : registry().kernels) {
    entry->kernel = nullptr;
    entry->set = {};
  }
  for (const auto& binary : registry().binaries) {
    binary->module.reset();
    binary->replacement.clear();
    if (binary->unreadable) continue;
    binary->error = cudaSuccess;
    binary->why.clear();
  }
}

void replace_ptx(const std::string& name, const std::string& ptx) {
  FatBinary* found = nullptr;
  const auto consider = [&](FatBinary* binary) {
    if (found && found != binary)
      throw std::invalid_argument("'" + name + "' is in the name of several libraries");
    found = binary;
  };
  for (const auto& [host, entry] : registry().kernels)
    if (entry->name == name) consider(entry->binary);
  if (!found)
    for (const auto& binary : registry().binaries)
      if (binary->name.find(name) != std::string::npos) consider(binary.get());
  if (!found) throw std::invalid_argument("no library was loaded whose name contains " + name);
  if (found->module) throw std::invalid_argument(found->name + " is in use: reset first");
  found->replacement = ptx;
}

void initialize_managed() {
  for (const auto& binary : registry().binaries)
    if (binary->is_initialized) set_managed_pointers(*binary);
}

std::string& load_error() { return registry().load_error; }

}  // namespace ptxsim::runtime

using namespace ptxsim::runtime;

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
  std::lock_guard lock(session().mutex);
  auto binary = std::make_unique<FatBinary>();
  binary->name = library_of(wrapper);
  try {
    binary->images = read_fat_binary(wrapper);
  } catch (const std::runtime_error& e) {
    set_error(*binary, cudaErrorInvalidKernelImage, e.what());
    binary->unreadable = true;
  }
  registry().binaries.push_back(std::move(binary));
  return reinterpret_cast<void**>(registry().binaries.back().get());
}

void __cudaRegisterFatBinaryEnd(void**) {}

void __cudaUnregisterFatBinary(void** handle) {
  std::lock_guard lock(session().mutex);
  Registry& r = registry();
  FatBinary* binary = binary_of(handle);
  std::erase_if(r.handles, [&](const auto& item) { return item.second->binary == binary; });
  std::erase_if(r.kernels, [&](const auto& item) { return item.second->binary == binary; });
  std::erase_if(r.variables, [&](const auto& item) { return item.second.binary == binary; });
  std::erase_if(r.binaries, [&](const auto& item) { return item.get() == binary; });
}

void __cudaRegisterFunction(void** handle, const char* host, char*, const char* name, int, uint3*,
                            uint3*, dim3*, dim3*, int*) {
  std::lock_guard lock(session().mutex);
  auto entry = std::make_unique<KernelEntry>();
  entry->binary = binary_of(handle);
  entry->host = host;
  entry->name = name;
  auto& slot = registry().kernels[host];
  if (slot) registry().handles.erase(slot.get());
  registry().handles[entry.get()] = entry.get();
  slot = std::move(entry);
}

void __cudaRegisterVar(void** handle, char* host, char*, const char* name, int, size_t bytes, int,
                       int) {
  std::lock_guard lock(session().mutex);
  registry().variables[host] = {binary_of(handle), name, bytes};
}

void __cudaRegisterManagedVar(void** handle, void** host, char*, const char* name, int,
                              size_t bytes, int, int) {
  std::lock_guard lock(session().mutex);
  registry().variables[host] = {binary_of(handle), name, bytes, host};
}

char __cudaInitModule(void** handle) {
  binary_of(handle)->is_initialized = true;
  return api(__func__, [&] { set_managed_pointers(*binary_of(handle)); }) == cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  return api<Needs::nothing>(
      __func__, [&] { *kernel = reinterpret_cast<cudaKernel_t>(&registered_kernel(host)); });
}

cudaError_t cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  return __cudaGetKernel(kernel, host);
}

cudaError_t cudaGetFuncBySymbol(cudaFunction_t* function, const void* host) {
  return api(__func__, [&] { *function = reinterpret_cast<cudaFunction_t>(&loaded_kernel(host)); });
}

cudaError_t cudaFuncGetName(const char** name, const void* function) {
  return api<Needs::nothing>(__func__, [&] {
    require(name, cudaErrorInvalidValue, "name is null");
    *name = registered_kernel(function).name.c_str();
  });
}

cudaError_t cudaGetSymbolAddress(void** address, const void* symbol) {
  return api(__func__, [&] {
    require(address, cudaErrorInvalidValue, "devPtr is null");
    uint64_t bytes;
    *address = loaded_variable(symbol, &bytes);
  });
}

cudaError_t cudaGetSymbolSize(size_t* size, const void* symbol) {
  return api(__func__, [&] {
    require(size, cudaErrorInvalidValue, "size is null");
    uint64_t bytes;
    loaded_variable(symbol, &bytes);
    *size = bytes;
  });
}

}  // extern "C"
