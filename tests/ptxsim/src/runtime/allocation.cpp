// SPDX-License-Identifier: Apache-2.0
// cudaMalloc and its kin. Device, pinned and managed memory are one address space, as under unified
// addressing; what differs is who may use it, which copies check and cudaPointerGetAttributes
// tells.
#include "runtime/allocation.h"

#include <algorithm>
#include <map>

#include "runtime/graph.h"
#include "runtime/memory.h"

namespace ptxsim::runtime {
namespace {

constexpr size_t kPitchAlign =
    512;  // what cards return for cudaDevAttrTexturePitchAlignment and more

struct Known {
  MemoryKind kind;
  unsigned flags;
};

std::map<uint64_t, Known>& known() {  // by base
  static auto& instance = *new std::map<uint64_t, Known>;
  return instance;
}

uint64_t allocation_count = 0;  // since the device was chosen, for names that reports repeat

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

void allocate(void** pointer, size_t bytes, MemoryKind kind, const char* name, unsigned flags = 0) {
  require(pointer, cudaErrorInvalidValue, "the pointer to the result is null");
  refuse_unsafe_call();
  *pointer = nullptr;
  if (bytes == 0) return;
  *pointer = session().memory().allocate(
      bytes, std::string(name) + " #" + std::to_string(++allocation_count));
  known()[address_of(*pointer)] = {kind, flags};
  // The host writes pinned and managed memory without asking.
  if (kind != MemoryKind::device) session().memory().find(address_of(*pointer))->written.clear();
}

void release(void* pointer, bool device) {
  refuse_unsafe_call();
  session().synchronize();
  if (!pointer) return;
  const auto found = known().find(address_of(pointer));
  const bool matches = found != known().end() && found->second.kind != MemoryKind::registered &&
                       (found->second.kind == MemoryKind::pinned) != device;
  require(matches && session().memory().free(pointer), cudaErrorInvalidValue,
          "nothing that is allocated starts at this address");
  known().erase(found);
}

void refuse_capture(cudaStream_t stream) {
  if (Capture* capture = capture_of(stream_of(stream)))
    break_capture(*capture, cudaErrorNotSupported, "memory nodes of graphs are not simulated");
}

}  // namespace

MemoryKind kind_of(const void* pointer) {
  const Allocation* allocation = session().memory().find(address_of(pointer));
  if (!allocation || !allocation->is_live) return MemoryKind::unknown;
  const auto found = known().find(allocation->base);
  return found == known().end() ? MemoryKind::exposed : found->second.kind;
}

void free_all(GlobalMemory& memory) {
  for (const auto& [base, k] : known()) {
    void* pointer = reinterpret_cast<void*>(base);
    if (k.kind == MemoryKind::registered)
      memory.forget(pointer);
    else
      memory.free(pointer);
  }
  known().clear();
  allocation_count = 0;
}

}  // namespace ptxsim::runtime

using namespace ptxsim::runtime;

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return api(__func__, [&] { allocate(pointer, bytes, MemoryKind::device, "cudaMalloc"); });
}

cudaError_t cudaMallocPitch(void** pointer, size_t* pitch, size_t width, size_t height) {
  return api(__func__, [&] {
    require(pitch, cudaErrorInvalidValue, "pitch is null");
    *pitch = (width + kPitchAlign - 1) / kPitchAlign * kPitchAlign;
    allocate(pointer, *pitch * height, MemoryKind::device, "cudaMallocPitch");
  });
}

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
  return api(__func__, [&] {
    refuse_capture(stream);
    allocate(pointer, bytes, MemoryKind::device, "cudaMallocAsync");
  });
}

cudaError_t cudaMallocManaged(void** pointer, size_t bytes, unsigned flags) {
  return api(__func__, [&] {
    require(flags == cudaMemAttachGlobal || flags == cudaMemAttachHost, cudaErrorInvalidValue,
            "unknown flags");
    require(bytes > 0, cudaErrorInvalidValue, "size is 0");
    allocate(pointer, bytes, MemoryKind::managed, "cudaMallocManaged");
  });
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags) {
  return api(__func__, [&] {
    constexpr unsigned kKnown =
        cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined;
    require(!(flags & ~kKnown), cudaErrorInvalidValue, "unknown flags");
    allocate(pointer, bytes, MemoryKind::pinned, "cudaHostAlloc", flags);
  });
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFree(void* pointer) {
  return api(__func__, [&] { release(pointer, true); });
}

cudaError_t cudaFreeHost(void* pointer) {
  return api(__func__, [&] { release(pointer, false); });
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  return api(__func__, [&] {
    refuse_capture(stream);
    require(pointer && kind_of(pointer) == MemoryKind::device, cudaErrorInvalidValue,
            "not device memory");
    require(session().memory().free(pointer), cudaErrorInvalidValue,
            "nothing that is allocated starts at this address");
    known().erase(address_of(pointer));
  });
}

cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned flags) {
  return api(__func__, [&] {
    constexpr unsigned kKnown =
        cudaHostRegisterPortable | cudaHostRegisterMapped | cudaHostRegisterReadOnly;
    require(pointer && bytes > 0 && !(flags & ~kKnown), cudaErrorInvalidValue,
            "ptr is null, size 0 or unknown flags");
    refuse_unsafe_call();
    try {
      session().memory().expose(pointer, bytes, (flags & cudaHostRegisterReadOnly) != 0, true,
                                "cudaHostRegister");
    } catch (const std::invalid_argument& e) {
      fail(cudaErrorHostMemoryAlreadyRegistered, e.what());
    }
    known()[address_of(pointer)] = {MemoryKind::registered, flags};
  });
}

cudaError_t cudaHostUnregister(void* pointer) {
  return api(__func__, [&] {
    refuse_unsafe_call();
    const auto found = known().find(address_of(pointer));
    require(found != known().end() && found->second.kind == MemoryKind::registered,
            cudaErrorHostMemoryNotRegistered, "no registered memory starts at this address");
    session().memory().forget(pointer);
    known().erase(found);
  });
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned flags) {
  return api(__func__, [&] {
    require(device && flags == 0, cudaErrorInvalidValue, "pDevice is null or flags not 0");
    const MemoryKind kind = kind_of(host);
    require(kind == MemoryKind::pinned || kind == MemoryKind::registered, cudaErrorInvalidValue,
            "not pinned memory");
    *device = host;
  });
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return api(__func__, [&] {
    require(free && total, cudaErrorInvalidValue, "a result is null");
    *total = session().device().memory_bytes;
    const ptxsim::GlobalMemory& memory = session().memory();
    *free = std::min<size_t>(memory.limit, *total) - memory.bytes_live();
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  return api(__func__, [&] {
    require(attributes, cudaErrorInvalidValue, "attributes is null");
    void* address = const_cast<void*>(pointer);
    *attributes = {};
    attributes->device = 0;
    switch (kind_of(pointer)) {
      case MemoryKind::unknown:
        attributes->type = cudaMemoryTypeUnregistered;
        attributes->device = -1;
        attributes->hostPointer = address;
        return;
      case MemoryKind::device: attributes->type = cudaMemoryTypeDevice; break;
      case MemoryKind::exposed: attributes->type = cudaMemoryTypeDevice; break;
      case MemoryKind::managed: attributes->type = cudaMemoryTypeManaged; break;
      case MemoryKind::pinned:
      case MemoryKind::registered: attributes->type = cudaMemoryTypeHost; break;
    }
    attributes->devicePointer = address;
    if (attributes->type != cudaMemoryTypeDevice) attributes->hostPointer = address;
  });
}

}  // extern "C"
