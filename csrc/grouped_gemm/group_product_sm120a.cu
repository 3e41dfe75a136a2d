// SPDX-License-Identifier: Apache-2.0
// The kernels for sm_120a, compiled for nothing else: the tiles of mma_tile.cuh on mma.sync of E2M1
// with block scales. Codes and scales go from where they lie to the tensor cores, in the released
// layout: nothing is decoded, swizzled or padded, and groups need no tensor maps.
#include "grouped_gemm/group_product_coded.h"

#include "grouped_gemm/group_launch.h"
#include "grouped_gemm/mma_tile.cuh"

namespace ww {
namespace {

using Few = MmaTile<Nvfp4Operands, 16, 4, true>;
using Many = MmaTile<Nvfp4Operands, 64, 3, true>;
constexpr const char* kWhen =
    "on compute capability 12.0, for rows and weights that are both NVFP4, with codes of a row on "
    "16 bytes and its block scales on 4";
const CudaKernel<GroupProduct> kFew{"grouped_gemm", "nvfp4 x nvfp4, 16 rows", "nvfp4",
                                    product_tiles<Few>, kWhen};
const CudaKernel<GroupProduct> kMany{"grouped_gemm", "nvfp4 x nvfp4, 64 rows", "nvfp4",
                                     product_tiles<Many>, kWhen};

}  // namespace

cudaError_t launch_sm120a_group_product(const GroupProduct& g, cudaStream_t stream) {
  return g.M <= 16 * g.E ? launch_tiles<Few>(kFew, g, stream)
                         : launch_tiles<Many>(kMany, g, stream);
}

}  // namespace ww
