// SPDX-License-Identifier: Apache-2.0
#include "grouped_gemm/block_scaled.cuh"

namespace ww {
namespace {

struct Sm100a {
  using Tag = cutlass::arch::Sm100;
  using Tile = cute::Shape<cute::_128, cute::_256, cute::_256>;
  using Schedule = cutlass::gemm::KernelPtrArrayTmaWarpSpecialized1SmNvf4Sm100;
  template <typename Out>
  using EpilogueTile = cute::Shape<cute::_128, cute::Int<128 / int(sizeof(Out))>>;
  using EpilogueSchedule = cutlass::epilogue::PtrArrayTmaWarpSpecialized1Sm;
};
// Else rows are decoded to bf16 for mma.sync: this pays even where half of a tile is waste.
constexpr int64_t kLeastRows = 64;
constexpr const char* kWhen =
    "on compute capability 10.0, for NVFP4 times NVFP4 of at least 64 rows a group on average, 128"
    " columns and 128 of k, which is a multiple of 64, with codes and results on 16 bytes";
WW_BLOCK_SCALED(Sm100a, "sm_100a", "128 x 256", kWhen);

}  // namespace

const BlockScaledProduct kBlockScaledSm100a{kLeastRows, BlockScaled<Sm100a>::workspace,
                                            BlockScaled<Sm100a>::launch};

}  // namespace ww
