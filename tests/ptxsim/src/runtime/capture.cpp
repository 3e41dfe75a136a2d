// SPDX-License-Identifier: Apache-2.0
// Stream capture, and what must not be called meanwhile.
//
// Sources: CUDA C++ Programming Guide, "Creating a Graph Using Stream Capture" (prohibited
// operations invalidate the capture), and the documentation of cudaThreadExchangeStreamCaptureMode
// (which calls count as potentially unsafe, and for which threads).
#include <algorithm>
#include <map>
#include <set>

#include "runtime/graph.h"

namespace ptxsim::runtime {
namespace {

struct Captures {
  std::map<uint64_t, std::unique_ptr<Capture>> active;
  uint64_t next_id = 1;
};

Captures& captures() {
  static Captures& instance = *new Captures;
  return instance;
}

thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

bool forbids_unsafe_calls(const Capture& capture) {
  const bool own = capture.thread == std::this_thread::get_id();
  switch (thread_mode) {
    case cudaStreamCaptureModeRelaxed: return false;
    case cudaStreamCaptureModeThreadLocal:
      return own && capture.mode != cudaStreamCaptureModeRelaxed;
    default:
      return own ? capture.mode != cudaStreamCaptureModeRelaxed
                 : capture.mode == cudaStreamCaptureModeGlobal;
  }
}

// Whether every node is an ancestor of what the stream ends with: no forked stream was left alone.
bool is_joined(const Graph& graph, const Stream& stream) {
  std::set<const Node*> reached;
  std::vector<const Node*> open(stream.frontier.begin(), stream.frontier.end());
  while (!open.empty()) {
    const Node* node = open.back();
    open.pop_back();
    if (!reached.insert(node).second) continue;
    open.insert(open.end(), node->dependencies.begin(), node->dependencies.end());
  }
  return reached.size() == graph.nodes.size();
}

void end(Capture& capture) {
  for (Stream* member : streams_of_capture(capture.id)) {
    member->capture = 0;
    member->frontier.clear();
  }
  captures().active.erase(capture.id);
}

}  // namespace

Capture* active_capture(uint64_t id) {
  const auto found = captures().active.find(id);
  return found == captures().active.end() ? nullptr : found->second.get();
}

Capture* capture_of(const Stream& stream) {
  return stream.capture ? active_capture(stream.capture) : nullptr;
}

void break_capture(Capture& capture, cudaError_t error, const char* why) {
  capture.is_invalid = true;
  fail(error, why);
}

void refuse_legacy_stream() {
  bool refused = false;
  for (const auto& [id, capture] : captures().active)
    for (const Stream* member : streams_of_capture(id))
      if (!(member->flags & cudaStreamNonBlocking)) refused = capture->is_invalid = true;
  if (refused)
    fail(cudaErrorStreamCaptureImplicit, "the legacy stream, while a blocking stream captures");
}

void refuse_unsafe_call() {
  bool refused = false;
  for (const auto& [id, capture] : captures().active)
    if (forbids_unsafe_calls(*capture)) refused = capture->is_invalid = true;
  if (refused)
    fail(cudaErrorStreamCaptureUnsupported, "a call that is not safe while a stream captures");
}

void refuse_device_wide_call() {
  for (const auto& [id, capture] : captures().active) capture->is_invalid = true;
  if (!captures().active.empty())
    fail(cudaErrorStreamCaptureUnsupported, "a call that waits for all streams while one captures");
}

void capture_operation(Stream& stream, Capture& capture, Operation operation) {
  if (capture.is_invalid)
    fail(cudaErrorStreamCaptureInvalidated, "the capture was invalidated by an earlier call");
  stream.frontier = {capture.graph->add(std::move(operation), stream.frontier)};
}

void destroy_captures() { captures().active.clear(); }

}  // namespace ptxsim::runtime

using namespace ptxsim::runtime;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  return api(__func__, [&] {
    require(mode >= cudaStreamCaptureModeGlobal && mode <= cudaStreamCaptureModeRelaxed,
            cudaErrorInvalidValue, "unknown mode");
    Stream& stream = stream_of(handle);
    require(!stream.is_legacy, cudaErrorStreamCaptureUnsupported,
            "the legacy stream cannot capture");
    require(!capture_of(stream), cudaErrorIllegalState, "the stream is capturing already");
    auto capture = std::make_unique<Capture>();
    capture->id = captures().next_id++;
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    capture->origin = &stream;
    capture->graph = std::make_unique<Graph>();
    stream.capture = capture->id;
    stream.frontier.clear();
    captures().active[capture->id] = std::move(capture);
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  return api(__func__, [&] {
    require(graph, cudaErrorInvalidValue, "pGraph is null");
    *graph = nullptr;
    Stream& stream = stream_of(handle);
    Capture* capture = capture_of(stream);
    require(capture, cudaErrorIllegalState, "the stream is not capturing");
    if (capture->origin != &stream)
      break_capture(*capture, cudaErrorStreamCaptureUnmatched,
                    "the capture began in another stream");
    if (capture->mode != cudaStreamCaptureModeRelaxed &&
        capture->thread != std::this_thread::get_id())
      break_capture(*capture, cudaErrorStreamCaptureWrongThread,
                    "the capture began in another thread");
    const bool invalid = capture->is_invalid, joined = is_joined(*capture->graph, stream);
    std::unique_ptr<Graph> captured = std::move(capture->graph);
    end(*capture);
    require(!invalid, cudaErrorStreamCaptureInvalidated,
            "the capture was invalidated by an earlier call");
    require(joined, cudaErrorStreamCaptureUnjoined,
            "work of a forked stream was not joined by an event");
    *graph = adopt_graph(std::move(captured));
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  return api(__func__, [&] {
    require(status, cudaErrorInvalidValue, "pCaptureStatus is null");
    Stream& stream = stream_of(handle);
    if (stream.is_legacy) refuse_legacy_stream();
    const Capture* capture = capture_of(stream);
    *status = !capture ? cudaStreamCaptureStatusNone
                       : (capture->is_invalid ? cudaStreamCaptureStatusInvalidated
                                              : cudaStreamCaptureStatusActive);
  });
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* count) {
  const cudaError_t error = cudaStreamIsCapturing(handle, status);
  if (error != cudaSuccess || *status != cudaStreamCaptureStatusActive) return error;
  return api(__func__, [&] {
    Stream& stream = stream_of(handle);
    if (id) *id = stream.capture;
    if (graph) *graph = handle_of(capture_of(stream)->graph.get());
    if (dependencies) *dependencies = reinterpret_cast<cudaGraphNode_t*>(stream.frontier.data());
    if (edges) *edges = nullptr;
    if (count) *count = stream.frontier.size();
  });
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  return api(__func__, [&] {
    require(mode && *mode >= cudaStreamCaptureModeGlobal && *mode <= cudaStreamCaptureModeRelaxed,
            cudaErrorInvalidValue, "unknown mode");
    std::swap(*mode, thread_mode);
  });
}

}  // extern "C"
