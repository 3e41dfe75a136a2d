// SPDX-License-Identifier: Apache-2.0
#include "runtime/session.h"

#include <cstdlib>

#include "runtime/direct.h"
#include "runtime/graph.h"
#include "runtime/memory.h"
#include "runtime/registration.h"
#include "runtime/stream.h"

namespace ptxsim::runtime {

void fail(cudaError_t code, const std::string& why) { throw Failure(code, why); }

// Never destroyed: libraries call into it while the process exits.
Session& session() {
  static Session& instance = *new Session;
  return instance;
}

cudaError_t& last_error() {
  thread_local cudaError_t error = cudaSuccess;
  return error;
}

cudaError_t record(const char* function, cudaError_t error, const std::string& why) {
  session().failure = std::string(function) + ": " + why;
  last_error() = error;
  return error;
}

void Session::choose(const std::string& device) {
  std::unique_ptr<Simulator> chosen = Simulator::create(device);
  reset();
  simulator_ = std::move(chosen);
  last_error() = cudaSuccess;
  failure.clear();
  captures_calls = false;
  load_error().clear();
  environment_was_read_ = true;
  initialize_managed();
}

void Session::reset() {
  destroy_graphs();
  destroy_streams();
  unload_modules();
  unload_direct_modules();
  if (simulator_) free_all(simulator_->memory());
  fault_ = cudaSuccess;
  fault_surfaced_ = false;
}

bool Session::has_device() {
  if (!simulator_ && !environment_was_read_) {
    environment_was_read_ = true;
    if (const char* name = std::getenv("PTXSIM_DEVICE")) simulator_ = Simulator::create(name);
  }
  return simulator_ != nullptr;
}

Simulator& Session::simulator() {
  if (!has_device()) fail(cudaErrorNoDevice, "no device was chosen to be simulated");
  return *simulator_;
}

void Session::set_fault(cudaError_t error, const std::string& why) {
  fault_ = error;
  fault_text_ = why;
}

void Session::synchronize() {
  if (fault_ == cudaSuccess) return;
  fault_surfaced_ = true;
  require_no_fault();
}

void Session::require_no_fault() const {
  if (fault_surfaced_)
    fail(fault_, "a kernel faulted, nothing works until cudaDeviceReset: " + fault_text_);
}

}  // namespace ptxsim::runtime
