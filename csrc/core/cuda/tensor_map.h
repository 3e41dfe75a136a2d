// SPDX-License-Identifier: Apache-2.0
// Tensor maps for TMA. The function that makes them is the driver's, which nothing here links: the
// runtime knows its address.
#pragma once

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <stdint.h>

namespace ww {

// Boxes of 64 x 64 bf16 elements in the first two dimensions of a tensor, the innermost contiguous,
// to and from rows of 128 bytes that are swizzled. Strides of dimensions 1 to 3 are in elements.
// False if TMA cannot take the tensor: it wants everything on 16 bytes.
inline bool make_tensor_map(CUtensorMap* map, const void* base, const int64_t (&extents)[4],
                            const int64_t (&strides)[3]) {
  constexpr uint32_t kBox[4] = {64, 64, 1, 1}, kStep[4] = {1, 1, 1, 1};
  constexpr int64_t kMostExtent = int64_t(1) << 31, kMostStride = int64_t(1) << 39;  // elements
  cuuint64_t sizes[4], bytes[3];
  if (reinterpret_cast<uintptr_t>(base) % 16) return false;
  for (int i = 0; i < 4; ++i) {
    if (extents[i] < 1 || extents[i] >= kMostExtent) return false;
    sizes[i] = cuuint64_t(extents[i]);
    if (i == 0) continue;
    const int64_t stride = extents[i] > 1 ? strides[i - 1] : 8;  // of one element: any
    if (stride < 8 || stride % 8 || stride >= kMostStride) return false;
    bytes[i - 1] = cuuint64_t(stride) * 2;
  }
  void* encode = nullptr;
  cudaDriverEntryPointQueryResult found;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault,
                                       &found) != cudaSuccess ||
      found != cudaDriverEntryPointSuccess)
    return false;
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(encode)(
             map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(base), sizes, bytes, kBox,
             kStep, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace ww
