// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

// The map of a row-major matrix and boxes of it; all zeros, which TMA refuses, if there is none.
inline CUtensorMap tensor_map(CUtensorMapDataType type, const void* data, uint64_t rows,
                              uint64_t columns, uint32_t box_rows, uint32_t box_columns,
                              CUtensorMapSwizzle swizzle) {
  CUtensorMap map{};
  void* encode = nullptr;
  cudaDriverEntryPointQueryResult found;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault,
                                       &found) != cudaSuccess ||
      !encode)
    return map;
  const cuuint64_t extents[] = {columns, rows};
  const cuuint64_t pitch[] = {columns * (type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 ? 2 : 4)};
  const cuuint32_t box[] = {box_columns, box_rows}, step[] = {1, 1};
  reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(encode)(
      &map, type, 2, const_cast<void*>(data), extents, pitch, box, step,
      CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return map;
}
