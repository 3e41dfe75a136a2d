// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <memory>

#include "runtime/graph.h"
#include "runtime/stream.h"

namespace ptxsim::runtime {
namespace {

std::map<cudaEvent_t, std::unique_ptr<Event>>& events() {
  static auto& instance = *new std::map<cudaEvent_t, std::unique_ptr<Event>>;
  return instance;
}

// Waiting for, or asking about, an event on the host.
void wait_for_event(cudaEvent_t handle) {
  Event& event = event_of(handle);
  if (event.capture) {
    if (Capture* capture = active_capture(event.capture))
      break_capture(*capture, cudaErrorCapturedEvent, "the event was recorded in a capture");
    fail(cudaErrorCapturedEvent, "the event was recorded in a capture");
  }
  refuse_unsafe_call();
  session().synchronize();
}

// The stream takes part in the event's capture from here on.
void join(Stream& stream, Event& event) {
  Capture* capture = active_capture(event.capture);
  if (!capture) fail(cudaErrorInvalidValue, "the event was recorded in a capture that has ended");
  if (stream.is_legacy)
    break_capture(*capture, cudaErrorStreamCaptureImplicit, "the legacy stream cannot capture");
  if (Capture* own = capture_of(stream); own && own != capture) {
    own->is_invalid = true;
    break_capture(*capture, cudaErrorStreamCaptureMerge, "two captures would become one");
  }
  stream.capture = capture->id;
  for (Node* node : event.frontier)
    if (std::find(stream.frontier.begin(), stream.frontier.end(), node) == stream.frontier.end())
      stream.frontier.push_back(node);
}

}  // namespace

Event& event_of(cudaEvent_t handle) {
  const auto found = events().find(handle);
  if (found == events().end()) fail(cudaErrorInvalidResourceHandle, "no such event");
  return *found->second;
}

void record_event(cudaEvent_t handle, cudaStream_t stream_handle) {
  Event& event = event_of(handle);
  Stream& stream = stream_of(stream_handle);
  if (stream.is_legacy) refuse_legacy_stream();
  Capture* capture = capture_of(stream);
  event.is_recorded = true;
  event.when = std::chrono::steady_clock::now();
  event.capture = capture ? capture->id : 0;
  event.frontier = capture ? stream.frontier : std::vector<Node*>{};
}

void destroy_events() { events().clear(); }

}  // namespace ptxsim::runtime

using namespace ptxsim::runtime;

extern "C" {

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return api(__func__, [&] {
    constexpr unsigned kKnown =
        cudaEventBlockingSync | cudaEventDisableTiming | cudaEventInterprocess;
    require(event && !(flags & ~kKnown), cudaErrorInvalidValue, "event is null or unknown flags");
    require(!(flags & cudaEventInterprocess), cudaErrorNotSupported, "events between processes");
    auto created = std::make_unique<Event>();
    created->flags = flags;
    *event = reinterpret_cast<cudaEvent_t>(created.get());
    events()[*event] = std::move(created);
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return api(__func__, [&] {
    event_of(event);
    events().erase(event);
  });
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  return api(__func__, [&] {
    require(flags == cudaEventRecordDefault, cudaErrorNotSupported, "external event nodes");
    record_event(event, stream);
  });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return api(__func__, [&] { wait_for_event(event); });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return api(__func__, [&] { wait_for_event(event); });
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  return api(__func__, [&] {
    require(ms, cudaErrorInvalidValue, "ms is null");
    for (const Event* e : {&event_of(start), &event_of(end)}) {
      if (e->capture) fail(cudaErrorCapturedEvent, "the event was recorded in a capture");
      require(e->is_recorded && !(e->flags & cudaEventDisableTiming),
              cudaErrorInvalidResourceHandle, "an event that was not recorded or has no timing");
    }
    session().synchronize();
    *ms =
        std::chrono::duration<float, std::milli>(event_of(end).when - event_of(start).when).count();
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t event_handle,
                                unsigned flags) {
  return api(__func__, [&] {
    require(flags == cudaEventWaitDefault, cudaErrorNotSupported, "external event nodes");
    Stream& stream = stream_of(stream_handle);
    Event& event = event_of(event_handle);
    if (event.capture) return join(stream, event);
    if (stream.is_legacy) refuse_legacy_stream();
    Capture* capture = capture_of(stream);
    if (!capture || !event.is_recorded) return;
    break_capture(*capture, cudaErrorStreamCaptureIsolation,
                  "the event was recorded outside the capture");
  });
}

}  // extern "C"
