// SPDX-License-Identifier: Apache-2.0
#include "runtime/stream.h"

#include <map>
#include <memory>

#include "runtime/graph.h"

namespace ptxsim::runtime {
namespace {

struct Streams {
  std::map<cudaStream_t, std::unique_ptr<Stream>> created;
  std::map<std::thread::id, std::unique_ptr<Stream>> per_thread;
  Stream legacy;
  uint64_t next_id = 2;

  Streams() {
    legacy.id = 1;
    legacy.is_legacy = true;
  }
};

Streams& streams() {
  static Streams& instance = *new Streams;
  return instance;
}

cudaStream_t create(unsigned flags, int priority) {
  auto stream = std::make_unique<Stream>();
  stream->id = streams().next_id++;
  stream->flags = flags;
  stream->priority = std::min(kLeastPriority, std::max(kGreatestPriority, priority));
  const auto handle = reinterpret_cast<cudaStream_t>(stream.get());
  streams().created[handle] = std::move(stream);
  return handle;
}

template <typename F>
void for_each(F&& f) {
  for (auto& [handle, stream] : streams().created) f(*stream);
  for (auto& [thread, stream] : streams().per_thread) f(*stream);
}

}  // namespace

Stream& stream_of(cudaStream_t handle) {
  Streams& s = streams();
  if (handle == nullptr || handle == cudaStreamLegacy) return s.legacy;
  if (handle == cudaStreamPerThread) {
    auto& stream = s.per_thread[std::this_thread::get_id()];
    if (!stream) {
      stream = std::make_unique<Stream>();
      stream->id = s.next_id++;
    }
    return *stream;
  }
  const auto found = s.created.find(handle);
  if (found == s.created.end()) fail(cudaErrorInvalidResourceHandle, "no such stream");
  return *found->second;
}

std::vector<Stream*> streams_of_capture(uint64_t capture) {
  std::vector<Stream*> members;
  for_each([&](Stream& s) {
    if (s.capture == capture) members.push_back(&s);
  });
  return members;
}

void enqueue(cudaStream_t handle, Operation operation) {
  Stream& stream = stream_of(handle);
  if (stream.is_legacy) refuse_legacy_stream();
  if (Capture* capture = capture_of(stream))
    return capture_operation(stream, *capture, std::move(operation));
  if (!session().faulted()) operation.run();
}

void wait_for(Stream* stream) {
  if (!stream) refuse_device_wide_call();
  if (stream && stream->is_legacy) refuse_legacy_stream();
  if (stream)
    if (Capture* capture = capture_of(*stream))
      break_capture(*capture, cudaErrorStreamCaptureUnsupported, "the stream is capturing");
  refuse_unsafe_call();
  session().synchronize();
}

void destroy_streams() {
  streams().created.clear();
  streams().per_thread.clear();
  destroy_events();
}

}  // namespace ptxsim::runtime

using namespace ptxsim::runtime;

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  return api(__func__, [&] {
    require(stream, cudaErrorInvalidValue, "pStream is null");
    require(flags <= cudaStreamNonBlocking, cudaErrorInvalidValue, "unknown flags");
    *stream = create(flags, priority);
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return api(__func__, [&] {
    const auto found = streams().created.find(handle);
    require(found != streams().created.end(), cudaErrorInvalidResourceHandle, "no such stream");
    if (Capture* capture = capture_of(*found->second)) capture->is_invalid = true;
    streams().created.erase(found);
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return api(__func__, [&] { wait_for(&stream_of(handle)); });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return api(__func__, [&] { wait_for(&stream_of(handle)); });
}

cudaError_t cudaDeviceSynchronize() {
  return api(__func__, [] { wait_for(nullptr); });
}

cudaError_t cudaStreamGetPriority(cudaStream_t handle, int* priority) {
  return api(__func__, [&] {
    require(priority, cudaErrorInvalidValue, "priority is null");
    *priority = stream_of(handle).priority;
  });
}

cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
  return api(__func__, [&] {
    require(flags, cudaErrorInvalidValue, "flags is null");
    *flags = stream_of(handle).flags;
  });
}

cudaError_t cudaStreamGetId(cudaStream_t handle, unsigned long long* id) {
  return api(__func__, [&] {
    require(id, cudaErrorInvalidValue, "streamId is null");
    *id = stream_of(handle).id;
  });
}

cudaError_t cudaStreamGetDevice(cudaStream_t handle, int* device) {
  return api(__func__, [&] {
    require(device, cudaErrorInvalidValue, "device is null");
    stream_of(handle);
    *device = 0;
  });
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return api(__func__, [&] {
    if (least) *least = kLeastPriority;
    if (greatest) *greatest = kGreatestPriority;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return api(__func__, [&] {
    require(function, cudaErrorInvalidValue, "fn is null");
    enqueue(stream, {cudaGraphNodeTypeHost, [=] { function(data); }});
  });
}

// Unlike a host function it also runs after a fault, and cannot be captured.
cudaError_t cudaStreamAddCallback(cudaStream_t handle, cudaStreamCallback_t callback, void* data,
                                  unsigned flags) {
  return api(__func__, [&] {
    require(callback && flags == 0, cudaErrorInvalidValue, "callback is null or flags not 0");
    Stream& stream = stream_of(handle);
    if (stream.is_legacy) refuse_legacy_stream();
    if (Capture* capture = capture_of(stream))
      break_capture(*capture, cudaErrorStreamCaptureUnsupported, "the stream is capturing");
    callback(handle, session().faulted() ? cudaErrorLaunchFailure : cudaSuccess, data);
  });
}

}  // extern "C"
