// SPDX-License-Identifier: Apache-2.0
// Attributes of kernels, and how many blocks fit.
#include <algorithm>

#include "runtime/launch.h"

namespace ptxsim::runtime {
namespace {

int static_shared(const KernelEntry& entry) {
  return int(session().simulator().attributes(*entry.kernel).shared_bytes);
}

int blocks_of(const dim3& d) { return int(Dim3{d.x, d.y, d.z}.count()); }

void set_attribute(KernelEntry& entry, cudaFuncAttribute attribute, int value) {
  const Device& device = session().device();
  const auto refuse = [&] {
    fail(cudaErrorInvalidValue, entry.name + ": attribute " + std::to_string(int(attribute)) +
                                    " cannot be " + std::to_string(value));
  };
  switch (attribute) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize: {
      const int most = device.shared_per_block_optin - static_shared(entry);
      if (value < 0 || value > most)
        fail(cudaErrorInvalidValue, entry.name + ": " + std::to_string(value) +
                                        " bytes of dynamic shared memory; " + device.name +
                                        " has " + std::to_string(most));
      entry.set.max_dynamic_shared = value;
      return;
    }
    case cudaFuncAttributePreferredSharedMemoryCarveout:
      if (value < -1 || value > 100) refuse();
      entry.set.carveout = value;
      return;
    case cudaFuncAttributeRequiredClusterWidth:
    case cudaFuncAttributeRequiredClusterHeight:
    case cudaFuncAttributeRequiredClusterDepth: {
      bool is_required;
      cluster_of(entry, &is_required);
      const bool compiled = session().simulator().function(*entry.kernel).reqnctapercluster[0] != 0;
      if (value < 0 || compiled) refuse();  // a cluster of the source cannot be changed
      entry.set.required_cluster[attribute - cudaFuncAttributeRequiredClusterWidth] = value;
      return;
    }
    case cudaFuncAttributeNonPortableClusterSizeAllowed:
      if (value < 0 || value > 1) refuse();
      require(device.max_cluster > 1, cudaErrorNotSupported, "the device has no clusters");
      entry.set.non_portable_cluster = value != 0;
      return;
    case cudaFuncAttributeClusterSchedulingPolicyPreference:
      if (value < cudaClusterSchedulingPolicyDefault ||
          value > cudaClusterSchedulingPolicyLoadBalancing)
        refuse();
      entry.set.cluster_policy = value;
      return;
    default: refuse();
  }
}

cudaFuncAttributes attributes_of(const KernelEntry& entry) {
  const Device& device = session().device();
  const KernelAttributes& a = session().simulator().attributes(*entry.kernel);
  bool is_required;
  const dim3 cluster = cluster_of(entry, &is_required);
  cudaFuncAttributes out{};
  out.sharedSizeBytes = a.shared_bytes;
  out.constSizeBytes = a.constant_bytes;
  out.localSizeBytes = a.local_bytes;
  out.maxThreadsPerBlock = a.max_threads;
  out.numRegs = a.registers;
  out.ptxVersion = entry.binary->loaded.number;
  out.binaryVersion = device.major * 10 + device.minor;  // what the driver would compile it to
  out.maxDynamicSharedSizeBytes = max_dynamic_shared(entry);
  out.preferredShmemCarveout = entry.set.carveout;
  out.clusterDimMustBeSet = session().simulator().function(*entry.kernel).explicit_cluster;
  if (is_required) {
    out.requiredClusterWidth = int(cluster.x);
    out.requiredClusterHeight = int(cluster.y);
    out.requiredClusterDepth = int(cluster.z);
  }
  out.clusterSchedulingPolicyPreference = entry.set.cluster_policy;
  out.nonPortableClusterSizeAllowed = entry.set.non_portable_cluster;
  return out;
}

// How the SMs are grouped is not documented, so that this is what a perfect grouping would hold:
// the card may hold fewer clusters, never more.
int active_clusters(const KernelEntry& entry, const cudaLaunchConfig_t& config, int cluster) {
  const int blocks = blocks_per_sm(entry, blocks_of(config.blockDim), config.dynamicSmemBytes);
  return session().device().sms * blocks / cluster;
}

int largest_cluster(const KernelEntry& entry) {
  return entry.set.non_portable_cluster ? session().device().max_cluster
                                        : std::min(8, session().device().max_cluster);
}

}  // namespace
}  // namespace ptxsim::runtime

using namespace ptxsim::runtime;

extern "C" {

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  return api(__func__, [&] { set_attribute(loaded_kernel(function), attribute, value); });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  return api(__func__, [&] {
    require(attributes, cudaErrorInvalidValue, "attr is null");
    *attributes = attributes_of(loaded_kernel(function));
  });
}

// A preference of the L1 cache, which is not simulated.
cudaError_t cudaFuncSetCacheConfig(const void* function, cudaFuncCache config) {
  return api(__func__, [&] {
    loaded_kernel(function);
    require(config >= cudaFuncCachePreferNone && config <= cudaFuncCachePreferEqual,
            cudaErrorInvalidValue, "unknown cache configuration");
  });
}

cudaError_t cudaFuncGetParamInfo(const void* function, size_t index, size_t* offset, size_t* size) {
  return api(__func__, [&] {
    require(offset, cudaErrorInvalidValue, "paramOffset is null");
    uint64_t total;
    const auto parameters =
        parameters_of(session().simulator().function(*loaded_kernel(function).kernel), &total);
    require(index < parameters.size(), cudaErrorInvalidValue, "no such parameter");
    *offset = parameters[index].offset;
    if (size) *size = parameters[index].bytes;
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks,
                                                                   const void* function,
                                                                   int threads, size_t shared,
                                                                   unsigned flags) {
  return api(__func__, [&] {
    require(blocks && threads > 0, cudaErrorInvalidValue,
            "numBlocks is null or blockSize not positive");
    require(flags <= cudaOccupancyDisableCachingOverride, cudaErrorInvalidValue, "unknown flags");
    *blocks = blocks_per_sm(loaded_kernel(function), threads, shared);
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function,
                                                          int threads, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared,
                                                                cudaOccupancyDefault);
}

cudaError_t cudaOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, const void* function,
                                                      int blocks, int threads) {
  return api(__func__, [&] {
    require(bytes && blocks > 0 && threads > 0, cudaErrorInvalidValue,
            "an argument is not positive");
    const KernelEntry& entry = loaded_kernel(function);
    const ptxsim::Device& device = session().device();
    require(blocks_per_sm(entry, threads, 0) >= blocks, cudaErrorInvalidValue,
            "so many blocks do not fit without dynamic shared memory");
    const int share = device.shared_per_sm / blocks / 128 * 128 - device.shared_reserved;
    *bytes =
        size_t(std::max(0, std::min(share, device.shared_per_block_optin) - static_shared(entry)));
  });
}

cudaError_t cudaOccupancyMaxPotentialClusterSize(int* size, const void* function,
                                                 const cudaLaunchConfig_t* config) {
  return api(__func__, [&] {
    require(size && config, cudaErrorInvalidValue, "clusterSize or launchConfig is null");
    require(session().device().max_cluster > 1, cudaErrorNotSupported,
            "the device has no clusters");
    const KernelEntry& entry = loaded_kernel(function);
    read_attributes(*config);
    *size = largest_cluster(entry);
    while (*size > 1 && active_clusters(entry, *config, *size) == 0) --*size;
  });
}

cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* function,
                                           const cudaLaunchConfig_t* config) {
  return api(__func__, [&] {
    require(clusters && config, cudaErrorInvalidValue, "numClusters or launchConfig is null");
    require(session().device().max_cluster > 1, cudaErrorNotSupported,
            "the device has no clusters");
    const KernelEntry& entry = loaded_kernel(function);
    const LaunchOptions options = read_attributes(*config);
    bool is_required;
    const dim3 own = cluster_of(entry, &is_required);
    const int cluster = blocks_of(options.has_cluster ? options.cluster : own);
    require(cluster >= 1 && cluster <= largest_cluster(entry), cudaErrorInvalidClusterSize,
            "no such cluster");
    *clusters = active_clusters(entry, *config, cluster);
  });
}

}  // extern "C"
