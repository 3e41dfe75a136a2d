# SPDX-License-Identifier: Apache-2.0
"""The faults of ssd_scan's kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from faults import (
    ADDEND,
    ALWAYS,
    BARRIER,
    FIRST,
    FMA,
    NEVER,
    SECOND,
    SELECT,
    TWO,
    Rows,
    when,
)  # fmt: skip
from planted import Probe

import test_ssd_scan as scan
from native import Case, check_case
from plain_ssd import plain_ssd_scan
from warpweave import reference as ref
from warpweave import testing as kit

BF16, F32 = torch.bfloat16, torch.float32
STREAM = "ssd_scan/ssd_stream.cuh"
HOPPER = "ssd_scan/ssd_hopper.cuh"
CHUNK = "ssd_scan/ssd_chunk.cuh"
SEGMENTS = "ssd_scan/ssd_segments.cuh"
RECURRENT = "ssd_scan/ssd_recurrent.cuh"
SEQUENCES = "ssd_scan/ssd_sequences.cuh"


def remembered(op: Callable[..., Any]) -> Callable[..., Any]:
    """For calls that differ in dtype only."""
    results: dict[torch.dtype, Any] = {}

    def call(**case: Any) -> Any:
        dtype = case["x"].dtype
        if dtype not in results:
            results[dtype] = op(**case)
        return results[dtype]

    return call


def checks(*cases: Case) -> Callable[[kit.Op], None]:
    """scan.check_one() on each, with references that are computed once."""
    references = [
        [remembered(f) for f in (ref.ssd_scan, plain_ssd_scan, scan.magnitudes)] for _ in cases
    ]

    def check(op: kit.Op) -> None:
        for case, (reference, plain, terms) in zip(cases, references, strict=True):
            check_case(op, reference, case, plain=plain, terms=terms, by_row=True)

    return check


def check_nan(op: kit.Op) -> None:
    for where in ("x", "B"):
        scan.test_nan_and_inf_reach_what_the_recurrence_reaches("", BF16, where)


SEGMENTED = scan.make(1, 800, 1, 64, 1, 128, 64, BF16, "s")
PROBES = {
    "scan, stream": Probe("ssd_scan", "A100", checks(
        scan.make(*scan.TILES[1], BF16, "sz"), scan.make(*scan.TILES[1], BF16, "csz"),
        scan.make(*scan.TILES[2], BF16, "i"))),
    "scan, stream, groups": Probe("ssd_scan", "A100", checks(
        scan.make(*scan.SHAPES[0], BF16, "s"))),
    "scan, stream, one buffer": Probe("ssd_scan", "A100", checks(
        scan.make(*scan.TILES[5], BF16, "sz"))),
    "scan, stream, NaN": Probe("ssd_scan", "A100", check_nan),
    "scan, hopper": Probe("ssd_scan", "H100", checks(
        scan.make(*scan.TILES[1], BF16, "sz"), scan.make(*scan.TILES[1], BF16, "csz"),
        scan.make(*scan.TILES[6], BF16, "s"), scan.make(*scan.SHAPES[3], BF16, "siz"))),
    "scan, hopper, NaN": Probe("ssd_scan", "H100", check_nan),
    "scan, segments": Probe("ssd_scan", "A100", checks(SEGMENTED)),
    "scan, segments, sequences": Probe("ssd_scan", "H100", checks(
        scan.make(1, 800, 1, 64, 1, 64, 64, BF16, "siz")), check_races=0),
    "scan, segments, hopper": Probe("ssd_scan", "H100", checks(SEGMENTED)),
    "scan, recurrent": Probe("ssd_scan", "A100", checks(
        scan.make(*scan.SHAPES[1], BF16, "sz"), scan.make(*scan.SHAPES[2], BF16, "i"),
        scan.make(*scan.SHAPES[2], BF16, "csz"), scan.make(1, 150, 2, 32, 1, 16, 64, F32, "siz"))),
}  # fmt: skip

MASK = "w[0] = column > row ? 0.f : w[0], w[1] = column + 1 > row ? 0.f : w[1];\n      w[2]"
UNMASK = r"selp\.f32 (\S+), (?:0f00000000, (%f\d+)|(%f\d+), 0f00000000), \S+;"
SCALE = r"mul\.f32 (\S+), \S+, \1;|mul\.f32 (\S+), \2, \S+;"
FENCE = r"fence\.proxy\.async[^;]*;"
NAMED = r"barrier\.cta\.sync[^;]*;"
WGMMA_WAIT = r"wgmma\.wait_group[^;]*;"
ARRIVE = r"mbarrier\.arrive[^;]*;"
TRY = r"mbarrier\.try_wait\.parity\.shared\.b64 p, (\S+), (%r\d+);"
EXPECT = r"(mbarrier\.expect_tx\S* \S+) (%r\d+);"

TABLE: dict[str, dict[str, Rows]] = {
    "scan, stream": {STREAM: (
        ("chunk read before it is there", "__syncthreads();  // the chunk is there", BARRIER),
        ("copies not awaited", "ptx::cp_async_wait<0>();", r"cp\.async\.wait_group[^;]*;"),
        ("state written while C is read", "__syncthreads();  // C is read", BARRIER),
        ("state read before it is written", "__syncthreads();  // the state is written", BARRIER),
        ("decays of the other chunk", "const Decays& d = small.decays[turn % 2];",
         r"and\.b32 (\S+), (\S+), 1;", r"not.b32 \1, \2; and.b32 \1, \1, 1;"),
        ("next chunk over this one", "const Decays& d = small.decays[turn % 2];\n"
         "      ptx::cp_async_wait<0>();\n      __syncthreads();  // the chunk is there\n"
         "      if (next.length && kBuffers > 1) {\n        copy_xb(next, turn + 1);",
         r"(?:xor\.b32 (\S+), (\S+), 1|not\.b32 (\S+), (\S+));", r"mov.u32 \1\3, \2\4;"),
        ("tail of the row not masked", "const bool exists = row < length && piece * 8 < width;",
         when("(?:lt|ge).s32"), ALWAYS),
        ("state not decayed", "state[m][n][i] *= decay;", TWO, FIRST),
        ("outputs without the state", "if (has_state) {", when(r"eq\.s16"), ALWAYS),
        ("state of an output not decayed", "y[n][0] *= low, y[n][1] *= low",
         r"mul\.f32 (\S+), (\S+), \S+;", r"mov.f32 \1, \2;"),
        ("weights of B dropped", "f[0] = scaled(f[0], low), f[1] = scaled(f[1], high);",
         r"mul\.f32 (\S+), (\S+), \S+;", r"mov.f32 \1, \2;"),
        ("columns of the state past P", "if (row < p.P && column < p.N)", r"setp\.(ge|le)\.s64",
         r"setp.eq.s64"),
    ), CHUNK: (
        ("no mask", "if (u == warp) {  // later tokens, whose decay may be infinite\n"
         "      const int column = half * 8 + quad * 2;\n      " + MASK, UNMASK,
         r"mov.f32 \1, \2\3;"),
        ("D dropped", "y[n][2 * half] = fmaf(D.x, v[0], y[n][2 * half]);", FMA, ADDEND),
        ("an output past the end", "token + 8 * half < c.length ?", r"setp\.lt\.s32",
         "setp.le.s32"),
        ("decay between blocks wrong", "const double row = __shfl_sync(~0u, start, lane / 4 * 8),",
         r"shfl\.sync\.idx\.b32 (\S+)\|\S+, (\S+), [^;]*;", r"mov.b32 \1, \2;"),
        ("decays of neighbours not summed", "if (lane >= away) sum += other;",
         TWO, FIRST),
        ("a chunk's last decay dropped", "d.out[j] =", r"sub\.f64 (\S+), \S+, \S+;",
         r"mov.f64 \1, 0d0000000000000000;"),
        ("dt dropped", "d.column[j] =", r"sub\.f32 (\S+), (\S+), \S+;", r"mov.f32 \1, \2;"),
        ("a chunk over two sequences", "idx[i] != idx[i - 1]", when(r"ne\.s32"), NEVER),
        ("a sequence cut a token late", "if (changes) length",
         r"bfind\.shiftamt\.u32 (\S+), \S+;", r"\g<0> add.s32 \1, \1, 1;"),
    ), SEQUENCES: (
        ("state carried over a new sequence", "return idx[0] != idx[-1];", when(r"ne\.s32"), NEVER),
        ("dt_bias dropped", "p.dt_bias[h] : 0.f", when(r"eq\.s64"), ALWAYS),
        ("packed sequences start at 0", "const int64_t begin = offset(row),",
         r"min\.s64 (\S+), [^;]*;", r"mov.u64 \1, 0;", 0),
    )},
    "scan, stream, groups": {STREAM: (
        ("group of another head", "const int64_t g = uint32_t(h)", r"div\.u32 (\S+), [^;]*;",
         r"mov.u32 \1, 0;", 1),
    )},
    "scan, stream, one buffer": {STREAM: (
        ("next chunk over this one", "__syncthreads();  // X and B are read", BARRIER),
    )},
    "scan, stream, NaN": {CHUNK: (
        ("NaN reaches earlier tokens", "return poison != 0.f;", when(r"neu\.f32"), NEVER),
    ), STREAM: (
        ("parts read before they are there",
         "        __syncthreads();\n        const int column = threadIdx.x;", BARRIER),
        ("parts overwritten while they are read", "        __syncthreads();\n      }\n    }\n  }\n",
         BARRIER),
        ("state not decayed", "s = fmaf(in[k / 2], from_b[k % 2], s * decay);",
         r"mul\.f32 (\S+), \S+, (\S+);", r"mov.f32 \1, \2;"),
    )},
    "scan, hopper": {HOPPER: (
        ("chunk read before it is there", "ptx::mbarrier_wait(full(), turn / kStages % 2);",
         TRY, "setp.eq.u32 p, 0, 0;"),
        ("wrong parity of a full stage", "ptx::mbarrier_wait(full(), turn / kStages % 2);",
         TRY, r"xor.b32 \2, \2, 1; mbarrier.try_wait.parity.shared.b64 p, \1, \2;"),
        ("stage loaded while it is read", "ptx::mbarrier_wait(empty(), turn / kStages % 2 ^ 1);",
         TRY, "setp.eq.u32 p, 0, 0;"),
        ("stage not given back", "ptx::mbarrier_arrive(empty());\n        if (kOutputs && by_tma)",
         ARRIVE),
        ("half of C not expected", "outputs ? kStageBytes : kStageBytes - kBlocks * kBytes",
         EXPECT, r"sub.u32 \2, \2, 8192; \1 \2;"),
        ("more expected than comes", "outputs ? kStageBytes : kStageBytes - kBlocks * kBytes",
         EXPECT, r"add.u32 \2, \2, 16; \1 \2;"),
        ("fence of the state dropped", "store_tiles(state_at(0), state);\n    ptx::fence_async();",
         FENCE),
        ("barrier of the state dropped", "ptx::fence_async();\n    sync();", NAMED),
        ("outputs see a stale state", "        publish_state();\n      else\n        sync();",
         r"stmatrix[^;]*;"),
        ("products of C not awaited", "ptx::wgmma_wait<1>();", WGMMA_WAIT),
        ("products of the state not awaited for Y",
         "ptx::wgmma_wait<0>();\n    ptx::pin(y);\n    const float in[2]", WGMMA_WAIT),
        ("outputs not awaited", "load_scaled_x(d, x);\n        ptx::wgmma_wait<0>();", WGMMA_WAIT),
        ("state not awaited", "ptx::wgmma_wait<0>();\n        ptx::pin(state);", WGMMA_WAIT),
        ("fence before products dropped", "ptx::pin(sum);\n    ptx::wgmma_fence();",
         r"wgmma\.fence[^;]*;"),
        ("Y overwritten while TMA reads it", "ptx::tma_store_wait_read();  // the place of Y",
         r"cp\.async\.bulk\.wait_group[^;]*;"),
        ("block ends before its stores are read",
         "ptx::mbarrier_arrive(empty());\n      ptx::tma_store_wait_read();",
         r"cp\.async\.bulk\.wait_group[^;]*;"),
        ("state not decayed", "state[i / 4][i % 4] *= by;", r"mul\.f32 (\S+), \S+, \1;"),
        ("state of an output not decayed", "y[n][0] *= in[0]", r"mul\.f32 (\S+), \S+, \1;"),
        ("G not cleared", "ptx::wgmma<(decltype(k)::value > 0)>(g, c", r"setp\.ne\.b32 p, 0, 0;",
         "setp.ne.b32 p, 1, 0;"),
        ("state kept in a new sequence", "if (now.fresh) {", when(r"eq\.s16"), ALWAYS),
    ), CHUNK: (
        ("no mask", "if (u == warp) {  // later tokens, whose decay may be infinite\n"
         "      const int column = half * 8 + quad * 2;\n      " + MASK, UNMASK,
         r"mov.f32 \1, \2\3;"),
        ("D dropped", "y[n][2 * half] = fmaf(D.x, v[0], y[n][2 * half]);", FMA, ADDEND),
    )},
    "scan, hopper, NaN": {CHUNK: (
        ("NaN reaches earlier tokens", "return poison != 0.f;", when(r"neu\.f32"), NEVER),
    ), HOPPER: (
        ("state not decayed", "s = fmaf(in[k / 2], from_b[k % 2], s * decay);",
         r"mul\.f32 (\S+), \S+, (\S+);", r"mov.f32 \1, \2;"),
    )},
    "scan, segments": {SEGMENTS: (
        ("flag acquired too weakly", "segment.index - 1)) == 0", r"ld\.acquire\.gpu",
         "ld.relaxed.gpu"),
        ("flag released too weakly", "ptx::store_release(flag(segment.index), 1);",
         r"st\.release\.gpu", "st.relaxed.gpu"),
        ("state read before the flag", "s.sync();\n#pragma unroll", BARRIER),
        ("flag set before the state is there",
         "s.sync();\n    if (threadIdx.x == 0) ptx::store_release", BARRIER),
        ("state not handed through", "if (!is_first && decay != 0.f)", when(r"neu\.f32"), NEVER),
        ("handed on without its decay", "sum = {fmaf(decay, from[i].x, sum.x)",
         FMA, r"add.f32 \1, \3, \4;"),
        ("last tokens of the row dropped", "s.is_last || s.begin + task.segment_tokens",
         r"setp\.gt\.s64", "setp.ne.s64"),
        ("work taken in the order of blocks", "atomicAdd(", r"atom\.global\.add\.u32 (\S+), [^;]*;",
         r"mov.u32 \1, %ctaid.x; xor.b32 \1, \1, 1;"),
    )},
    "scan, segments, hopper": {SEGMENTS: (
        ("flag released too weakly", "ptx::store_release(flag(segment.index), 1);",
         r"st\.release\.gpu", "st.relaxed.gpu"),
        ("state not handed through", "if (!is_first && decay != 0.f)", when(r"neu\.f32"), NEVER),
    ), HOPPER: (
        ("decay of a chunk dropped", "decay += d.last;", r"add\.f64 (\S+), \S+, (\S+);",
         r"mov.f64 \1, \2;"),
    )},
    "scan, segments, sequences": {HOPPER: (
        ("kept over a new sequence", "return kept ?", when(r"eq\.s16"), NEVER),
    )},
    "scan, recurrent": {RECURRENT: (
        ("steps overwritten while they are read", "__syncthreads();\n      if (const", BARRIER),
        ("steps read before they are there", "      __syncthreads();\n    }\n    const float step",
         BARRIER),
        ("state carried over a new sequence", "if (starts[i]) {", when(r"eq\.s16"), ALWAYS),
        ("lanes not summed", "sum += __shfl_xor_sync(~0u, sum, away);", TWO, FIRST),
        ("a row's result lost", "if (lane == r) y = sum;", SELECT, SECOND, 2),
        ("D dropped", "y = fmaf(D, x, y);", FMA, ADDEND),
        ("state of the wrong row", "__shfl_sync(~0u, x, r, lanes)",
         r"(shfl\.sync\.idx\.b32 \S+ \S+ )\S+,", r"\1 1,", 2),
        ("group of another head", "const int64_t g = uint32_t(h)", r"div\.u32 (\S+), [^;]*;",
         r"mov.u32 \1, 0;", 1),
    )},
}  # fmt: skip
