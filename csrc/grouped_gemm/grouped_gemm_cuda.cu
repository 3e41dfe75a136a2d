// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels for sm_80 and later, and the rule by which sm_90a's own (group_product_sm90a.cu)
// come before them.
//
//   bf16  mma.m16n8k16 on tiles of 16, 64 or 128 rows and 128 columns, 64 elements of k a stage,
//         copied by cp.async several stages ahead
//   f32   fused multiply-adds on tiles of 64 x 64: tensor cores have no fp32 products
//
// A stage holds rows of 64 elements, 128 bytes, in 8 pieces of 16 bytes whose places are permuted so
// that what ldmatrix takes at once lies in 8 different ones.
#include "core/cuda/launch.h"
#include "grouped_gemm/group_product_sm90a.h"
#include "grouped_gemm/group_tiles.cuh"
#include "grouped_gemm/grouped_gemm.h"

namespace ww {
namespace {

constexpr int kColumns = 128;
constexpr int kDepth = 64;  // of a stage
constexpr int kPieces = kDepth / kVector<bf16_t>;
constexpr int kWarpColumns = 32;

// Rows of a are read by ldmatrix in order; those of b such that each lane gets results of 8
// neighbouring columns: tile j of the warp's four has columns 8q + 2j and 8q + 2j + 1, q = 0..3.
__device__ inline uint32_t key_a(int row) { return row % 8; }
__device__ inline uint32_t key_b(int row) { return row % 2 + row / 8 % 4 * 2; }
__device__ inline uint32_t place(int row, uint32_t piece, uint32_t key) {
  return row * kDepth * 2 + (piece ^ key) * 16;
}

template <int kRows, int kStages, bool kAligned>
struct MmaTile {
  static constexpr int kWarpRows = kRows < 64 ? kRows : 64;
  static constexpr int kThreads = kRows / kWarpRows * (kColumns / kWarpColumns) * 32;
  static constexpr int kStageBytes = (kRows + kColumns) * kDepth * 2;
  static constexpr int kRowStep = kThreads / kPieces;  // a thread copies piece tid % 8 of each row
  static constexpr int kCopiesA = kRows / kRowStep, kCopiesB = kColumns / kRowStep;

  const GroupProduct& g;
  uint32_t shared;
  Tile tile;
  // Of the part that is copied now: where this thread's pieces start, what is left of it in k, and
  // which of its rows exist (bit i: row i of a; bit 16 + i: of b).
  const bf16_t* a[kCopiesA];
  const bf16_t* b;
  int64_t b_step, left;
  uint32_t exists;
  int part;
  // Where it puts them in a stage, and where its lane reads fragments, as offsets and keys.
  uint32_t to_a, to_b, from_a, from_b, key_of_a, key_of_b;

  __device__ MmaTile(const GroupProduct& g, uint32_t shared) : g(g), shared(shared) {
    const int row = threadIdx.x / kPieces, piece = threadIdx.x % kPieces;
    static_assert(kRowStep % 8 == 0, "a thread's rows have one key");
    to_a = place(row, piece, key_a(row));
    to_b = kRows * kDepth * 2 + row * kDepth * 2;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int m = warp / (kColumns / kWarpColumns) * kWarpRows + lane % 16;
    const int n = warp % (kColumns / kWarpColumns) * kWarpColumns + lane % 8 / 2 * 8 +
                  lane / 16 * 2 + lane % 2;
    from_a = m * kDepth * 2, key_of_a = (lane / 16 ^ key_a(m)) * 16;
    from_b = (kRows + n) * kDepth * 2, key_of_b = (lane / 8 % 2 ^ key_b(n)) * 16;
  }

  __device__ void start_part() {
    const ProductPart& p = g.part[part];
    const int row = threadIdx.x / kPieces, first = threadIdx.x % kPieces * kVector<bf16_t>;
    exists = 0;
#pragma unroll
    for (int i = 0; i < kCopiesA; ++i) {
      const int64_t m = tile.m0 + row + i * kRowStep;
      const bool is_row = m < tile.m1;
      const int64_t source = !is_row ? 0 : (p.rows ? p.rows[m] : m);
      a[i] = static_cast<const bf16_t*>(p.a) + source * p.a_stride + first;
      exists |= uint32_t(is_row) << i;
    }
    b = static_cast<const bf16_t*>(p.b) + tile.group * p.b_stride_e +
        (tile.n0 + row) * p.b_stride_n + first;
    b_step = kRowStep * p.b_stride_n;
#pragma unroll
    for (int i = 0; i < kCopiesB; ++i)
      exists |= uint32_t(tile.n0 + row + i * kRowStep < g.N) << (16 + i);
    left = p.K - first;
  }

  // 16 bytes from `source`, of which only the first `count` elements are there.
  __device__ static void copy(uint32_t to, const bf16_t* source, const void* any, int count) {
    if constexpr (kAligned) {
      ptx::cp_async(to, count ? source : any, count * 2);
    } else {
      union {
        uint4 words = {};
        bf16_t element[kVector<bf16_t>];
      } piece;
#pragma unroll
      for (int i = 0; i < kVector<bf16_t>; ++i)
        if (i < count) piece.element[i] = source[i];
      ptx::store_shared(to, piece.words);
    }
  }

  // Starts the copy of the next kDepth elements of k into the stage, and moves on.
  __device__ void copy_stage(uint32_t stage) {
    if (part < 0 || left <= -int(threadIdx.x % kPieces * kVector<bf16_t>)) {
      do ++part;
      while (g.part[part].K == 0);
      start_part();
    }
    const ProductPart& p = g.part[part];
    const int row = threadIdx.x / kPieces, piece = threadIdx.x % kPieces;
    const int count = left >= kVector<bf16_t> ? kVector<bf16_t> : (left > 0 ? int(left) : 0);
#pragma unroll
    for (int i = 0; i < kCopiesA; ++i) {
      copy(stage + to_a + i * kRowStep * kDepth * 2, a[i], p.a, exists >> i & 1 ? count : 0);
      a[i] += kDepth;
    }
    const bf16_t* source = b;
#pragma unroll
    for (int i = 0; i < kCopiesB; ++i, source += b_step)
      copy(stage + to_b + i * kRowStep * kDepth * 2 + (piece ^ key_b(row + i * kRowStep)) * 16,
           source, p.b, exists >> (16 + i) & 1 ? count : 0);
    b += kDepth, left -= kDepth;
  }

  __device__ void multiply_stage(uint32_t stage, float (&acc)[kWarpRows / 16][4][4]) const {
#pragma unroll
    for (uint32_t step = 0; step < kDepth / 16; ++step) {
      uint32_t fa[kWarpRows / 16][4], fb[2][4];
      const uint32_t at_a = stage + from_a + (key_of_a ^ step * 32);
      const uint32_t at_b = stage + from_b + (key_of_b ^ step * 32);
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; ++i) ptx::ldmatrix(fa[i], at_a + i * 16 * kDepth * 2);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) ptx::ldmatrix(fb[pair], at_b + pair * 4 * kDepth * 2);
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          ptx::mma_bf16(acc[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
    }
  }

  __device__ void store(const float (&acc)[kWarpRows / 16][4][4]) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t n =
        tile.n0 + warp % (kColumns / kWarpColumns) * kWarpColumns + lane % 4 * kVector<bf16_t>;
#pragma unroll
    for (int i = 0; i < kWarpRows / 16; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t m =
            tile.m0 + warp / (kColumns / kWarpColumns) * kWarpRows + i * 16 + half * 8 + lane / 4;
        float v[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) v[j] = acc[i][j / 2][half * 2 + j % 2];
        if (m < tile.m1) finish<bf16_t>(g, m, n, v);
      }
  }

  __device__ int64_t stages() const {
    int64_t n = 0;
    for (int i = 0; tile.group < g.E && i < g.parts; ++i) n += (g.part[i].K + kDepth - 1) / kDepth;
    return n;
  }

  __device__ void run() {
    float acc[kWarpRows / 16][4][4] = {};
    int64_t to_copy = stages(), to_multiply = to_copy;
    constexpr uint32_t kEnd = kStages * kStageBytes;
    uint32_t copied = 0, multiplied = 0;  // stages as offsets
    part = -1;
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s, copied += kStageBytes) {
      if (to_copy > 0) copy_stage(shared + copied), --to_copy;
      ptx::cp_async_commit();
    }
#pragma unroll 1
    for (; to_multiply > 0; --to_multiply) {
      ptx::cp_async_wait<kStages - 2>();
      __syncthreads();  // the stage is there for all, and all have left the one before
      if (to_copy > 0) copy_stage(shared + copied), --to_copy;
      ptx::cp_async_commit();
      multiply_stage(shared + multiplied, acc);
      copied = copied + kStageBytes == kEnd ? 0 : copied + kStageBytes;
      multiplied = multiplied + kStageBytes == kEnd ? 0 : multiplied + kStageBytes;
    }
    store(acc);
    __syncthreads();  // the next tile's copies overwrite the stages
  }
};

template <int kRows, int kStages, bool kAligned>
__global__ void __launch_bounds__(MmaTile<kRows, kStages, kAligned>::kThreads)
    product_bf16(const __grid_constant__ GroupProduct g) {
  extern __shared__ __align__(128) uint8_t memory[];
  MmaTile<kRows, kStages, kAligned> work(g, ptx::shared_address(memory));
  TileWalk<kRows, kColumns> walk(g);
  while (walk.next(work.tile)) work.run();
}

// --- fp32 ---

constexpr int kTile = 64, kSlab = 16, kThreads32 = 256;

__global__ void __launch_bounds__(kThreads32) product_f32(const __grid_constant__ GroupProduct g) {
  __shared__ __align__(16) float slab_a[kSlab][kTile + 4], slab_b[kSlab][kTile + 4];
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  TileWalk<kTile, kTile> walk(g);
  for (Tile tile; walk.next(tile);) {
    float acc[4][4] = {};
    for (int i = 0; tile.group < g.E && i < g.parts; ++i) {
      const ProductPart& p = g.part[i];
      for (int64_t k0 = 0; k0 < p.K; k0 += kSlab) {
        __syncthreads();
#pragma unroll
        for (int j = 0; j < kTile * kSlab / kThreads32; ++j) {
          const int row = ty + j * 16;  // 16 neighbouring threads read neighbouring k
          const int64_t m = tile.m0 + row, n = tile.n0 + row, k = k0 + tx;
          float a = 0.f, b = 0.f;
          if (m < tile.m1 && k < p.K)
            a = static_cast<const float*>(p.a)[(p.rows ? p.rows[m] : m) * p.a_stride + k];
          if (n < g.N && k < p.K)
            b = static_cast<const float*>(p.b)[tile.group * p.b_stride_e + n * p.b_stride_n + k];
          slab_a[tx][row] = a, slab_b[tx][row] = b;
        }
        __syncthreads();
        // Two short chains of the slab on its own: the error grows with the slabs, not with k.
        float sum[2][4][4] = {};
#pragma unroll
        for (int k = 0; k < kSlab; ++k) {
          float a[4], b[4];
          widen<float>(load_packed<float, 4>(&slab_a[k][ty * 4]), a);
          widen<float>(load_packed<float, 4>(&slab_b[k][tx * 4]), b);
#pragma unroll
          for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int n = 0; n < 4; ++n) sum[k % 2][m][n] = fmaf(a[m], b[n], sum[k % 2][m][n]);
        }
#pragma unroll
        for (int m = 0; m < 4; ++m)
#pragma unroll
          for (int n = 0; n < 4; ++n) acc[m][n] += sum[0][m][n] + sum[1][m][n];
      }
    }
#pragma unroll
    for (int m = 0; m < 4; ++m)
      if (tile.m0 + ty * 4 + m < tile.m1)
        finish<float>(g, tile.m0 + ty * 4 + m, tile.n0 + tx * 4, acc[m]);
  }
}

// --- Launch ---

template <int kRows, int kStages>
struct Variant {
  CudaKernel<GroupProduct> kernel[2];  // pieces are aligned, or not
  static constexpr int kThreads = MmaTile<kRows, kStages, true>::kThreads;
  static constexpr int kSharedBytes = kStages * MmaTile<kRows, kStages, true>::kStageBytes;
  static constexpr int kTileRows = kRows;
};
const Variant<16, 4> kFew{
    {{"grouped_gemm", "16 rows", "bfloat16", product_bf16<16, 4, true>},
     {"grouped_gemm", "16 rows, unaligned", "bfloat16", product_bf16<16, 4, false>}}};
const Variant<64, 3> kSome{
    {{"grouped_gemm", "64 rows", "bfloat16", product_bf16<64, 3, true>},
     {"grouped_gemm", "64 rows, unaligned", "bfloat16", product_bf16<64, 3, false>}}};
const Variant<128, 3> kMany{
    {{"grouped_gemm", "128 rows", "bfloat16", product_bf16<128, 3, true>},
     {"grouped_gemm", "128 rows, unaligned", "bfloat16", product_bf16<128, 3, false>}}};
const CudaKernel<GroupProduct> kProductF32{"grouped_gemm", "64 x 64", "float32", product_f32};

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

bool is_aligned(const GroupProduct& g) {
  for (int i = 0; i < g.parts; ++i) {
    const ProductPart& p = g.part[i];
    if (reinterpret_cast<uintptr_t>(p.a) % 16 || reinterpret_cast<uintptr_t>(p.b) % 16)
      return false;
    for (int64_t n : {p.a_stride, p.b_stride_e, p.b_stride_n})
      if (n % kVector<bf16_t>) return false;
  }
  return true;
}

template <typename V>
cudaError_t launch_bf16(const V& variant, const GroupProduct& g, cudaStream_t stream) {
  return launch_persistent(variant.kernel[!is_aligned(g)], g, V::kTileRows, kColumns, V::kThreads,
                           V::kSharedBytes, stream);
}

// --- The choice between the above and the kernels of sm_90a ---

#if defined(WW_SM90A_GROUP_PRODUCT)
constexpr bool kHasSm90a = true;
#else
constexpr bool kHasSm90a = false;
#endif
constexpr int kManyRows = 64;  // of a group: below, most of a tile of 128 rows would be waste

int64_t rows_of_a_group(const GroupProduct& g) {  // if they are spread evenly
  return g.E > 0 ? g.M / g.E : g.M;
}

// TMA's strides: multiples of 16 bytes below 2^40, and rows that do not overlap.
bool is_tma_stride(int64_t stride, int64_t row, int64_t size) {
  return stride >= row && stride * size % 16 == 0 && stride * size < int64_t(1) << 40;
}

// Why the kernels above take what a Hopper device was given; null if its own do. For people
// it is kWhen of group_product_sm90a.cu.
const char* why_not_sm90a(const GroupProduct& g, DType dtype) {
  const int64_t out_size = g.out_dtype == DType::f32 ? 4 : 2;
  const bool is_sum = g.parts == 2 || g.addend;
  if (!kHasSm90a) return "this build has none for sm_90a";
  if (dtype != DType::bf16) return "operands are not bfloat16";
  if (g.parts == 0) return "it is no product";
  if (g.parts == 2 && g.addend) return "it is a sum of three";
  if (g.parts == 2 && !g.partial) return "it is a sum of products and there is no place for one";
  if (is_sum && out_size == 4) return "it is a sum in float32";
  if (rows_of_a_group(g) < kManyRows) return "there are less than 64 rows a group";
  if (g.M > INT32_MAX || g.N > INT32_MAX) return "an extent is above 2^31";
  bool on_16_bytes = is_aligned(g) && is_tma_stride(g.out_stride, g.N, out_size) &&
                     reinterpret_cast<uintptr_t>(g.out) % 16 == 0;
  if (is_sum)
    on_16_bytes &= g.N % kVector<bf16_t> == 0 && reinterpret_cast<uintptr_t>(g.addend) % 16 == 0;
  for (int i = 0; i < g.parts; ++i) {
    const ProductPart& p = g.part[i];
    if (g.N < kColumns || p.K < kDepth) return "a group has less than 128 columns or 64 of k";
    if (p.K > INT32_MAX) return "an extent is above 2^31";
    if (p.rows && (g.parts == 2 || !g.gathered))
      return "rows are named by an index and there is no place for them";
    on_16_bytes &= is_tma_stride(p.rows ? p.K : p.a_stride, p.K, 2);
    on_16_bytes &= is_tma_stride(p.b_stride_n, p.K, 2);
  }
  if (!on_16_bytes) return "rows are not on 16 bytes, or overlap";
  return nullptr;
}

}  // namespace

int64_t group_product_workspace(int64_t groups) {
  int capability;
  return kHasSm90a && compute_capability(&capability) == cudaSuccess && capability == 90
             ? sm90a_group_product_workspace(groups)
             : 0;
}

cudaError_t launch_group_product(const GroupProduct& g, DType dtype, cudaStream_t stream) {
  if (g.M == 0 || g.N == 0) return cudaSuccess;
  int capability;
  const cudaError_t status = compute_capability(&capability);
  if (status != cudaSuccess) return status;
  const char* why = capability == 90 ? why_not_sm90a(g, dtype) : "";
  const Because because(why ? why : "");
  if (!why) return launch_sm90a_group_product(g, stream);
  if (dtype == DType::f32)
    return launch_persistent(kProductF32, g, kTile, kTile, kThreads32, 0, stream);
  const int64_t rows = rows_of_a_group(g);
  if (rows <= 16) return launch_bf16(kFew, g, stream);
  return rows <= 64 ? launch_bf16(kSome, g, stream) : launch_bf16(kMany, g, stream);
}

}  // namespace ww

WW_EXPORT int64_t ww_grouped_gemm_workspace(const ww::GroupedGemmParams* p) {
  return ww::group_product_workspace(p->E);
}
WW_EXPORT int ww_grouped_gemm(const ww::GroupedGemmParams* params, void* stream) {
  const ww::GroupedGemmParams& p = *params;
  ww::GroupProduct g{};
  g.M = p.M, g.N = p.N, g.E = p.E;
  g.ends = p.offsets, g.ends_is_int64 = p.offsets_is_int64, g.zero_rest = true;
  g.relu2 = p.relu2;
  g.parts = 1;
  g.part[0] = {p.a.data, p.a.stride_n, nullptr, p.b.data, p.b.stride_e, p.b.stride_n, p.K};
  g.out = p.out, g.out_stride = p.out_stride_m, g.out_dtype = p.dtype;
  g.workspace = p.workspace;
  return launch_group_product(g, p.dtype, static_cast<cudaStream_t>(stream));
}
