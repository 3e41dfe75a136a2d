// SPDX-License-Identifier: Apache-2.0
#include "runtime/graph.h"

#include <algorithm>
#include <map>

#include "runtime/launch.h"
#include "runtime/memory.h"

namespace ptxsim::runtime {
namespace {

using Executable = std::vector<Operation>;

struct Graphs {
  std::map<cudaGraph_t, std::unique_ptr<Graph>> graphs;
  std::map<cudaGraphExec_t, std::unique_ptr<Executable>> executables;
};

Graphs& graphs() {
  static Graphs& instance = *new Graphs;
  return instance;
}

Graph& graph_of(cudaGraph_t handle) {
  const auto found = graphs().graphs.find(handle);
  if (found == graphs().graphs.end()) fail(cudaErrorInvalidValue, "no such graph");
  return *found->second;
}

Node& node_of(cudaGraphNode_t handle) {
  for (const auto& [key, graph] : graphs().graphs)
    for (const auto& node : graph->nodes)
      if (reinterpret_cast<cudaGraphNode_t>(node.get()) == handle) return *node;
  fail(cudaErrorInvalidValue, "no such node");
}

Executable& executable_of(cudaGraphExec_t handle) {
  const auto found = graphs().executables.find(handle);
  if (found == graphs().executables.end()) fail(cudaErrorInvalidValue, "no such executable graph");
  return *found->second;
}

void add_node(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* dependencies,
              size_t count, Operation operation) {
  require(node, cudaErrorInvalidValue, "pGraphNode is null");
  std::vector<Node*> before;
  for (size_t i = 0; i < count; ++i) before.push_back(&node_of(dependencies[i]));
  Node* added = graph_of(graph).add(std::move(operation), std::move(before));
  *node = reinterpret_cast<cudaGraphNode_t>(added);
}

void instantiate(cudaGraphExec_t* handle, cudaGraph_t graph, unsigned long long flags) {
  constexpr unsigned long long kKnown = cudaGraphInstantiateFlagAutoFreeOnLaunch |
                                        cudaGraphInstantiateFlagUpload |
                                        cudaGraphInstantiateFlagUseNodePriority;
  require(handle, cudaErrorInvalidValue, "pGraphExec is null");
  require(!(flags & ~kKnown), cudaErrorNotSupported, "flags of this kind, such as device launch");
  auto executable = std::make_unique<Executable>();
  for (const auto& node : graph_of(graph).nodes) executable->push_back(node->operation);
  *handle = reinterpret_cast<cudaGraphExec_t>(executable.get());
  graphs().executables[*handle] = std::move(executable);
}

}  // namespace

Node* Graph::add(Operation operation, std::vector<Node*> dependencies) {
  nodes.push_back(std::make_unique<Node>(Node{std::move(operation), std::move(dependencies)}));
  return nodes.back().get();
}

cudaGraph_t handle_of(Graph* graph) { return reinterpret_cast<cudaGraph_t>(graph); }

cudaGraph_t adopt_graph(std::unique_ptr<Graph> graph) {
  const cudaGraph_t handle = handle_of(graph.get());
  graphs().graphs[handle] = std::move(graph);
  return handle;
}

void destroy_graphs() {
  destroy_captures();
  graphs().graphs.clear();
  graphs().executables.clear();
}

}  // namespace ptxsim::runtime

using namespace ptxsim::runtime;

extern "C" {

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned flags) {
  return api(__func__, [&] {
    require(graph && flags == 0, cudaErrorInvalidValue, "pGraph is null or flags not 0");
    *graph = adopt_graph(std::make_unique<Graph>());
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return api(__func__, [&] {
    graph_of(graph);
    graphs().graphs.erase(graph);
  });
}

cudaError_t cudaGraphAddEmptyNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                  const cudaGraphNode_t* dependencies, size_t count) {
  return api(__func__,
             [&] { add_node(node, graph, dependencies, count, {cudaGraphNodeTypeEmpty, [] {}}); });
}

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                   const cudaGraphNode_t* dependencies, size_t count,
                                   const cudaKernelNodeParams* params) {
  return api(__func__, [&] {
    require(params, cudaErrorInvalidValue, "pNodeParams is null");
    require(!params->extra, cudaErrorNotSupported, "arguments in extra");
    add_node(node, graph, dependencies, count,
             kernel_operation(params->func, params->gridDim, params->blockDim, params->kernelParams,
                              params->sharedMemBytes));
  });
}

cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t* node, cudaGraph_t graph,
                                     const cudaGraphNode_t* dependencies, size_t count,
                                     void* destination, const void* source, size_t bytes,
                                     cudaMemcpyKind kind) {
  return api(__func__, [&] {
    add_node(node, graph, dependencies, count,
             copy_operation({destination, source, bytes, bytes, bytes, 1, kind}));
  });
}

cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                   const cudaGraphNode_t* dependencies, size_t count,
                                   const cudaMemsetParams* params) {
  return api(__func__, [&] {
    require(params, cudaErrorInvalidValue, "pMemsetParams is null");
    add_node(node, graph, dependencies, count,
             fill_operation({params->dst, params->pitch, params->value, int(params->elementSize),
                             params->width, params->height}));
  });
}

cudaError_t cudaGraphAddHostNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                 const cudaGraphNode_t* dependencies, size_t count,
                                 const cudaHostNodeParams* params) {
  return api(__func__, [&] {
    require(params && params->fn, cudaErrorInvalidValue, "no function");
    const cudaHostNodeParams host = *params;
    add_node(node, graph, dependencies, count,
             {cudaGraphNodeTypeHost, [=] { host.fn(host.userData); }});
  });
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  return api(__func__, [&] {
    require(count, cudaErrorInvalidValue, "numNodes is null");
    const auto& all = graph_of(graph).nodes;
    if (nodes)
      for (size_t i = 0; i < *count; ++i)
        nodes[i] = i < all.size() ? reinterpret_cast<cudaGraphNode_t>(all[i].get()) : nullptr;
    *count = nodes ? std::min(*count, all.size()) : all.size();
  });
}

cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* type) {
  return api(__func__, [&] {
    require(type, cudaErrorInvalidValue, "pType is null");
    *type = node_of(node).operation.type;
  });
}

// Without the arguments: they were copied, and the caller's array is gone.
cudaError_t cudaGraphKernelNodeGetParams(cudaGraphNode_t node, cudaKernelNodeParams* params) {
  return api(__func__, [&] {
    const Operation& operation = node_of(node).operation;
    require(params && operation.type == cudaGraphNodeTypeKernel, cudaErrorInvalidValue,
            "not a kernel node");
    *params = operation.kernel;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long flags) {
  return api(__func__, [&] { instantiate(executable, graph, flags); });
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph,
                                          unsigned long long flags) {
  return api(__func__, [&] { instantiate(executable, graph, flags); });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t stream) {
  return api(__func__, [&] {
    executable_of(executable);
    stream_of(stream);
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream) {
  return api(__func__, [&] {
    const Executable operations = executable_of(handle);
    enqueue(stream, {cudaGraphNodeTypeGraph, [operations] {
                       for (const Operation& operation : operations)
                         if (!session().faulted()) operation.run();
                     }});
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return api(__func__, [&] {
    executable_of(executable);
    graphs().executables.erase(executable);
  });
}

}  // extern "C"
