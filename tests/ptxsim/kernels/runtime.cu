// SPDX-License-Identifier: Apache-2.0
// Kernels that show how they were launched, and host code as applications have it, for the tests of
// the runtime.
#include <cooperative_groups.h>
#include <cuda_occupancy.h>
#include <cuda_runtime.h>

#include <cassert>

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define CLUSTER_OF_2
#else
#define CLUSTER_OF_2 __cluster_dims__(2, 1, 1)
#endif

struct Pair {
  char a;
  double b;
};

__device__ int counter = 7;
__constant__ float table[4] = {1, 2, 3, 4};
__managed__ int managed = 3;

__global__ void parameters(double* out, int n, char c, Pair p, short s) {
  const double all[] = {double(n), double(c), double(p.a), p.b, double(s), table[2]};
  for (int i = 0; i < 6; ++i) out[i] = all[i];
  atomicAdd(&counter, 1);
  managed = 4;
}

// Grid, block, cluster and dynamic shared memory, by the last block.
__device__ void write_shape(unsigned* out) {
  const dim3 g = gridDim, b = blockDim;
  if (blockIdx.x != g.x - 1 || blockIdx.y != g.y - 1 || blockIdx.z != g.z - 1 || threadIdx.x ||
      threadIdx.y || threadIdx.z)
    return;
  unsigned cluster = 1, dynamic;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(cluster));
#endif
  asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(dynamic));
  const unsigned all[] = {g.x, g.y, g.z, b.x, b.y, b.z, cluster, dynamic};
  for (int i = 0; i < 8; ++i) out[i] = all[i];
}
__global__ void shape(unsigned* out) { write_shape(out); }
__global__ void __launch_bounds__(128) bounded(unsigned* out) { write_shape(out); }
__global__ void CLUSTER_OF_2 clustered(unsigned* out) { write_shape(out); }
__global__ void statics(unsigned* out) {
  __shared__ unsigned s[2048];
  s[threadIdx.x] = threadIdx.x;
  __syncthreads();
  if (s[threadIdx.x ^ 1] == 1) write_shape(out);
}

__global__ void increment(int* x, int by) { *x = *x * 2 + by; }

// Each block adds its number, all wait for all, and block 0 stores the sum.
__global__ void grid_sum(int* x, int) {
  if (threadIdx.x == 0) atomicAdd(x, int(blockIdx.x));
  cooperative_groups::this_grid().sync();
  if (blockIdx.x == 0 && threadIdx.x == 0) x[1] = x[0];
}

__global__ void faulty(int* x, int which) {
  switch (which) {
    case 0: x[1 << 20] = 1; break;
    case 1: *reinterpret_cast<volatile int*>(reinterpret_cast<char*>(x) + 1) = 1; break;
    case 2: assert(which != 2); break;
    default: __trap();
  }
}

extern "C" {

#define FUNCTION(name)                                                          \
  const void* function_##name() { return reinterpret_cast<const void*>(name); }
FUNCTION(parameters)
FUNCTION(shape)
FUNCTION(bounded)
FUNCTION(clustered)
FUNCTION(statics)
FUNCTION(increment)
FUNCTION(grid_sum)
FUNCTION(faulty)

const void* symbol_counter() { return &counter; }
const void* symbol_table() { return &table; }
int managed_value() { return managed; }
void set_managed(int v) { managed = v; }

int run_parameters(double* out) {
  parameters<<<3, 64, 128>>>(out, -9, 3, Pair{5, 2.5}, -2);
  return cudaGetLastError();
}

// A launch with attributes: a cluster, cooperative, programmatic, a preferred cluster; 0 without.
// The last one does not exist.
int run_extended(unsigned* out, unsigned cluster, int cooperative, int programmatic,
                 unsigned preferred, int unknown) {
  cudaLaunchAttribute attributes[5];
  cudaLaunchConfig_t config{};
  config.gridDim = 8, config.blockDim = 64, config.attrs = attributes;
  auto add = [&](cudaLaunchAttributeID id) -> cudaLaunchAttributeValue& {
    attributes[config.numAttrs].id = id;
    return attributes[config.numAttrs++].val;
  };
  if (cluster) add(cudaLaunchAttributeClusterDimension).clusterDim = {cluster, 1, 1};
  if (cooperative) add(cudaLaunchAttributeCooperative).cooperative = 1;
  if (programmatic)
    add(cudaLaunchAttributeProgrammaticStreamSerialization).programmaticStreamSerializationAllowed =
        1;
  if (preferred)
    add(cudaLaunchAttributePreferredClusterDimension).preferredClusterDim = {preferred, 1, 1};
  if (unknown) add(cudaLaunchAttributeID(77));
  return cudaLaunchKernelEx(&config, bounded, out);
}

int active_clusters(unsigned cluster, int* active, int* largest) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = cluster, config.blockDim = 32, config.attrs = &attribute, config.numAttrs = 1;
  cudaOccupancyMaxPotentialClusterSize(largest, bounded, &config);
  return cudaOccupancyMaxActiveClusters(active, bounded, &config);
}

int potential_block(int* grid, int* block) {
  return cudaOccupancyMaxPotentialBlockSize(grid, block, bounded);
}

// Name, SMs, compute capability, memory, shared memory: what cudaGetDeviceProperties says.
int properties(char* name, size_t* numbers) {
  cudaDeviceProp p;
  const cudaError_t status = cudaGetDeviceProperties(&p, 0);
  for (int i = 0; i < 256; ++i) name[i] = p.name[i];
  const size_t all[] = {size_t(p.multiProcessorCount), size_t(p.major), size_t(p.minor),
                        p.totalGlobalMem, p.sharedMemPerBlockOptin};
  for (int i = 0; i < 5; ++i) numbers[i] = all[i];
  return status;
}

// Shared bytes, threads, machine code, PTX, dynamic shared bytes, cluster.
int attributes(const void* function, int* out) {
  cudaFuncAttributes a;
  const cudaError_t status = cudaFuncGetAttributes(&a, function);
  const int all[] = {int(a.sharedSizeBytes), a.maxThreadsPerBlock,        a.binaryVersion,
                     a.ptxVersion,           a.maxDynamicSharedSizeBytes, a.requiredClusterWidth};
  for (int i = 0; i < 6; ++i) out[i] = all[i];
  return status;
}

int pointer_type(const void* p, int* type, void** device) {
  cudaPointerAttributes a;
  const cudaError_t status = cudaPointerGetAttributes(&a, p);
  *type = a.type, *device = a.devicePointer;
  return status;
}

// Blocks of one SM as NVIDIA's header computes them.
int reference_occupancy(int threads, int registers, int shared) {
  cudaDeviceProp p;
  cudaGetDeviceProperties(&p, 0);
  const cudaOccDeviceProp device(p);
  cudaOccFuncAttributes function;
  function.maxThreadsPerBlock = 1024;
  function.numRegs = registers;
  function.sharedSizeBytes = 0;
  function.partitionedGCConfig = PARTITIONED_GC_OFF;
  function.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  function.maxDynamicSharedSizeBytes = shared;
  function.numBlockBarriers = 1;
  cudaOccDeviceState state;
  cudaOccResult result;
  if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &function, &state, threads, shared))
    return -1;
  return result.activeBlocksPerMultiprocessor;
}

}  // extern "C"
