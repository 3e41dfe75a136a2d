// SPDX-License-Identifier: Apache-2.0
#include "grouped_gemm/block_scaled.cuh"

namespace ww {
namespace {

struct Sm120a {
  using Tag = cutlass::arch::Sm120;
  using Tile = cute::Shape<cute::_128, cute::_128, cute::_128>;
  using Schedule = cutlass::gemm::KernelPtrArrayTmaWarpSpecializedCooperative;
  template <typename Out>
  using EpilogueTile = cutlass::epilogue::collective::EpilogueTileAuto;
  using EpilogueSchedule = cutlass::epilogue::collective::EpilogueScheduleAuto;
};
// Else the tiles of 64 rows of group_product_sm120a.cu take codes and scales as they are. These
// read a third less from L2, but to put scales in order moves a fifth more in DRAM. By bandwidths,
// not yet by a GPU, that pays from here on.
constexpr int64_t kLeastRows = 256;
constexpr const char* kWhen =
    "on compute capability 12.0, for NVFP4 times NVFP4 of at least 256 rows a group on average, 128"
    " columns and 128 of k, which is a multiple of 64, with codes and results on 16 bytes";
WW_BLOCK_SCALED(Sm120a, "sm_120a", "128 x 128", kWhen);

}  // namespace

const BlockScaledProduct kBlockScaledSm120a{kLeastRows, BlockScaled<Sm120a>::workspace,
                                            BlockScaled<Sm120a>::launch};

}  // namespace ww
