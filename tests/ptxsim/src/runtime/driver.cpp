// SPDX-License-Identifier: Apache-2.0
// The entry points of the driver that host code gets through cudaGetDriverEntryPoint, or links.
#include <cstring>
#include <string>

#include "runtime/launch.h"
#include "tensor/tensormap.h"

namespace ptxsim::runtime {
namespace {

// Most codes that this library returns are the same in both; these the driver does not have.
CUresult result_of(cudaError_t error) {
  switch (error) {
    case cudaErrorInvalidConfiguration: return CUDA_ERROR_INVALID_VALUE;
    case cudaErrorInvalidDeviceFunction: return CUDA_ERROR_INVALID_HANDLE;
    default: return CUresult(error);
  }
}

CUresult encode_tiled(CUtensorMap* out, CUtensorMapDataType type, cuuint32_t rank, void* address,
                      const cuuint64_t* size, const cuuint64_t* stride, const cuuint32_t* box,
                      const cuuint32_t* element_stride, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                      CUtensorMapFloatOOBfill fill) {
  constexpr uint32_t kPromotion[] = {0, 64, 128, 256};
  require(session().device().major >= 9, cudaErrorNotSupported,
          "tensor maps need compute capability 9.0");
  require(out && reinterpret_cast<uintptr_t>(out) % kTensorMapAlign == 0, cudaErrorInvalidValue,
          "tensorMap is not aligned to 64 bytes");
  require(unsigned(type) <= CU_TENSOR_MAP_DATA_TYPE_16U6_ALIGN16B &&
              unsigned(interleave) <= CU_TENSOR_MAP_INTERLEAVE_32B &&
              unsigned(promotion) <= CU_TENSOR_MAP_L2_PROMOTION_L2_256B &&
              unsigned(fill) <= CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA,
          cudaErrorInvalidValue, "an enumeration has an unknown value");
  require(rank >= 1 && rank <= kMaxTensorRank, cudaErrorInvalidValue, "the rank is 1 to 5");
  // A null address is no mistake: maps of CUTLASS's grouped kernels get theirs on the device.
  require(size && box && element_stride && (stride || rank == 1), cudaErrorInvalidValue,
          "an argument is null");
  TensorMap map;
  require(set_swizzle(map, uint32_t(swizzle)), cudaErrorInvalidValue, "unknown swizzle");
  map.type = TensorType(type);
  map.rank = int(rank);
  map.address = reinterpret_cast<uint64_t>(address);
  for (cuuint32_t i = 0; i < rank; ++i) {
    map.size[i] = size[i];
    map.box[i] = box[i];
    map.element_stride[i] = element_stride[i];
    if (i + 1 < rank) map.stride[i] = stride[i];
  }
  map.interleave = Interleave(interleave);
  map.l2_promotion = kPromotion[promotion];
  map.fill = OutOfBounds(fill);
  const std::string why = map.check();
  if (!why.empty()) fail(cudaErrorInvalidValue, why);
  // Without an interleaved layout the innermost element stride is ignored, whatever it is.
  if (map.interleave == Interleave::none) map.element_stride[0] = 1;
  map.encode(out);
  return CUDA_SUCCESS;
}

struct EntryPoint {
  const char* name;
  void* function;
  unsigned since;  // the CUDA version that brought this form
};
const EntryPoint kEntryPoints[] = {
    {"cuTensorMapEncodeTiled", reinterpret_cast<void*>(&cuTensorMapEncodeTiled), 12000},
    {"cuTensorMapReplaceAddress", reinterpret_cast<void*>(&cuTensorMapReplaceAddress), 12000},
    {"cuGetErrorString", reinterpret_cast<void*>(&cuGetErrorString), 6000},
    {"cuGetErrorName", reinterpret_cast<void*>(&cuGetErrorName), 6000},
    {"cuDriverGetVersion", reinterpret_cast<void*>(&cuDriverGetVersion), 2020},
    {"cuLaunchKernel", reinterpret_cast<void*>(&cuLaunchKernel), 4000},
};

void entry_point(const char* name, void** function, unsigned version,
                 cudaDriverEntryPointQueryResult* result) {
  require(name && function, cudaErrorInvalidValue, "symbol or funcPtr is null");
  *function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  for (const EntryPoint& e : kEntryPoints) {
    if (std::strcmp(name, e.name) != 0) continue;
    found =
        version < e.since ? cudaDriverEntryPointVersionNotSufficent : cudaDriverEntryPointSuccess;
    if (version >= e.since) *function = e.function;
  }
  if (result) *result = found;
  if (!result && !*function) fail(cudaErrorSymbolNotFound, std::string(name) + " is not simulated");
}

}  // namespace
}  // namespace ptxsim::runtime

using namespace ptxsim::runtime;

extern "C" {

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* result) {
  return api<Needs::nothing>(__func__, [&] {
    require(flags <= cudaEnablePerThreadDefaultStream, cudaErrorInvalidValue, "unknown flags");
    entry_point(name, function, version, result);
  });
}

cudaError_t cudaGetDriverEntryPoint(const char* name, void** function, unsigned long long flags,
                                    cudaDriverEntryPointQueryResult* result) {
  return cudaGetDriverEntryPointByVersion(name, function, CUDART_VERSION, flags, result);
}

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank,
                                void* address, const cuuint64_t* size, const cuuint64_t* stride,
                                const cuuint32_t* box, const cuuint32_t* element_stride,
                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
  const cudaError_t before = last_error();
  const cudaError_t error = api<Needs::device>(__func__, [&] {
    encode_tiled(map, type, rank, address, size, stride, box, element_stride, interleave, swizzle,
                 promotion, fill);
  });
  last_error() = before;  // the driver knows nothing of the runtime's last error
  return result_of(error);
}

CUresult cuTensorMapReplaceAddress(CUtensorMap* map, void* address) {
  const cudaError_t before = last_error();
  const cudaError_t error = api<Needs::device>(__func__, [&] {
    std::optional<ptxsim::TensorMap> decoded = ptxsim::TensorMap::decode(map);
    require(decoded.has_value(), cudaErrorInvalidValue, "not a tensor map");
    decoded->address = reinterpret_cast<uint64_t>(address);
    const std::string why = decoded->check();
    if (!why.empty()) fail(cudaErrorInvalidValue, why);
    decoded->encode(map);
  });
  last_error() = before;
  return result_of(error);
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                        CUstream stream, void** arguments, void** extra) {
  const cudaError_t before = last_error();
  const cudaError_t error = api(__func__, [&] {
    require(!extra, cudaErrorNotSupported, "arguments in extra");
    enqueue(stream, kernel_operation(function, dim3(grid_x, grid_y, grid_z),
                                     dim3(block_x, block_y, block_z), arguments, shared));
  });
  last_error() = before;
  return result_of(error);
}

CUresult cuDriverGetVersion(int* version) {
  if (!version) return CUDA_ERROR_INVALID_VALUE;
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char** text) {
  if (!text) return CUDA_ERROR_INVALID_VALUE;
  const char* found = cudaGetErrorString(cudaError_t(error));
  const bool known = std::strcmp(found, "unrecognized error code") != 0;
  *text = known ? found : nullptr;
  return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// The names that the functions above can return.
CUresult cuGetErrorName(CUresult error, const char** name) {
  if (!name) return CUDA_ERROR_INVALID_VALUE;
  switch (error) {
#define NAME(code)                              \
  case code: *name = #code; return CUDA_SUCCESS
    NAME(CUDA_SUCCESS);
    NAME(CUDA_ERROR_INVALID_VALUE);
    NAME(CUDA_ERROR_OUT_OF_MEMORY);
    NAME(CUDA_ERROR_NO_DEVICE);
    NAME(CUDA_ERROR_INVALID_IMAGE);
    NAME(CUDA_ERROR_NO_BINARY_FOR_GPU);
    NAME(CUDA_ERROR_INVALID_PTX);
    NAME(CUDA_ERROR_INVALID_HANDLE);
    NAME(CUDA_ERROR_ILLEGAL_ADDRESS);
    NAME(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    NAME(CUDA_ERROR_LAUNCH_TIMEOUT);
    NAME(CUDA_ERROR_ASSERT);
    NAME(CUDA_ERROR_ILLEGAL_INSTRUCTION);
    NAME(CUDA_ERROR_MISALIGNED_ADDRESS);
    NAME(CUDA_ERROR_LAUNCH_FAILED);
    NAME(CUDA_ERROR_NOT_SUPPORTED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    NAME(CUDA_ERROR_INVALID_CLUSTER_SIZE);
    NAME(CUDA_ERROR_UNKNOWN);
#undef NAME
    default: *name = nullptr; return CUDA_ERROR_INVALID_VALUE;
  }
}

}  // extern "C"
