// SPDX-License-Identifier: Apache-2.0
// cudaMemcpy and cudaMemset.
#include "runtime/memory.h"

#include <algorithm>
#include <cstring>

#include "runtime/allocation.h"
#include "runtime/registration.h"

namespace ptxsim::runtime {
namespace {

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

// Bytes from the first to the last that `height` rows touch.
size_t extent(size_t pitch, size_t width, size_t height) { return pitch * (height - 1) + width; }

// One side of a copy. Device memory must be allocated, from the first byte to the last; host memory
// must not be memory that only the device has.
void check_side(const void* pointer, size_t bytes, bool device, const char* side) {
  const Allocation* allocation = session().memory().find(address_of(pointer));
  if (allocation && allocation->is_live && !allocation->contains(address_of(pointer), bytes))
    fail(cudaErrorInvalidValue, std::string(side) + ": " + std::to_string(bytes) + " bytes from " +
                                    session().memory().describe(address_of(pointer)));
  const MemoryKind kind = kind_of(pointer);
  if (device && kind == MemoryKind::unknown)
    fail(cudaErrorInvalidValue, std::string(side) + " is no device memory: " +
                                    session().memory().describe(address_of(pointer)));
  if (!device && kind == MemoryKind::device)
    fail(cudaErrorInvalidValue, std::string(side) + " is device memory, the kind says host");
}

void check_writable(const void* pointer) {
  const Allocation* allocation = session().memory().find(address_of(pointer));
  if (allocation && allocation->is_live && allocation->read_only)
    fail(cudaErrorInvalidValue,
         "the destination is read only: " + session().memory().describe(address_of(pointer)));
}

void check(const Copy& c) {
  if (c.kind < cudaMemcpyHostToHost || c.kind > cudaMemcpyDefault)
    fail(cudaErrorInvalidMemcpyDirection, "unknown kind of copy");
  if (c.height > 1 && (c.width > c.destination_pitch || c.width > c.source_pitch))
    fail(cudaErrorInvalidPitchValue, "the width is more than a pitch");
  if (c.width > 0 && c.height > 0) {
    require(c.destination && c.source, cudaErrorInvalidValue, "a pointer is null");
    const bool inferred = c.kind == cudaMemcpyDefault;
    const bool to_device = c.kind == cudaMemcpyHostToDevice || c.kind == cudaMemcpyDeviceToDevice;
    const bool from_device = c.kind == cudaMemcpyDeviceToHost || c.kind == cudaMemcpyDeviceToDevice;
    const auto is_known = [](const void* p) { return kind_of(p) != MemoryKind::unknown; };
    check_side(c.destination, extent(c.destination_pitch, c.width, c.height),
               inferred ? is_known(c.destination) : to_device, "the destination");
    check_side(c.source, extent(c.source_pitch, c.width, c.height),
               inferred ? is_known(c.source) : from_device, "the source");
    if (!c.to_symbol) check_writable(c.destination);
  }
}

void check(const Fill& f) {
  require(f.element_bytes == 1 || f.element_bytes == 2 || f.element_bytes == 4,
          cudaErrorInvalidValue, "elements have 1, 2 or 4 bytes");
  const size_t row_bytes = f.width * size_t(f.element_bytes);
  require(f.height <= 1 || row_bytes <= f.pitch, cudaErrorInvalidPitchValue,
          "the width is more than the pitch");
  if (row_bytes > 0 && f.height > 0) {
    check_side(f.destination, extent(f.pitch, row_bytes, f.height), true, "the destination");
    check_writable(f.destination);
  }
}

void run_copy(const Copy& c) {
  GlobalMemory& memory = session().memory();
  for (size_t row = 0; row < c.height; ++row) {
    char* to = static_cast<char*>(c.destination) + row * c.destination_pitch;
    const char* from = static_cast<const char*>(c.source) + row * c.source_pitch;
    std::memmove(to, from, c.width);
    memory.host_copy(to, from, c.width);
  }
}

void run_fill(const Fill& f) {
  const size_t row_bytes = f.width * size_t(f.element_bytes);
  for (size_t row = 0; row < f.height; ++row) {
    char* to = static_cast<char*>(f.destination) + row * f.pitch;
    if (f.element_bytes == 1) {
      std::memset(to, int(f.value & 0xff), row_bytes);
    } else {
      for (size_t i = 0; i < f.width; ++i)  // little endian: the low bytes come first
        std::memcpy(to + i * size_t(f.element_bytes), &f.value, size_t(f.element_bytes));
    }
    session().memory().host_write(to, row_bytes);
  }
}

// A graph may run when memory that it names is gone.
template <typename Work, typename Run>
Operation checked_operation(cudaGraphNodeType type, const Work& work, Run run) {
  check(work);
  return {type, [work, run] {
            try {
              check(work);
            } catch (const Failure& f) {
              return session().set_fault(cudaErrorIllegalAddress, f.what());
            }
            run(work);
          }};
}

// A copy or fill that the caller waits for.
void run_now(cudaStream_t stream, Operation operation) {
  enqueue(stream, std::move(operation));
  wait_for(&stream_of(stream));
}

Copy symbol_copy(const void* symbol, size_t bytes, size_t offset, void* destination,
                 const void* source, cudaMemcpyKind kind, bool to_symbol) {
  uint64_t size;
  char* variable = static_cast<char*>(loaded_variable(symbol, &size));
  require(offset <= size && bytes <= size - offset, cudaErrorInvalidValue,
          "past the end of the variable");
  const cudaMemcpyKind usual = to_symbol ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost;
  require(kind == usual || kind == cudaMemcpyDeviceToDevice || kind == cudaMemcpyDefault,
          cudaErrorInvalidMemcpyDirection, "a symbol is device memory");
  if (to_symbol) destination = variable + offset;
  if (!to_symbol) source = variable + offset;
  return {destination, source, bytes, bytes, bytes, 1, kind, to_symbol};
}

}  // namespace

Operation copy_operation(const Copy& c) {
  return checked_operation(cudaGraphNodeTypeMemcpy, c, run_copy);
}

Operation fill_operation(const Fill& f) {
  return checked_operation(cudaGraphNodeTypeMemset, f, run_fill);
}

}  // namespace ptxsim::runtime

using namespace ptxsim::runtime;

extern "C" {

cudaError_t cudaMemcpy2DAsync(void* destination, size_t destination_pitch, const void* source,
                              size_t source_pitch, size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  return api(__func__, [&] {
    enqueue(stream, copy_operation({destination, source, destination_pitch, source_pitch, width,
                                    height, kind}));
  });
}

cudaError_t cudaMemcpy2D(void* destination, size_t destination_pitch, const void* source,
                         size_t source_pitch, size_t width, size_t height, cudaMemcpyKind kind) {
  return api(__func__, [&] {
    run_now(cudaStreamLegacy, copy_operation({destination, source, destination_pitch, source_pitch,
                                              width, height, kind}));
  });
}

cudaError_t cudaMemcpyAsync(void* destination, const void* source, size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t stream) {
  return api(__func__, [&] {
    enqueue(stream, copy_operation({destination, source, bytes, bytes, bytes, 1, kind}));
  });
}

cudaError_t cudaMemcpy(void* destination, const void* source, size_t bytes, cudaMemcpyKind kind) {
  return api(__func__, [&] {
    run_now(cudaStreamLegacy, copy_operation({destination, source, bytes, bytes, bytes, 1, kind}));
  });
}

cudaError_t cudaMemcpyToSymbolAsync(const void* symbol, const void* source, size_t bytes,
                                    size_t offset, cudaMemcpyKind kind, cudaStream_t stream) {
  return api(__func__, [&] {
    enqueue(stream,
            copy_operation(symbol_copy(symbol, bytes, offset, nullptr, source, kind, true)));
  });
}

cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* source, size_t bytes, size_t offset,
                               cudaMemcpyKind kind) {
  return api(__func__, [&] {
    run_now(cudaStreamLegacy,
            copy_operation(symbol_copy(symbol, bytes, offset, nullptr, source, kind, true)));
  });
}

cudaError_t cudaMemcpyFromSymbolAsync(void* destination, const void* symbol, size_t bytes,
                                      size_t offset, cudaMemcpyKind kind, cudaStream_t stream) {
  return api(__func__, [&] {
    enqueue(stream,
            copy_operation(symbol_copy(symbol, bytes, offset, destination, nullptr, kind, false)));
  });
}

cudaError_t cudaMemcpyFromSymbol(void* destination, const void* symbol, size_t bytes, size_t offset,
                                 cudaMemcpyKind kind) {
  return api(__func__, [&] {
    run_now(cudaStreamLegacy,
            copy_operation(symbol_copy(symbol, bytes, offset, destination, nullptr, kind, false)));
  });
}

cudaError_t cudaMemset2DAsync(void* destination, size_t pitch, int value, size_t width,
                              size_t height, cudaStream_t stream) {
  return api(__func__, [&] {
    enqueue(stream, fill_operation({destination, pitch, unsigned(value), 1, width, height}));
  });
}

// A fill does not wait, but its range is checked at once.
cudaError_t cudaMemset2D(void* destination, size_t pitch, int value, size_t width, size_t height) {
  return cudaMemset2DAsync(destination, pitch, value, width, height, cudaStreamLegacy);
}

cudaError_t cudaMemsetAsync(void* destination, int value, size_t bytes, cudaStream_t stream) {
  return api(__func__, [&] {
    enqueue(stream, fill_operation({destination, bytes, unsigned(value), 1, bytes, 1}));
  });
}

cudaError_t cudaMemset(void* destination, int value, size_t bytes) {
  return cudaMemsetAsync(destination, value, bytes, cudaStreamLegacy);
}

}  // extern "C"
