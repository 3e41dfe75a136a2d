// SPDX-License-Identifier: Apache-2.0
// Graphs and the captures that make them. Nodes stand in the order in which they were added, which
// respects their dependencies, and are executed in it.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "runtime/stream.h"

namespace ptxsim::runtime {

struct Node {
  Operation operation;
  std::vector<Node*> dependencies;
};

struct Graph {
  std::vector<std::unique_ptr<Node>> nodes;
  Node* add(Operation operation, std::vector<Node*> dependencies);
};

struct Capture {
  uint64_t id;
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  Stream* origin;
  std::unique_ptr<Graph> graph;
  bool is_invalid = false;
};

// The capture that `stream` takes part in, or null.
Capture* capture_of(const Stream& stream);
Capture* active_capture(uint64_t id);
// Fails with the error that CUDA has for it, after invalidating the captures concerned.
[[noreturn]] void break_capture(Capture& capture, cudaError_t error, const char* why);
void refuse_legacy_stream();  // if a blocking stream captures
void refuse_unsafe_call();    // cudaMalloc and others, by the modes of captures and of this thread
void refuse_device_wide_call();  // if anything captures
void capture_operation(Stream& stream, Capture& capture, Operation operation);

cudaGraph_t handle_of(Graph* graph);
cudaGraph_t adopt_graph(std::unique_ptr<Graph> graph);
void destroy_captures();
void destroy_graphs();

}  // namespace ptxsim::runtime
