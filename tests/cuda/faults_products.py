# SPDX-License-Identifier: Apache-2.0
"""The faults of group products and of the experts that are made of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from faults import ALWAYS, BARRIER, FIRST, FMA, NEVER, SECOND, SELECT, STORE, TWO, Rows, when
from planted import Probe, each

import test_coded_products as coded
import test_grouped_gemm as gemm
import test_latent_moe as latent
import test_moe_mlp as mlp
from native import Case
from ptxsim.tests.oracles.mutations import MUTATIONS
from warpweave import testing as kit

BF16, F32 = torch.bfloat16, torch.float32
GEMM = "grouped_gemm/grouped_gemm_cuda.cu"
MMA = "grouped_gemm/mma_tile.cuh"
CODED = "grouped_gemm/coded_tile.cuh"
WEIGHTS = "grouped_gemm/coded_weights.cuh"
TILES = "grouped_gemm/group_tiles.cuh"
SM90A = "grouped_gemm/group_product_sm90a.cu"
SCALED = "grouped_gemm/block_scaled.cuh"
ACTIVATION = "grouped_gemm/cutlass_activation.cuh"
MLP = "moe_mlp/moe_mlp_cuda.cu"


def coded_cases(*cases: Case) -> Callable[[kit.Op], None]:
    """By the op that has them, not the one that is given."""
    return each(lambda _, case: coded.check_one(coded.product, case), *cases)


CODED_FEW = coded.make(*coded.SHAPES[1], activation=None)
NAN_SCALE = coded.make(*coded.SHAPES[2], out=F32)
NAN_SCALE["b"].block_scales.view(torch.uint8)[0, 5, 3] = 0x7F
NAN_CODE = coded.make(*coded.SHAPES[2], weights="e4m3", activation=None, out=F32)
NAN_CODE["b"].data.view(torch.uint8)[0, 5, 37] = 0x7F

MANY_NVFP4 = coded.two_groups(scales="matrix")
NEGATIVE = MANY_NVFP4 | {"b": coded.without_a_sign(MANY_NVFP4["b"], 1, 135, 7)[0]}

PROBES = {
    "product, 16 rows": Probe("grouped_gemm", "A100", each(gemm.check_product,
        gemm.make(*gemm.DEEP[0], BF16, "relu2"))),
    "product, 64 rows": Probe("grouped_gemm", "A100", each(gemm.check_product,
        gemm.make(*gemm.SHAPES[0], BF16, "relu2"), gemm.make(*gemm.DEEP[1], BF16, "relu2"))),
    "product, 128 rows": Probe("grouped_gemm", "A100", each(gemm.check_product,
        gemm.make(*gemm.DEEP[2], BF16, "relu2"))),
    "product, unaligned": Probe("grouped_gemm", "A100", each(gemm.check_product,
        gemm.make(*gemm.SHAPES[1], BF16, "relu2"), gemm.make(*gemm.SHAPES[3], BF16, "relu2"))),
    "product, 40 groups": Probe("grouped_gemm", "A100", each(gemm.check_product,
        gemm.make(*gemm.MANY[1], BF16))),
    "product, many tiles": Probe("grouped_gemm", "A100", each(gemm.check_product,
        gemm.make(*gemm.WIDE, BF16))),
    "product, fp32": Probe("grouped_gemm", "A100", each(gemm.check_product,
        gemm.make(*gemm.SHAPES[1], F32), gemm.make(*gemm.DEEP[3], F32))),
    "product, sm_90a": Probe("grouped_gemm", "H100", each(gemm.check_product,
        gemm.make(*gemm.MANY[0], BF16, "relu2"))),
    "product, sm_90a, stages": Probe("grouped_gemm", "H100", each(gemm.check_product,
        gemm.make(*gemm.DEEP[2], BF16, "relu2"))),
    "product, sm_90a, groups": Probe("grouped_gemm", "H100", each(gemm.check_product,
        gemm.tile_a_group()), check_races=0),
    "coded, 16 rows": Probe("nvfp4_matmul", "A100", coded_cases(CODED_FEW, NAN_SCALE, NAN_CODE)),
    "coded, 64 rows": Probe("nvfp4_matmul", "A100", coded_cases(
        coded.make(*coded.SHAPES[5]), coded.make(*coded.SHAPES[3]))),
    "coded, many tiles": Probe("nvfp4_matmul", "A100", coded_cases(coded.make(*coded.SHAPES[11]))),
    "coded, unaligned": Probe("nvfp4_matmul", "A100", coded_cases(coded.make(*coded.SHAPES[7]))),
    "coded, decoded rows": Probe("nvfp4_matmul", "A100", coded_cases(
        coded.make(*coded.SHAPES[2], rows="coded"))),
    "coded, e4m3 x e4m3": Probe("fp8_matmul", "H100", coded_cases(
        coded.make(*coded.SHAPES[5], rows="coded", weights="e4m3", activation=None))),
    "block-scaled": Probe("nvfp4_matmul", "RTX PRO 6000", coded_cases(MANY_NVFP4, NEGATIVE)),
    "block-scaled, stages": Probe("nvfp4_matmul", "RTX PRO 6000", coded_cases(
        coded.make(*coded.MANY[1], "coded"))),
    "block-scaled, groups": Probe("nvfp4_matmul", "RTX PRO 6000", coded_cases(
        coded.next_groups()), check_races=0),
    "experts": Probe("moe_mlp", "A100", each(mlp.check_one,
        mlp.make(*mlp.SHAPES[1]), mlp.make(*mlp.SHAPES[2]))),
    "experts, sm_90a": Probe("moe_mlp", "H100", each(mlp.check_one,
        mlp.make(*mlp.SHAPES[-1]))),
    "latent experts": Probe("latent_moe", "A100", each(latent.check_one,
        latent.make(*latent.SHAPES[3]), latent.make(*latent.SHAPES[2]))),
}  # fmt: skip

# What is planted into CUTLASS's own kernels; the tensor maps of another group need one.
COOPERATIVE = [m for m in MUTATIONS if m.entry == "sm90_cooperative"]
OF_THE_NEXT_GROUP = [
    m for m in MUTATIONS if m.entry == "sm90_grouped_bf16" and "acquire" not in m.name
]
CUTLASS = {
    "product, sm_90a, stages": COOPERATIVE,
    "product, sm_90a, groups": OF_THE_NEXT_GROUP,
    "block-scaled, stages": [m for m in MUTATIONS if m.entry == "sm120_nvfp4"],
    "block-scaled, groups": OF_THE_NEXT_GROUP,
}

ZERO = (r"mul\.lo\.s64 (\S+), [^;]*;", r"mov.u64 \1, 0;")
START = (r"mad\.lo\.s64 (\S+), \S+, \S+, (\S+);", r"mov.u64 \1, \2;")

TABLE: dict[str, dict[str, Rows]] = {
    "product, 16 rows": {MMA: (
        ("stage read before it is there", "ptx::cp_async_wait<kStages - 2>();",
         r"cp\.async\.wait_group[^;]*;"),
        ("barrier of a stage dropped", "__syncthreads();  // the stage is there", BARRIER),
        ("copies go to one stage", "copied = copied + kStageBytes == kEnd ?", SELECT, FIRST),
        ("ring of stages does not close", "multiplied = multiplied + kStageBytes == kEnd ?",
         SELECT, SECOND),
    )},
    "product, 64 rows": {MMA: (
        ("stage read before it is there", "ptx::cp_async_wait<kStages - 2>();",
         r"cp\.async\.wait_group[^;]*;"),
        ("waits for a stage less", "ptx::cp_async_wait<kStages - 2>();",
         r"cp\.async\.wait_group \d;", "cp.async.wait_group 3;"),
        ("barrier of a stage dropped", "__syncthreads();  // the stage is there", BARRIER),
        ("copies go to one stage", "copied = copied + kStageBytes == kEnd ?", SELECT, FIRST),
        ("products take one stage", "multiplied = multiplied + kStageBytes == kEnd ?",
         SELECT, FIRST),
        ("weights of the first expert", "tile.group * p.b.stride_e +\n        (tile.n0 + row)",
         r"mul\.lo\.s64 (\S+), \S+, (\S+);", r"mov.u64 \1, 0;"),
        ("columns past N", "uint32_t(tile.n0 + row + i * kRowStep < g.N)",
         r"setp\.lt\.s64", "setp.le.s64"),
        ("tail of k dropped", "const int count = left >=", SELECT, r"and.b32 \2, \4, -8;"),
        ("a row stored too many", "if (m < tile.m1) finish(g, tile.group, m, n, v);",
         r"setp\.ge\.s64", "setp.gt.s64"),
    ), TILES: (
        ("tiles of the first groups only", "if (lane >= away) sum += other;", SELECT,
         r"mov.\1 \2, 0;"),
        ("rest not set to 0", "end = group < g.E ? group_end(g, group) : g.M;", when(r"le\.s64"),
         NEVER),
        ("tiles start where the first group does", "tile.m0 = __shfl_sync(~0u, begin, owner)",
         TWO, FIRST),
        ("activation dropped", "v[i] < 0.f ? 0.f : v[i] * v[i];", r"mul\.f32 (\S+), (\S+), \S+;",
         r"mov.f32 \1, \2;"),
    )},
    "product, 128 rows": {MMA: (
        ("barrier of a stage dropped", "__syncthreads();  // the stage is there", BARRIER),
        ("a row stored too many", "if (m < tile.m1) finish(g, tile.group, m, n, v);",
         r"setp\.ge\.s64", "setp.gt.s64"),
    )},
    "product, unaligned": {MMA: (
        ("barrier of a stage dropped", "__syncthreads();  // the stage is there", BARRIER),
        ("k past the end", "if (i < count) piece.element[i] = source[i];", r"setp\.lt\.s32",
         "setp.le.s32"),
    )},
    "product, 40 groups": {TILES: (
        ("groups after the first 32 dropped", "group_ < groups; group_ += 32",
         when(r"lt\.s64"), NEVER),
    )},
    "product, many tiles": {MMA: (
        ("next tile overwrites the stages", "__syncthreads();  // the next tile", BARRIER),
    ), TILES: (
        ("tiles skipped", "next_ += gridDim.x;", r"add\.s32 (\S+), (\S+), (\S+);",
         r"add.s32 \1, \2, \3; add.s32 \1, \1, 1;"),
    )},
    "coded, 16 rows": {CODED: (
        ("stage read before it is there", "ptx::cp_async_wait<kStages - 2>();",
         r"cp\.async\.wait_group[^;]*;"),
        ("barrier of a stage dropped", "__syncthreads();  // the stage is there", BARRIER),
        ("products take one stage", "multiplied = multiplied + kStageBytes == kEnd ?",
         SELECT, FIRST),
        ("slices not added up", "acc[i % 4 / 2][i % 2][k] += __uint_as_float(v[k]);",
         r"add\.f32 (\S+), (\S+), (\S+);", r"mov.f32 \1, \3;"),
        ("sums overwrite a stage", "    __syncthreads();\n    const uint32_t at = shared +",
         BARRIER),
        ("sums read before they are there", "    __syncthreads();\n    if (slice > 0) return;",
         BARRIER),
        ("columns past N", "exists |= uint32_t(tile.n0 + column() + i * kStepB < g.N)",
         r"setp\.lt\.s64", "setp.le.s64"),
        ("a row stored too many", "if (m < tile.m1) finish(g, tile.group, m, n, v);",
         r"setp\.ge\.s64", "setp.gt.s64"),
    ), WEIGHTS: (
        ("NaN of a block scale dropped", "finite_e4m3_pair(pair) | is_nan * 0xff",
         r"mul\.lo\.s32 (\S+), [^;]*;", r"mov.u32 \1, 0;"),
        ("NaN of a weight dropped", "if (after_nan & 0x80808080) out[0] = 0x7fff7fff;",
         r"and\.b32 (\S+), [^;]*;", r"mov.u32 \1, 0;"),
        ("signs of codes dropped", "| (sign & 0x80808080)", r"and\.b32 (\S+), [^;]*;",
         r"mov.u32 \1, 0;"),
    ), TILES: (
        ("scales dropped", "v[i] = v[i] * scale[i * b.scale_stride_n] * of_row;",
         r"mul\.f32 (\S+), (\S+), \S+;", r"mov.f32 \1, \2;"),
    )},
    "coded, 64 rows": {CODED: (
        ("barrier of a stage dropped", "__syncthreads();  // the stage is there", BARRIER),
        ("weights of the first expert",
         "tile.group * p.b.stride_e +\n        (tile.n0 + column()) * p.b.stride_n",
         r"mul\.lo\.s64 (\S+), \S+, (\S+);", r"mov.u64 \1, 0;"),
        ("tail of k dropped", "return max(min(left - first, most), 0);", r"min\.s32", "max.s32"),
    )},
    "coded, many tiles": {CODED: (
        ("next tile overwrites the stages", "__syncthreads();  // the next tile", BARRIER),
    )},
    "coded, unaligned": {CODED: (
        ("codes past the end", "if (i < count) piece.element[i] = source[i];",
         r"setp\.(lt|gt)\.s32", r"setp.ne.s32"),
    )},
    "coded, decoded rows": {GEMM: (
        ("last row not decoded", "for (int64_t m = warp; m < count; m += warps)",
         r"setp\.ge\.s64 (\S+), (\S+), (\S+);", r"setp.ge.s64 \1, \2, 1;"),
        ("block scales dropped", "d.rows.block_scales[m * d.rows.block_stride_n + i / 8].bits",
         r"ld\.global\.u8 (\S+), [^;]*;", r"mov.u16 \1, 56;"),
    )},
    "coded, e4m3 x e4m3": {MMA: (
        ("sums of a stage dropped", "acc[i / 16][i / 4 % 4][i % 4] +=",
         r"add\.f32 (\S+), (\S+), (\S+);", r"mov.f32 \1, \3;"),
        ("barrier of a stage dropped", "__syncthreads();  // the stage is there", BARRIER),
    )},
    "product, fp32": {GEMM: (
        ("slab overwritten while it is read",
         "        __syncthreads();\n#pragma unroll\n        for (int j = 0; j < kTile", BARRIER),
        ("slab read before it is there",
         "slab_b[tx][row] = b;\n        }\n        __syncthreads();", BARRIER),
        ("k past the end",
         "if (m < tile.m1 && k < p.K)\n            a = static_cast<const float*>(p.a)"
         "[(p.rows ? p.rows[m] : m) * p.a_stride + k];\n          if (n < g.N && k < p.K)",
         r"setp\.ge\.s64", "setp.gt.s64"),
        ("halves of a slab not added up", "part[m][n] += sum[m][n];",
         r"add\.f32 (\S+), (\S+), \S+;", r"mov.f32 \1, \2;"),
        ("slabs not added up", "acc[m][n] += part[m][n]",
         r"add\.f32 (\S+), (\S+), \S+;", r"mov.f32 \1, \2;"),
        ("a row stored too many", "if (tile.m0 + ty * 4 + m < tile.m1)",
         r"setp\.ge\.s64", "setp.gt.s64"),
    )},
    "product, sm_90a": {SM90A: (
        ("group's rows start at 0", "to.a[e] =", r"mul\.lo\.s64 (\S+), [^;]*;", r"mov.u64 \1, 0;"),
        ("weights of the first expert", "to.b[e] =", r"mul\.lo\.s64 (\S+), [^;]*;",
         r"mov.u64 \1, 0;"),
        ("results of another group", "to.out[e] =", r"mul\.lo\.s64 (\S+), [^;]*;",
         r"mov.u64 \1, 0;"),
        ("a row too many in a group", "to.extents[e] = {int(end - begin)",
         r"sub\.s64 (\S+), (\S+), (\S+);", r"sub.s64 \1, \2, \3; add.s64 \1, \1, 1;"),
        ("rest not set to 0", "if (g.zero_rest)", when(r"eq\.s16"), ALWAYS),
        ("last columns of the rest", "i < g.N * (out_bytes / 2); i += 32",
         r"setp\.(lt)\.s64 (\S+), (\S+), (\S+);", r"setp.eq.u32 \2, 0, 1;"),
    ), ACTIVATION: (
        ("activation dropped", "return v < 0.f ? 0.f : v * v;",
         r"mul\.f32 (\S+), (\S+), \S+;", r"mov.f32 \1, \2;"),
    )},
    "block-scaled": {SCALED: (
        ("group's rows start at 0", "to.a[e] =", *START),
        ("weights of the first expert", "to.b[e] =", *START),
        ("scales of the first group's rows", "to.a_scales[e] =", *START),
        ("scales of the first expert", "to.b_scales[e] =", *START),
        ("scales of rows start at 0", "to.row_scale[e] =", *ZERO),
        ("scale of the first expert", "to.column_scale[e] =", *ZERO),
        ("results of another group", "to.out[e] =", *ZERO),
        ("a row too many in a group", "const int rows = is_negative ? 0 : int(end - begin)",
         r"sub\.s32 (\S+), (\S+), (\S+);", r"sub.s32 \1, \2, \3; add.s32 \1, \1, 1;"),
        ("tiles of scales closer", "tile + word * kScaleTile + r * 16",
         r"shl\.b64 (\S+), (\S+), 9;", r"shl.b64 \1, \2, 8;"),
        ("next tile of scales over the first", "(tile.m0 - begin) / kTileRows",
         r"sub\.s64 (\S+), (\S+), (\S+);", r"mov.u64 \1, 0;"),
        ("scales past the last row", "v[i] = r + 32 * i >= rows", when(r"\w+\.s64"), NEVER),
        ("signs of scales not noticed", "bits & 0x80808080", r"and\.b32 (\S+), [^;]*;",
         r"mov.u32 \1, 0;"),
        ("nothing left to another kernel", "to.left[e] = is_negative ? end : 0;", SELECT,
         r"mov.u64 \2, 0;"),
        ("rest not set to 0", "if (!g.zero_rest) return;", when(r"\w+\.\w16"), ALWAYS),
    ), ACTIVATION: (
        ("activation dropped", "return v < 0.f ? 0.f : v * v;",
         r"mul\.f32 (\S+), (\S+), \S+;", r"mov.f32 \1, \2;"),
    )},
    "experts": {MLP: (
        ("no expert is expert 0", "return e >= 0 && e < p.E ? int(e) : -1;", SELECT,
         r"max.s32 \2, \3, 0;"),
        ("counted before the counters are 0",
         "__syncthreads();\n  for_pairs(p, pairs, [&](uint32_t, int e) {", BARRIER),
        ("summed before all is counted", "  __syncthreads();\n  int before", BARRIER),
        ("sums of warps read too early", "if (lane == 31) warps[warp] = sum;\n    __syncthreads();",
         BARRIER),
        ("placed before the starts are there", "__syncthreads();  // warps[] is", BARRIER),
        ("starts of the next expert", "count[e] = start + sum - mine;",
         r"sub\.s32 (\S+), (\S+), \S+;", r"mov.u32 \1, \2;"),
        ("the choice is taken for the token", "int(i / uint32_t(p.top_k));",
         r"div\.u32 (\S+), (\S+), \S+;", r"mov.u32 \1, \2;"),
        ("places read before they are there",
         "p.weights[pair]};\n  }\n  __syncthreads();", BARRIER),
        ("no expert is added", "weighted_sums<T, V>(choice, choices - absent, p.K, out);",
         r"sub\.s32 (\S+), (\S+), \S+;", r"mov.u32 \1, \2;"),
        ("weight is 1", "p.weights[pair]};\n  }",
         r"ld\.global\.f32 (\S+), [^;]*;", r"mov.f32 \1, 0f3F800000;"),
        ("choices not summed", "sum[j] = fmaf(choice[i].weight, v[j], sum[j]);", FMA,
         r"mul.f32 \1, \2, \3;"),
    )},
    "experts, sm_90a": {SM90A: (
        ("rows not gathered", "static_cast<const bf16_t*>(p.a) + p.rows[m] * p.a_stride;",
         r"ld\.global\.s32 (\S+), [^;]*;", r"mov.u64 \1, 0;"),
        ("tail of a gathered row dropped", "if (k + i * kStep < p.K) store_packed", STORE, "", 0),
        ("last gathered row dropped", "for (int64_t m = warp; m < grouped; m += warps)",
         r"setp\.ge\.s64 (\S+), (\S+), (\S+);", r"setp.gt.s64 \1, \3, \2;"),
    )},
    "latent experts": {MMA: (
        ("second part dropped", "for (int i = 0; tile.group < g.E && i < g.parts; ++i)\n      n +=",
         r"add\.s64 (%rd\d+), %rd\d+, \1;", r""),
        ("part taken again", "do ++part;", r"add\.s32 (\S+), (\S+), 1;", r"mov.u32 \1, 0;"),
    ), TILES: (
        ("routed results not added",
         "v[i] += is_f32 ? static_cast<const float*>(g.addend)[first + i]",
         r"add\.f32 (\S+), \S+, \1;"),
    )},
}  # fmt: skip
