// SPDX-License-Identifier: Apache-2.0
#include "runtime/launch.h"

#include <algorithm>
#include <cstring>

namespace ptxsim::runtime {
namespace {

// CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
constexpr uint32_t kMaxGrid[3] = {2147483647, 65535, 65535}, kMaxBlock[3] = {1024, 1024, 64};
constexpr uint64_t kMaxParameterBytes = 32764;  // from compute capability 7.0
constexpr uint64_t kPortableCluster = 8;

Dim3 dim(const dim3& d) { return {d.x, d.y, d.z}; }
std::string text(const dim3& d) {
  return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
}
bool is_zero(const dim3& d) { return d.x == 0 || d.y == 0 || d.z == 0; }

void check_shape(const dim3& grid, const dim3& block) {
  const uint32_t g[3] = {grid.x, grid.y, grid.z}, b[3] = {block.x, block.y, block.z};
  for (int i = 0; i < 3; ++i)
    if (g[i] == 0 || g[i] > kMaxGrid[i] || b[i] == 0 || b[i] > kMaxBlock[i])
      fail(cudaErrorInvalidConfiguration, "grid " + text(grid) + ", block " + text(block));
  if (dim(block).count() > uint64_t(session().device().threads_per_block))
    fail(cudaErrorInvalidConfiguration, "a block of " + std::to_string(dim(block).count()));
}

// What the kernel was compiled for.
void check_block(const KernelEntry& entry, const dim3& block) {
  const ptx::Function& f = session().simulator().function(*entry.kernel);
  const KernelAttributes& attributes = session().simulator().attributes(*entry.kernel);
  const uint64_t threads = dim(block).count();
  const uint32_t* required = f.reqntid;
  if (required[0] && (block.x != required[0] || block.y != std::max(1u, required[1]) ||
                      block.z != std::max(1u, required[2])))
    fail(cudaErrorInvalidValue, entry.name + " needs another block (.reqntid) than " + text(block));
  if (f.maxntid[0]) {
    const uint64_t most =
        uint64_t(f.maxntid[0]) * std::max(1u, f.maxntid[1]) * std::max(1u, f.maxntid[2]);
    if (threads > most)
      fail(cudaErrorInvalidValue, entry.name + " has __launch_bounds__ of " + std::to_string(most) +
                                      " threads, launched with " + std::to_string(threads));
  }
  if (!attributes.registers_known) return;
  if (resident_blocks(session().device(), threads, attributes.registers, 0) == 0)
    fail(cudaErrorLaunchOutOfResources, entry.name + ": " + std::to_string(threads) +
                                            " threads of " + std::to_string(attributes.registers) +
                                            " registers");
}

void check_shared(const KernelEntry& entry, size_t dynamic_shared) {
  const int most = max_dynamic_shared(entry);
  if (most < 0)
    fail(cudaErrorInvalidPtx, entry.name + " has more static shared memory than a block may");
  if (dynamic_shared > size_t(most))
    fail(cudaErrorInvalidValue, entry.name + ": " + std::to_string(dynamic_shared) +
                                    " bytes of dynamic shared memory, allowed are " +
                                    std::to_string(most));
}

// cudaErrorInvalidClusterSize is "cluster misconfiguration" of any kind.
dim3 check_cluster(const KernelEntry& entry, const dim3& grid, const LaunchOptions& options) {
  const ptx::Function& f = session().simulator().function(*entry.kernel);
  bool is_required = false;
  const dim3 own = cluster_of(entry, &is_required);
  const dim3 cluster = options.has_cluster ? options.cluster : own;
  const auto refuse = [&](const std::string& why) {
    fail(cudaErrorInvalidClusterSize, entry.name + ", cluster " + text(cluster) + ": " + why);
  };
  if (is_zero(cluster)) refuse("a dimension is 0");
  if (is_required && (cluster.x != own.x || cluster.y != own.y || cluster.z != own.z))
    refuse("the kernel requires " + text(own));
  if (f.explicit_cluster && !options.has_cluster && !is_required)
    refuse("the kernel needs a cluster dimension (.explicitcluster)");
  const uint64_t blocks = dim(cluster).count();
  if (blocks > uint64_t(session().device().max_cluster))
    refuse("the device has at most " + std::to_string(session().device().max_cluster));
  if (blocks > kPortableCluster && !entry.set.non_portable_cluster)
    refuse("more than 8 blocks need cudaFuncAttributeNonPortableClusterSizeAllowed");
  if (f.maxclusterrank && blocks > f.maxclusterrank) refuse("more than .maxclusterrank");
  if (grid.x % cluster.x || grid.y % cluster.y || grid.z % cluster.z)
    refuse("the grid " + text(grid) + " is no multiple of it");
  return cluster;
}

void check_cooperative(const KernelEntry& entry, const dim3& grid, const dim3& block,
                       size_t dynamic_shared) {
  const uint64_t resident =
      uint64_t(blocks_per_sm(entry, int64_t(dim(block).count()), dynamic_shared)) *
      session().device().sms;
  if (dim(grid).count() > resident)
    fail(cudaErrorCooperativeLaunchTooLarge, entry.name + ": " + std::to_string(dim(grid).count()) +
                                                 " blocks, of which " + std::to_string(resident) +
                                                 " fit at a time");
}

std::vector<uint8_t> copy_arguments(const KernelEntry& entry, void** arguments) {
  uint64_t total;
  const std::vector<Parameter> parameters =
      parameters_of(session().simulator().function(*entry.kernel), &total);
  if (total > kMaxParameterBytes)
    fail(cudaErrorLaunchOutOfResources, entry.name + ": too many bytes of parameters");
  std::vector<uint8_t> bytes(total);
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!arguments || !arguments[i])
      fail(cudaErrorInvalidValue, entry.name + ": argument " + std::to_string(i) + " is null");
    std::memcpy(bytes.data() + parameters[i].offset, arguments[i], parameters[i].bytes);
  }
  return bytes;
}

cudaError_t error_of(Report::Kind kind) {
  switch (kind) {
    case Report::Kind::out_of_bounds:
    case Report::Kind::use_after_free:
    case Report::Kind::read_only_write: return cudaErrorIllegalAddress;
    case Report::Kind::misaligned: return cudaErrorMisalignedAddress;
    case Report::Kind::assertion: return cudaErrorAssert;
    case Report::Kind::illegal_instruction: return cudaErrorIllegalInstruction;
    case Report::Kind::deadlock:
    case Report::Kind::limit: return cudaErrorLaunchTimeout;  // on a card: it hangs
    default: return cudaErrorLaunchFailure;
  }
}

void run(Kernel& kernel, const LaunchConfig& config, const std::vector<uint8_t>& parameters) {
  Session& s = session();
  const size_t before = s.simulator().reports().size();
  if (s.simulator().launch(kernel, config, parameters)) return;
  const std::vector<Report>& reports = s.simulator().reports();
  for (size_t i = before; i < reports.size(); ++i)
    if (reports[i].is_fault) return s.set_fault(error_of(reports[i].kind), reports[i].describe());
  s.set_fault(cudaErrorLaunchFailure, "no report says why");
}

}  // namespace

std::vector<Parameter> parameters_of(const ptx::Function& function, uint64_t* total) {
  std::vector<Parameter> parameters;
  uint64_t offset = 0;
  for (const ptx::Variable& v : function.parameters) {
    const uint64_t align = std::max<uint64_t>({1, v.align, uint64_t(size_of(v.type))});
    offset = (offset + align - 1) / align * align;
    parameters.push_back({offset, v.bytes});
    offset += v.bytes;
  }
  *total = offset;
  return parameters;
}

int max_dynamic_shared(const KernelEntry& entry) {
  if (entry.set.max_dynamic_shared >= 0) return entry.set.max_dynamic_shared;
  return session().device().shared_per_block -
         int(session().simulator().attributes(*entry.kernel).shared_bytes);
}

dim3 cluster_of(const KernelEntry& entry, bool* is_required) {
  const uint32_t* directive = session().simulator().function(*entry.kernel).reqnctapercluster;
  const int* attribute = entry.set.required_cluster;
  *is_required = directive[0] || attribute[0];
  if (directive[0])
    return dim3(directive[0], std::max(1u, directive[1]), std::max(1u, directive[2]));
  if (attribute[0])
    return dim3(unsigned(attribute[0]), unsigned(std::max(1, attribute[1])),
                unsigned(std::max(1, attribute[2])));
  return dim3(1, 1, 1);
}

int blocks_per_sm(const KernelEntry& entry, int64_t threads, size_t dynamic_shared) {
  const int most = max_dynamic_shared(entry);
  if (threads > session().simulator().attributes(*entry.kernel).max_threads || most < 0 ||
      dynamic_shared > size_t(most))
    return 0;
  return session().simulator().occupancy(*entry.kernel, uint64_t(threads), dynamic_shared);
}

LaunchConfig checked_config(const KernelEntry& entry, dim3 grid, dim3 block, size_t dynamic_shared,
                            const LaunchOptions& options) {
  check_shape(grid, block);
  check_block(entry, block);
  check_shared(entry, dynamic_shared);
  LaunchConfig config;
  config.grid = dim(grid);
  config.block = dim(block);
  config.cluster = dim(check_cluster(entry, grid, options));
  config.dynamic_shared = dynamic_shared;
  config.cooperative = options.cooperative;
  config.programmatic = options.programmatic;
  if (options.cooperative) check_cooperative(entry, grid, block, dynamic_shared);
  return config;
}

Operation kernel_operation(const void* function, dim3 grid, dim3 block, void** arguments,
                           size_t dynamic_shared, const LaunchOptions& options) {
  const KernelEntry& entry = loaded_kernel(function);
  const LaunchConfig config = checked_config(entry, grid, block, dynamic_shared, options);
  Operation operation{cudaGraphNodeTypeKernel,
                      [kernel = entry.kernel, config, bytes = copy_arguments(entry, arguments)] {
                        run(*kernel, config, bytes);
                      }};
  operation.kernel.func = const_cast<void*>(entry.host);
  operation.kernel.gridDim = grid;
  operation.kernel.blockDim = block;
  operation.kernel.sharedMemBytes = unsigned(dynamic_shared);
  return operation;
}

LaunchOptions read_attributes(const cudaLaunchConfig_t& config) {
  LaunchOptions options;
  dim3 preferred{0, 0, 0};
  require(config.attrs || config.numAttrs == 0, cudaErrorInvalidValue, "attrs is null");
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttributeValue& value = config.attrs[i].val;
    switch (config.attrs[i].id) {
      case cudaLaunchAttributeClusterDimension:
        options.cluster = dim3(value.clusterDim.x, value.clusterDim.y, value.clusterDim.z);
        options.has_cluster = true;
        break;
      case cudaLaunchAttributePreferredClusterDimension:
        preferred = dim3(value.preferredClusterDim.x, value.preferredClusterDim.y,
                         value.preferredClusterDim.z);
        break;
      case cudaLaunchAttributeCooperative: options.cooperative = value.cooperative != 0; break;
      case cudaLaunchAttributeProgrammaticStreamSerialization:
        options.programmatic = value.programmaticStreamSerializationAllowed != 0;
        require(!options.programmatic || session().device().major >= 9, cudaErrorNotSupported,
                "programmatic dependent launch needs compute capability 9.0");
        break;
      // Recorded after the launch, by launch_with_attributes().
      case cudaLaunchAttributeProgrammaticEvent:
      case cudaLaunchAttributeLaunchCompletionEvent:
      // Nothing depends on them here: hints of scheduling, caching and layout.
      case cudaLaunchAttributeIgnore:
      case cudaLaunchAttributeAccessPolicyWindow:
      case cudaLaunchAttributeClusterSchedulingPolicyPreference:
      case cudaLaunchAttributePriority:
      case cudaLaunchAttributeMemSyncDomainMap:
      case cudaLaunchAttributeMemSyncDomain:
      case cudaLaunchAttributePreferredSharedMemoryCarveout: break;
      default:
        fail(cudaErrorInvalidValue, "launch attribute " + std::to_string(int(config.attrs[i].id)));
    }
  }
  // The card may use it for some clusters; running all of them with the smaller one is as legal.
  if (!is_zero(preferred) && options.has_cluster && !is_zero(options.cluster))
    require(preferred.x % options.cluster.x == 0 && preferred.y % options.cluster.y == 0 &&
                preferred.z % options.cluster.z == 0 && config.gridDim.x % preferred.x == 0 &&
                config.gridDim.y % preferred.y == 0 && config.gridDim.z % preferred.z == 0,
            cudaErrorInvalidClusterSize,
            "the preferred cluster must be a multiple of the cluster and divide the grid");
  return options;
}

namespace {

struct CallConfiguration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local std::vector<CallConfiguration> call_configurations;

void launch_with_attributes(const cudaLaunchConfig_t& config, const void* function,
                            void** arguments) {
  const LaunchOptions options = read_attributes(config);
  enqueue(config.stream, kernel_operation(function, config.gridDim, config.blockDim, arguments,
                                          config.dynamicSmemBytes, options));
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttributeValue& value = config.attrs[i].val;
    if (config.attrs[i].id == cudaLaunchAttributeProgrammaticEvent)
      record_event(value.programmaticEvent.event, config.stream);
    if (config.attrs[i].id == cudaLaunchAttributeLaunchCompletionEvent)
      record_event(value.launchCompletionEvent.event, config.stream);
  }
}

}  // namespace
}  // namespace ptxsim::runtime

using namespace ptxsim::runtime;

extern "C" {

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  call_configurations.push_back({grid, block, shared, stream});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (call_configurations.empty())
    return record(__func__, cudaErrorMissingConfiguration, "no <<<>>> is open");
  const CallConfiguration c = call_configurations.back();
  call_configurations.pop_back();
  *grid = c.grid;
  *block = c.block;
  *shared = c.shared;
  *static_cast<cudaStream_t*>(stream) = c.stream;
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                             size_t shared, cudaStream_t stream) {
  return api(__func__,
             [&] { enqueue(stream, kernel_operation(function, grid, block, arguments, shared)); });
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared, cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                void** arguments) {
  return api(__func__, [&] {
    require(config, cudaErrorInvalidValue, "config is null");
    launch_with_attributes(*config, function, arguments);
  });
}

cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3 grid, dim3 block,
                                        void** arguments, size_t shared, cudaStream_t stream) {
  return api(__func__, [&] {
    enqueue(stream,
            kernel_operation(function, grid, block, arguments, shared, {.cooperative = true}));
  });
}

}  // extern "C"
