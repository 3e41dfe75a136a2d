// SPDX-License-Identifier: Apache-2.0
// An op's call: the memory that it lends to its kernels, from before the launch until its work is
// done.
#include <algorithm>
#include <cstring>
#include <vector>

#include "runtime/control.h"
#include "runtime/session.h"

namespace ptxsim::runtime {
namespace {

struct Lent {
  uint64_t begin, end;
  bool read_only, is_fresh;
  std::string name;
};
std::vector<Lent> lent;
cudaStream_t captured = nullptr;  // of the call, if it runs as a graph
std::string problem;

// Views of one tensor may interleave, so that only what is true of all of them can be checked.
std::vector<Lent> merged(const ww::Extent* extents, int32_t count) {
  std::vector<Lent> all;
  for (const ww::Extent* e = extents; e != extents + count; ++e) {
    const uint64_t begin = reinterpret_cast<uint64_t>(e->begin);
    all.push_back({begin, begin + e->bytes, e->access == ww::Access::read,
                   e->access == ww::Access::fresh, e->name});
  }
  std::sort(all.begin(), all.end(), [](const Lent& a, const Lent& b) { return a.begin < b.begin; });
  std::vector<Lent> out;
  for (Lent& next : all) {
    if (out.empty() || next.begin >= out.back().end) {
      out.push_back(std::move(next));
      continue;
    }
    Lent& last = out.back();
    last.end = std::max(last.end, next.end);
    last.read_only &= next.read_only;
    last.is_fresh &= next.is_fresh;
    if (last.name != next.name) last.name += " and " + next.name;
  }
  return out;
}

template <typename F>
const char* explained(F&& body) {
  std::lock_guard lock(session().mutex);
  try {
    body();
    return nullptr;
  } catch (const std::exception& e) {
    problem = e.what();
    return problem.c_str();
  }
}

void must(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(session().failure);
}

void run_captured() {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  must(cudaStreamEndCapture(captured, &graph));
  must(cudaGraphInstantiate(&executable, graph, 0));
  must(cudaGraphLaunch(executable, captured));
  must(cudaStreamSynchronize(captured));
  must(cudaGraphExecDestroy(executable));
  must(cudaGraphDestroy(graph));
}

void take_back() {
  for (const Lent& l : lent) session().memory().forget(reinterpret_cast<void*>(l.begin));
  lent.clear();
}

}  // namespace
}  // namespace ptxsim::runtime

using namespace ptxsim::runtime;

const char* ptxsim_begin_call(const ww::Extent* extents, int32_t count, void** stream) {
  *stream = captured = nullptr;
  const char* failed = explained([&] {
    ++session().simulator().options().seed;
    for (Lent& l : merged(extents, count)) {
      // NaN: what no kernel writes may not be the right result of the call before.
      if (l.is_fresh) std::memset(reinterpret_cast<void*>(l.begin), 0xff, l.end - l.begin);
      session().memory().expose(reinterpret_cast<void*>(l.begin), l.end - l.begin, l.read_only,
                                !l.is_fresh, l.name);
      lent.push_back(std::move(l));
    }
    if (session().captures_calls) {
      must(cudaStreamCreateWithFlags(&captured, cudaStreamNonBlocking));
      must(cudaStreamBeginCapture(captured, cudaStreamCaptureModeGlobal));
      *stream = captured;
    }
  });
  if (failed) take_back();
  return failed;
}

const char* ptxsim_end_call() {
  const char* failed = explained([] {
    if (captured) run_captured();
    session().synchronize();
  });
  if (captured) cudaStreamDestroy(captured);
  const char* kept = explained(take_back);
  return failed ? failed : kept;
}
