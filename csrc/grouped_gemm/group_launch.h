// SPDX-License-Identifier: Apache-2.0
// Launches of kernels that walk over the tiles of a group product.
#pragma once

#include "core/cuda/launch.h"
#include "grouped_gemm/group_product_cuda.h"

namespace ww {

// Enough blocks to fill the device, or one a tile. Groups of unknown size may each waste a tile.
template <typename Params>
cudaError_t launch_persistent(const CudaKernel<Params>& kernel, const Params& g, int64_t rows,
                              int64_t columns, int threads, int shared, cudaStream_t stream) {
  const int64_t groups = g.ends ? g.E + g.zero_rest : 1;
  const int64_t tiles = (g.M / rows + groups) * ((g.N + columns - 1) / columns);
  if (tiles > INT32_MAX) return cudaErrorInvalidConfiguration;
  int resident;
  const cudaError_t status = kernel.resident_blocks(threads, shared, &resident);
  if (status != cudaSuccess) return status;
  return kernel.launch(tiles < resident ? tiles : resident, threads, stream, g, shared);
}

template <typename Work>
cudaError_t launch_tiles(const CudaKernel<GroupProduct>& kernel, const GroupProduct& g,
                         cudaStream_t stream) {
  return launch_persistent(kernel, g, Work::kTileRows, Work::kColumns, Work::kThreads,
                           Work::kSharedBytes, stream);
}

}  // namespace ww
