# SPDX-License-Identifier: Apache-2.0
"""What is planted into the CUDA kernels: name, place in the source, instructions, replacement."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from planted import Probe, each

import test_causal_conv1d as conv
import test_causal_conv1d_update as update
import test_moe_route as route
import test_rms_norm as norm
import test_ssm_step as step
from native import Case, check_case
from warpweave import ops
from warpweave import reference as ref
from warpweave import testing as kit

BF16, F32 = torch.bfloat16, torch.float32

# --- Instructions and what becomes of them ---

COMPARE = r"setp\.\w+\.\w+ (%p\d+), [^;]*;"
ALWAYS, NEVER = r"setp.eq.u32 \1, 0, 0;", r"setp.ne.u32 \1, 0, 0;"
SELECT = r"selp\.(\w+) (\S+), (\S+), (\S+), (\S+);"
FIRST, SECOND = r"mov.\1 \2, \3;", r"mov.\1 \2, \4;"
FOUR = r"ld\.global\.v4\.u32 \{(%r\d+), (%r\d+), (%r\d+), (%r\d+)\}[^;]*;"
ZEROS = r"mov.u32 \1, 0; mov.u32 \2, 0; mov.u32 \3, 0; mov.u32 \4, 0;"
FMA = r"fma\.rn\.f32 (\S+), (\S+), (\S+), (\S+);"
ADDEND = r"mov.f32 \1, \4;"
TWO = r"(?:add|sub|mul)(?:\.rn)?\.(f32|f64|s32|u32|s64) (\S+), (\S+), (\S+);"  # one is left
BARRIER, STORE = r"bar\.sync[^;]*;", r"st\.global[^;]*;"


def when(kind: str) -> str:
    return rf"setp\.{kind} (%p\d+), [^;]*;"


# --- What runs ---


def check_update(op: kit.Op, case: Case) -> None:
    check_case(op, ref.causal_conv1d_update, case, update.MUTATED, axis=1)


def check_norm(op: kit.Op, case: Case) -> None:
    check_case(op, ref.rms_norm, case) if "eps" in case else norm.check_form(op, case)


def check_step(op: kit.Op, case: Case) -> None:
    check_case(op, ref.ssm_step, case, step.MUTATED)


def check_route(op: kit.Op, case: Case) -> None:
    route.check_random(op, case)
    whole = route.whole(case)
    weights, indices = op(**whole)
    expected = ref.moe_route(**whole)
    kit.assert_same_bits(indices, expected[1])
    torch.testing.assert_close(weights, expected[0], rtol=1e-6, atol=0.0)


@cache
def routed_together() -> tuple[Case, tuple[Any, ...]]:
    case = route.make(300, 1500, 61, 7, 1, 1)
    return case, ops.moe_route(**case)


def check_alone(op: kit.Op) -> None:
    case, together = routed_together()
    for i in (0, 299):
        alone = op(**case | {"x": case["x"][i]})
        for a, b in zip(alone, together, strict=True):
            kit.assert_same_bits(a, b[i])


PROBES = {
    "conv, channel-last": Probe("causal_conv1d", "A100", each(conv.check_one, *(
        conv.make(*conv.SHAPES[12], BF16, options, True) for options in ("abi", "bsif")),
        conv.packed_around_steps(BF16, True))),
    "conv, channel-first": Probe("causal_conv1d", "A100", each(conv.check_one,
        conv.make(*conv.SHAPES[11], BF16, "abs"))),
    "conv, any rows": Probe("causal_conv1d", "A100", each(conv.check_one,
        conv.make(*conv.SHAPES[11], BF16, "abi"), conv.packed_around_steps(BF16),
        conv.make(*conv.SHAPES[1], BF16, "bsif"))),
    "conv, update": Probe("causal_conv1d_update", "A100", each(check_update, *(
        update.make(*update.SHAPES[i], BF16, circular)
        for i in (0, 3, 4, 5) for circular in (False, True)))),
    "ssm_step": Probe("ssm_step", "A100", each(check_step,
        step.make(*step.SHAPES[0]), step.make(*step.SHAPES[1]), step.make(*step.SHAPES[3]))),
    "ssm_step, stochastic": Probe("ssm_step", "A100", step.check_stochastic),
    "rms_norm, warps": Probe("rms_norm", "A100", each(check_norm,
        {"x": norm.special(BF16), "weight": torch.ones(40), "eps": 1e-2},
        norm.make((3,), 64, None, "plain", BF16), *(
        norm.make((2, 3), 96, 24, form, BF16) for form in norm.FORMS))),
    "rms_norm, long rows": Probe("rms_norm", "A100", lambda op: [
        norm.check_long(op, D, "residual", BF16) for D in norm.LONG]),
    "rms_norm, blocks": Probe("rms_norm", "A100", each(norm.check_form, *(
        norm.make((4,), 2688, None, form, BF16) for form in norm.FORMS))),
    "moe_route": Probe("moe_route", "A100", each(check_route, *(
        route.make(*route.SHAPES[i]) for i in (1, 2, 6)))),
    "moe_route, few tokens": Probe("moe_route", "A100", check_alone),
}  # fmt: skip

CONV = "causal_conv1d/causal_conv1d_cuda.cu"
CORE = "causal_conv1d/conv_core.cuh"
BY_CHANNEL = "causal_conv1d/conv_channel_last.cuh"
BY_TOKEN = "causal_conv1d/conv_channel_first.cuh"
UPDATE = "causal_conv1d_update/causal_conv1d_update_cuda.cu"
STEP = "ssm_step/ssm_step_cuda.cu"
PHILOX = "core/cuda/philox.cuh"
NORM = "rms_norm/rms_norm_cuda.cu"
ROUTE = "moe_route/moe_route_cuda.cu"
Rows = tuple[tuple[Any, ...], ...]

TABLE: dict[str, dict[str, Rows]] = {
    "conv, channel-last": {BY_CHANNEL: (
        ("a row too many", "if (row >= task.count || c >= p.C) return;",
         r"setp\.ge\.u32", "setp.gt.u32"),
        ("a channel too many", "if (row >= task.count || c >= p.C) return;",
         r"setp\.ge\.s64", "setp.gt.s64"),
        ("tail of a chunk dropped", "if (n > 0) group(std::false_type{});",
         r"setp\.lt\.s32 (\S+), (\S+), 1;", r"setp.lt.s32 \1, \2, 4;"),
        ("last chunk not cut at T", "const int64_t t1 = t0 + task.chunk < p.T ?", SELECT, FIRST),
        ("inputs not carried between chunks",
         "widen<T>(load_packed<T, V>(x - (W - 1 - w) * p.x_stride_t), window[w]);", FOUR, ZEROS),
        ("padding is computed", "if (run.padding) {", when("eq.s16"), ALWAYS),
    ), CORE: (
        ("inputs of the sequence before", "idx[begin - 1] == idx[t]",
         r"setp\.(eq|ne)\.s32 (\S+), %\S+, %\S+;", r"setp.\1.s32 \2, 0, 0;"),
        ("first token is of the sequence before",
         "(cu_seqlen(p, middle) <= t ? low : high) = middle;", r"setp\.le\.s64", "setp.lt.s64"),
        ("bias dropped", "if (p.bias) load_widened<U, kVector<U>, V>(from, bias);", FOUR, ZEROS),
    ), CONV: (
        ("final state one input early", "const int64_t t = run.end - (p.W - 1) + w;",
         r"(add\.s64 \S+ \S+) -1;", r"\1 0;"),
    )},
    "conv, channel-first": {BY_TOKEN: (
        ("lane 0 without the step before", "const uint32_t last = lane == kLanes - 1",
         SELECT, SECOND),
        ("inputs of the wrong lane", "__shfl_sync(~0u, last, (lane + kLanes - 1) % kLanes)",
         r"shfl\.sync\.idx\.b32 (\S+)\|\S+, (\S+), [^;]*;", r"mov.b32 \1, \2;"),
        ("inputs not carried between chunks", "window.set_before({load_packed<T, V>(x - V)});",
         FOUR, ZEROS),
        ("tail not masked", "const bool is_mine = lane * V < left;", r"setp\.ge", "setp.gt"),
    )},
    "conv, any rows": {BY_TOKEN: (
        ("lead of an unaligned row dropped", "const int lead =",
         r"and\.b64 (\S+) \S+ 14;", r"mov.u64 \1 0;", 0),
        ("no lane sees a start", "if (!__any_sync(~0u, starting | padded)) {",
         r"vote\.sync\.any\.pred (\S+), \S+, \S+;", r"mov.pred \1, 0;"),
        ("a vector too many", "wide && tokens >= V ? tokens - V + 1 : 0;",
         ", -7;", ", -6;"),
        ("a token too many", "if (unsigned(next + i) < unsigned(tokens)) to[i]",
         r"setp\.ge\.u32", "setp.gt.u32"),
        ("start of a packed sequence unseen", "if (t > 0) atomicOr(&start[(t - begin) / 32]",
         r"(?:atom|red)\.shared[^;]*;", ""),
        ("starts read before they are there", "__syncthreads();\n    return sequence[kLead];",
         BARRIER, ""),
        ("start two tokens back unseen", "starts.bits(starts.start, bit - (W - 2))",
         r"(and\.b32 \S+ \S+) 1023;", r"\1 1020;"),
        ("padding is computed", "if (padded >> i & 1) acc[i] = 0.f;",
         r"selp\.f32 (\S+), (%\S+), 0f00000000, \S+;", r"mov.f32 \1, \2;"),
    ), CONV: (
        ("final state of padding", "const bool reachable =", r"not\.pred (\S+), \S+;",
         r"mov.pred \1, -1;"),
    )},
    "conv, update": {UPDATE: (
        ("a channel too many", "if (c >= p.C) return;", r"setp\.ge\.s64", "setp.gt.s64"),
        ("padding is no padding", "if (slot < 0 || slot >= p.slots) {", when("lt.s64"), NEVER),
        ("state does not shift", "for (int64_t s = 0; p.S > s + p.T; ++s)", when("le.s64"), ALWAYS),
        ("circle does not close", "column = column + 1 == S ? 0 : column + 1;", SELECT, SECOND),
        ("circle read one column late", "const uint32_t from = column - uint32_t(W - w);",
         r"add\.s32 (\S+), (\S+), (\S+);", r"add.s32 \1, \2, \3; add.s32 \1, \1, 1;"),
        ("bias dropped", "bias = p.bias ?", when("eq.s64"), ALWAYS),
        ("part of the window not written", "state[(w - 1) * stride] = window[w];", STORE, "", 0),
        ("new inputs not written", "state[(p.S - p.T + t) * stride] = window[W - 1];", STORE),
    )},
    "ssm_step": {STEP: (
        ("padding is no padding", "const bool is_padding = slot < 0 || slot >= p.slots;",
         r"or\.b16 (\S+), (\S+), \S+;", r"mov.u16 \1, \2;"),
        ("rows past P", "count = int(p.P - row < kRows ? p.P - row : kRows);",
         r"min\.s64 (\S+), \S+, 4;", r"mov.u64 \1, 4;"),
        ("group of another head", "const int64_t g = uint32_t(h) / (heads / uint32_t(p.G));",
         r"div\.u32 (\S+), [^;]*;", r"mov.u32 \1, 0;", 1),
        ("columns past N", "vectors((N / V + (1 << lane_bits) - 1 - lane) >> lane_bits)",
         r"not\.b32", "neg.s32"),
        ("lanes not summed", "for (int away = lanes / 2; away > 0; away /= 2)",
         r"add\.f32 (\S+), (\S+), \S+;", r"mov.f32 \1, \2;"),
        ("a row's result lost", "if (lane == r) y = sum;", SELECT, SECOND, 2),
        ("inputs of another row", "__shfl_sync(~0u, x, r, lanes)",
         r"(shfl\.sync\.idx\.b32 \S+ \S+ )\S+,", r"\1 1,", 2),
        ("state not decayed", "rows[r].v[k] = fmaf(input, B[k], rows[r].v[k] * decay);",
         r"mul\.f32 (\S+), \S+, (\S+);", r"mov.f32 \1, \2;"),
        ("D dropped", "y = fmaf(D, x, y);", FMA, ADDEND),
        ("part of the state not written",
         "rows[r].store(state + r * p.state_stride[2], part, counter_of(p.T - 1, r), p.seed);",
         STORE, "", 1),
    )},
    "ssm_step, stochastic": {STEP: (
        ("counter of another row", "* p.P + row + r) * counters_of_row(p.N)",
         r"mul\.lo\.s64 (\S+), \S+, (\S+);", r"mov.u64 \1, \2;"),
        ("taken for finite", "rows[r].is_finite = fabsf(sum) < INFINITY;",
         when(r"lt\.f32"), ALWAYS),
    ), PHILOX: (
        ("random bits dropped", "return __uint_as_float(units + random) * 0x1p112f;",
         r"add\.s32 (\S+), (\S+), (\S+);", r"mov.u32 \1, \2;"),
        ("random bits for infinity", "if (!kFinite) random = fabsf(v) < 65504.f ? random : 0;",
         when(r"lt\.f32"), ALWAYS),
        ("lower half for the upper", "random >> 16 & kHalfBits",
         r"(?:shr|bfe)\.u32 (\S+), (\S+), 16[^;]*;", r"mov.u32 \1, \2;"),
        ("to nearest", "cvt.rz.satfinite.f16x2.f32", r"cvt\.rz\.sat", "cvt.rn.sat"),
    )},
    "rms_norm, warps": {NORM: (
        ("a group too many", "if (kWarps && id >= p.rows * groups) return;",
         r"setp\.ge\.s64", "setp.gt.s64"),
        ("the next group's elements", "if (i >= vectors) break;\n    group.values",
         r"setp\.le\.s64", "setp.lt.s64", 0),
        ("eps dropped", "const float scale = rsqrtf(sum / float(p.group_size) + p.eps);",
         r"add\.f32 (\S+), \S+, (\S+);", r"mov.f32 \1, \2;"),
        ("odd lanes not summed", "sum = kWarps ? lane_sum(sum) : block_sum(sum);", TWO, FIRST, 4),
        ("residual not added", "v[j] += other[j];", TWO, SECOND, 2),
        ("weight ignored", "v[j] *= scale * weight[j];", TWO, FIRST, 0),
    )},
    "rms_norm, blocks": {NORM: (
        ("barrier dropped", "if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;\n  __sync",
         BARRIER),
        ("sum of a warp that is not there", "lane < int(blockDim.x / 32) ? warps[lane] : 0.f",
         r"setp\.ge\.u32", "setp.gt.u32"),
        ("warps not summed", "return lane_sum(lane < int(blockDim.x / 32) ?", TWO, FIRST, 4),
        ("tail of a row dropped", "if (i >= vectors) break;\n    group.store",
         when(r"ge\.s64"), ALWAYS),
    )},
    "rms_norm, long rows": {NORM: (
        ("rest not summed",
         "    float v[V];\n    group.values(i, v, true);\n    sum = squares<V>(v, sum);",
         FMA, ADDEND),
        ("rest not stored", "    group.values(i, v, false);\n    group.store(i, v, scale);", STORE),
    )},
    "moe_route": {ROUTE: (
        ("a slice's end past d", "? (slice + 1) * length : p.d;",
         r"min\.s64 (\S+), (\S+), \S+;", r"mov.u64 \1, \2;"),
        ("inputs read before they are staged", "    __syncwarp();\n#pragma unroll 8",
         r"bar\.warp\.sync[^;]*;"),
        ("inputs staged before they are read", "    }\n    __syncwarp();\n  }\n\n  float (*sum)",
         r"bar\.warp\.sync[^;]*;"),
        ("slices added at the same time", "    __syncthreads();\n    if (slice != turn) continue;",
         BARRIER),
        ("sums not cleared", "v.v[n] = turn == 0 ? acc[i][j + n] :", SELECT, SECOND),
        ("sums stored too early", "  __syncthreads();\n  float* logits", BARRIER),
        ("an expert too many", "if (m < p.rows && e < p.E) logits", r"setp\.ge\.s64",
         "setp.gt.s64", 3),
        ("ties of a lane to the higher expert", "if (ranks[e] > rank) rank = ranks[e], expert = e;",
         r"setp\.gt\.s32", "setp.ge.s32"),
        ("a choice is not taken", "ranks[chosen] = kTaken;", r"st\.shared[^;]*;"),
        ("a group too many", "if (better >= p.topk_group)", r"setp\.gt\.s64", "setp.ge.s64"),
        ("ties to the higher group", "(best[other] == best[g] && other < g);", r"setp\.lt\.u32",
         "setp.gt.u32"),
        ("groups ranked before all are there",
         "  __syncwarp();\n  for (int g = lane; g < groups; g += 32) {\n    int better",
         r"bar\.warp\.sync[^;]*;"),
        ("not normalised", "const float divisor =", SELECT, FIRST),
        ("weights scaled before they are written", "  __syncwarp();\n  const float divisor",
         r"bar\.warp\.sync[^;]*;"),
    )},
    "moe_route, few tokens": {ROUTE: (
        ("a slice's end past d", "? (slice + 1) * length : p.d;",
         r"min\.s64 (\S+), (\S+), \S+;", r"mov.u64 \1, \2;"),
        ("slices added at the same time", "    __syncthreads();\n    if (slice != turn) continue;",
         BARRIER),
        ("an expert too many", "if (m < p.rows && e < p.E) logits", r"setp\.ge\.s64",
         "setp.gt.s64", 1),
    )},
}  # fmt: skip
