// SPDX-License-Identifier: Apache-2.0
// What all of the runtime shares: the simulator of the chosen device, the lock, and the errors.
//
// A launch has run when the call returns, but its fault surfaces where CUDA shows it: at the next
// call that synchronises. From then on every call that needs the device returns it, until
// cudaDeviceReset.
#pragma once

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>

#include "engine/simulator.h"
#include "runtime/cuda_api.h"

namespace ptxsim::runtime {

// Thrown inside the runtime: what an API function returns, and why.
struct Failure : std::runtime_error {
  Failure(cudaError_t code, const std::string& why) : std::runtime_error(why), code(code) {}
  cudaError_t code;
};
[[noreturn]] void fail(cudaError_t code, const std::string& why);

class Session {
 public:
  std::recursive_mutex mutex;

  // Chooses the device; everything that belonged to the one before is gone. Throws
  // std::invalid_argument for an unknown name.
  void choose(const std::string& device);
  // As cudaDeviceReset: frees memory, streams, graphs and modules, and forgets the fault.
  void reset();

  bool has_device();       // the chosen one, or that of the environment variable PTXSIM_DEVICE
  Simulator& simulator();  // fails with cudaErrorNoDevice
  const Device& device() { return simulator().device(); }
  GlobalMemory& memory() { return simulator().memory(); }

  void set_fault(cudaError_t error, const std::string& why);
  bool faulted() const { return fault_ != cudaSuccess; }  // nothing more is executed
  void synchronize();                                     // fails if there is a fault
  void require_no_fault() const;                          // fails if it has surfaced
  cudaError_t surfaced_fault() const { return fault_surfaced_ ? fault_ : cudaSuccess; }

  bool captures_calls = false;                            // an op's call runs as a graph
  std::string failure;  // why the last call that failed did: "cudaMalloc: ..."

 private:
  std::unique_ptr<Simulator> simulator_;
  cudaError_t fault_ = cudaSuccess;
  std::string fault_text_;
  bool fault_surfaced_ = false;
  bool environment_was_read_ = false;
};

Session& session();

// The error that cudaGetLastError returns, of the calling thread.
cudaError_t& last_error();
cudaError_t record(const char* function, cudaError_t error, const std::string& why);

enum class Needs { nothing, device, working_device };

// The frame of every API function: one lock, one place where errors become codes.
template <Needs kNeeds = Needs::working_device, typename Body>
cudaError_t api(const char* function, Body&& body) {
  Session& s = session();
  std::lock_guard lock(s.mutex);
  try {
    if constexpr (kNeeds != Needs::nothing) s.simulator();
    if constexpr (kNeeds == Needs::working_device) s.require_no_fault();
    body();
    return cudaSuccess;
  } catch (const Failure& f) {
    return record(function, f.code, f.what());
  } catch (const std::bad_alloc&) {
    return record(function, cudaErrorMemoryAllocation, "out of memory");
  } catch (const std::exception& e) {
    return record(function, cudaErrorUnknown, e.what());
  }
}

inline void require(bool condition, cudaError_t code, const char* why) {
  if (!condition) fail(code, why);
}

}  // namespace ptxsim::runtime
