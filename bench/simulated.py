# SPDX-License-Identifier: Apache-2.0
"""What the CUDA kernels do at the shapes of the released models, as the simulator counts it.

A slice of a call is run, one that repeats itself in the whole: the heads of a group, some experts,
some rows. Counts are given for a unit, the lower bound of the time for the whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from warpweave import _native, ops

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
BF16 = torch.bfloat16
DEVICES = ("A100", "RTX 4090", "H100", "B200", "RTX PRO 6000")


@dataclass(frozen=True)
class Slice:
    """`make()()` is 1/`parts` of a call, of `units` units; it must move `bytes` at least."""

    op: str
    shape: str
    parts: float
    make: Callable[[], Callable[[], Any]]
    bytes: int
    units: float
    unit: str


@dataclass(frozen=True)
class Layer:  # of a released model (config.json)
    name: str
    d: int  # hidden
    H: int  # Mamba heads of 64, in 8 groups of state 128
    E: int  # experts of top_k, in a space of l, I wide
    top_k: int
    l: int  # noqa: E741
    I: int  # noqa: E741


LAYERS = (
    Layer("Nano", 2688, 64, 128, 6, 2688, 1856),
    Layer("Super", 4096, 128, 512, 22, 1024, 2688),
    Layer("Ultra", 8192, 256, 512, 22, 2048, 5120),
)
P, G, N = 64, 8, 128


def draw(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.randn(*shape).to(dtype)


def scan(name: str, T: int, H: int, groups: int, parts: float = 1, rows: int = 1) -> Slice:
    """No part of a layer: how rows are cut depends on all that there is to do."""

    def make() -> Callable[[], Any]:
        x, dt, A = draw(rows, T, H, P), draw(rows, T, H), -torch.rand(H) * 16
        B, C = draw(rows, T, groups, N), draw(rows, T, groups, N)
        D, bias = torch.randn(H), torch.randn(H) - 4
        return lambda: ops.ssd_scan(
            x, dt, A, B, C, D=D, dt_bias=bias, dt_softplus=True, return_final_states=True
        )

    moved = rows * (T * H * (2 * P + 1) * 2 + 2 * T * groups * N * 2 + H * P * N * 4)
    return Slice("ssd_scan", f"{name} T={T}", parts, make, moved, rows * T * H, "token-head")


def conv(name: str, T: int, C: int, parts: int, channel_last: bool) -> Slice:
    def make() -> Callable[[], Any]:
        x = draw(1, T, C).transpose(1, 2) if channel_last else draw(1, C, T)
        weight, bias = draw(C, 4), draw(C)
        return lambda: ops.causal_conv1d(x, weight, bias, activation="silu")

    order = "channel-last" if channel_last else "channel-first"
    moved = 2 * (2 * T * C + 5 * C)
    return Slice(
        "causal_conv1d", f"{name} T={T} {order}", parts, make, moved, T * C / 32, "32 outputs"
    )


def conv_update(name: str, batch: int, C: int, parts: float) -> Slice:
    def make() -> Callable[[], Any]:
        x, state, weight, bias = draw(batch, C), draw(batch, C, 3), draw(C, 4), draw(C)
        return lambda: ops.causal_conv1d_update(x, state, weight, bias, activation="silu")

    moved = 2 * (2 * batch * C + 2 * 3 * batch * C + 5 * C)
    return Slice(
        "causal_conv1d_update", f"{name} batch {batch}", parts, make, moved, batch * C / 32,
        "32 outputs",
    )  # fmt: skip


def step(
    name: str, batch: int, H: int, parts: int, state: torch.dtype, rounding: str = "nearest"
) -> Slice:
    def make() -> Callable[[], Any]:
        h = draw(batch, H, P, N, dtype=state)
        x, dt, B, C = draw(batch, H, P), draw(batch, H), draw(batch, 1, N), draw(batch, 1, N)
        A, D, bias = -torch.rand(H) * 16, torch.randn(H), torch.randn(H)
        return lambda: ops.ssm_step(
            h, x, dt, A, B, C, D=D, dt_bias=bias, dt_softplus=True, rounding=rounding
        )

    elements = batch * H * P * N
    moved = 2 * elements * state.itemsize + batch * (2 * H * P + H + 2 * N) * 2
    shape = f"{name} {str(state).removeprefix('torch.')} state"
    shape += ", stochastic" * (rounding == "stochastic")
    return Slice("ssm_step", shape, parts, make, moved, elements / 32, "32 elements")


def norm(name: str, rows: int, d: int, parts: int) -> Slice:
    def make() -> Callable[[], Any]:
        x, residual, weight = draw(rows, d), draw(rows, d), draw(d)
        return lambda: ops.rms_norm(x, weight, residual=residual)

    shape = f"{name} {rows * parts} rows, residual"
    return Slice(
        "rms_norm", shape, parts, make, 2 * (4 * rows * d + d), rows * d / 32, "32 outputs"
    )


def route(name: str, rows: int, layer: Layer, parts: int) -> Slice:
    def make() -> Callable[[], Any]:
        x, weight = draw(rows, layer.d), draw(layer.E, layer.d, dtype=torch.float32)
        bias = torch.randn(layer.E) / 10
        return lambda: ops.moe_route(x, weight, bias, top_k=layer.top_k)

    moved = rows * layer.d * 2 + layer.E * layer.d * 4 + rows * layer.top_k * 8
    return Slice("moe_route", f"{name} {rows * parts} tokens", parts, make, moved, rows, "token")


def latent(name: str, tokens: int, layer: Layer, parts: int) -> Slice:
    """Some columns of the projection of all tokens into the space of the experts."""
    N, K = layer.l // parts, layer.d

    def make() -> Callable[[], Any]:
        a, b, ends = draw(tokens, K), draw(1, N, K), torch.tensor([tokens])
        return lambda: ops.grouped_gemm(a, b, ends)

    moved = 2 * (tokens * K + N * K + tokens * N)
    shape = f"{name} {tokens} tokens to the latent space"
    return Slice("grouped_gemm", shape, parts, make, moved, tokens * N / 32, "32 outputs")


def experts(name: str, tokens: int, layer: Layer, share: int) -> Slice:
    """A share of the experts and of the choices of every token."""
    E, choices = layer.E // share, tokens * layer.top_k // share

    def make() -> Callable[[], Any]:
        x, up, down = draw(choices, layer.l), draw(E, layer.I, layer.l), draw(E, layer.l, layer.I)
        indices = (torch.arange(choices, dtype=torch.int32) % E)[:, None]
        weights = torch.rand(choices, 1)
        return lambda: ops.moe_mlp(x, up, down, weights, indices)

    used = min(E, choices)
    moved = 2 * (2 * used * layer.I * layer.l + 2 * choices * layer.l)
    return Slice("moe_mlp", f"{name} {tokens} tokens", share, make, moved, choices, "choice")


def peers() -> Iterator[Slice]:
    """The slices for which the figures of others are known."""
    yield scan("slice", 1024, 8, 1)
    yield scan("slice, one of 17 rows,", 1024, 8, 1, 1 / 17, rows=17)  # a block for each head
    for T in (512, 2048):
        for channel_last in (True, False):
            yield conv("slice", T, 4096, 1, channel_last)
    for state in (torch.float32, BF16):
        yield step("slice batch 1", 1, 64, 1, state)
    for rounding in ("nearest", "stochastic"):
        yield step("slice batch 1", 1, 64, 1, torch.float16, rounding)


def layers() -> Iterator[Slice]:
    for layer in LAYERS:
        heads = layer.H // G
        for T in (2048, 8192):
            yield scan(layer.name, T, layer.H, G)
            yield conv(layer.name, T, 256, (layer.H * P + 2 * G * N) // 256, True)
            yield norm(layer.name, 64, layer.d, T // 64)
            yield route(layer.name, 64, layer, T // 64)
            if layer.l != layer.d:
                yield latent(layer.name, T, layer, layer.l // 256)
            yield experts(layer.name, T, layer, layer.E // 2)
        for batch in (1, 64, 512):
            run = min(batch, 64)
            named = f"{layer.name} batch {batch}"
            yield step(named, run, heads, G * batch // run, torch.float32)
            yield conv_update(layer.name, batch, 256, (layer.H * P + 2 * G * N) // 256)
            yield norm(layer.name, min(batch, 64), layer.d, max(1, batch // 64))
            yield experts(
                layer.name, batch, layer, max(1, min(layer.E // 8, batch * layer.top_k // 8))
            )


TRITON = "A100: Triton 1450 B, 157, 5827 ns; H100: Triton 1450 B, 152, 3546 ns"
PEERS = {  # a unit's DRAM bytes and warp instructions, and the bound of the slice
    ("ssd_scan", "slice T=1024"): TRITON,
    ("ssd_scan", "slice, one of 17 rows, T=1024"): f"{TRITON}, CUTLASS example 348 B, 110, 937 ns",
    ("causal_conv1d", "slice T=512 channel-last"): "causal-conv1d 23.1, A100 4134 ns",
    ("causal_conv1d", "slice T=512 channel-first"): "causal-conv1d 54.2, A100 5830 ns",
    ("causal_conv1d", "slice T=2048 channel-first"): "causal-conv1d 22.6",
    ("ssm_step", "slice batch 1 float32 state"): "Triton 50-55",
    ("ssm_step", "slice batch 1 bfloat16 state"): "Triton 50-55",
}


def run(device: str, words: list[str]) -> Iterator[dict[str, Any]]:
    from ptxsim.driver import simulator

    sim = simulator()
    for case in (*peers(), *layers()):
        if words and not any(w in case.op or w in case.shape for w in words):
            continue
        sim.reset(device, check_races=0, check_unwritten=0)
        sim.serve(_native)
        try:
            case.make()()
        finally:
            _native.simulate_cuda("")
        launches = sim.counters()
        dram = sum(c["dram_bytes"] for c in launches)
        yield {
            "op": case.op, "shape": case.shape, "device": device, "parts": case.parts,
            "launches": [c["kernel"] for c in launches], "unit": case.unit,
            "instructions": sum(c["warp_instructions"] for c in launches) / case.units,
            "dram_bytes": dram / case.units, "compulsory": dram / case.bytes,
            "bound_us": case.parts * sum(c["time_bound_s"] for c in launches) * 1e6,
            "limits": sorted({c["limited_by"] for c in launches}),
            "peers": PEERS.get((case.op, case.shape), ""),
        }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['op']:<14} {row['shape']:<32} {len(row['launches'])} launches "
        f"{row['instructions']:>8.1f} warp instr and {row['dram_bytes']:>9.1f} DRAM B "
        f"a {row['unit']:<11} "
        f"{row['compulsory']:>5.2f}x compulsory, at least {row['bound_us']:>9.2f} us "
        f"({', '.join(row['limits'])}) {row['peers']}"
    )
