// SPDX-License-Identifier: Apache-2.0
// Streams and events. Work is executed when it is enqueued, which is one legal order of all
// streams; a capturing stream keeps it as a graph node instead.
#pragma once

#include <chrono>
#include <functional>
#include <vector>

#include "runtime/session.h"

namespace ptxsim::runtime {

struct Node;  // graph.h

struct Operation {
  cudaGraphNodeType type;
  std::function<void()> run;
  cudaKernelNodeParams kernel = {};  // of kernel nodes; no arguments
};

struct Stream {
  uint64_t id = 0;
  unsigned flags = cudaStreamDefault;
  int priority = 0;
  bool is_legacy = false;       // the default stream that waits for all blocking ones
  uint64_t capture = 0;         // id of the capture it takes part in, or 0
  std::vector<Node*> frontier;  // what the next captured node depends on
};

struct Event {
  unsigned flags = 0;
  bool is_recorded = false;
  std::chrono::steady_clock::time_point when;
  uint64_t capture = 0;  // of the stream it was last recorded in
  std::vector<Node*> frontier;
};

constexpr int kLeastPriority = 0, kGreatestPriority = -5;

Stream& stream_of(cudaStream_t handle);  // fails with cudaErrorInvalidResourceHandle
Event& event_of(cudaEvent_t handle);
void enqueue(cudaStream_t stream, Operation operation);
void record_event(cudaEvent_t event, cudaStream_t stream);
// For calls that wait for `stream`, or for all if it is null.
void wait_for(Stream* stream);
void destroy_streams();
void destroy_events();
// Streams that take part in a capture.
std::vector<Stream*> streams_of_capture(uint64_t capture);

}  // namespace ptxsim::runtime
