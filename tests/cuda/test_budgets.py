# SPDX-License-Identifier: Apache-2.0
"""Every CUDA kernel is reached by its op's tests and stays within budgets.toml: what ptxas
gives it, its tensor instructions, and what slices of real shapes cost in the simulator."""

from __future__ import annotations

import ctypes
import importlib
import math
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import targets
from ptxsim import build
from ptxsim.driver import simulator
from warpweave import _native, ops
from warpweave.quantized import NVFP4Tensor

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUDGETS = tomllib.loads(Path(__file__).with_name("budgets.toml").read_text())
DEVICES = {"sm_80": "A100", "sm_90a": "H100", "sm_120a": "RTX PRO 6000"}
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32

pytestmark = pytest.mark.skipif(
    bool(targets.missing("sim:sm_80")), reason=targets.missing("sim:sm_80") or "never"
)


# --- The table of kernels ---


class Row(ctypes.Structure):  # csrc/core/cuda/api.h
    _fields_ = (
        *((name, ctypes.c_char_p) for name in ("op", "variant", "dtypes", "when", "symbol")),
        *((name, ctypes.c_int32) for name in ("arch", "registers", "shared", "local")),
    )


class Compiled(NamedTuple):
    name: str  # in budgets.toml
    text: str  # the PTX that the device takes


def is_stub(symbol: bytes, text: str) -> bool:
    """What stands for a kernel of another architecture: launched with one thread at the most."""
    head = text.partition(f".entry {symbol.decode()}(")[2].partition("{")[0]
    return re.search(r"\.maxntid 1\b(?!,? *\d*[2-9])", head) is not None


@cache
def kernels(arch: str) -> dict[str, Compiled]:
    """By symbol, those that the device can run; on sm_120a what is for it alone."""
    ptx = simulator().c.ptxsim_ptx
    with targets.simulated(DEVICES[arch]):
        library = ctypes.CDLL(str(build.warpweave()))
        rows = (Row * library.ww_kernels(None, 0))()
        library.ww_kernels(rows, len(rows))
        found = {
            r.symbol.decode(): Compiled(
                b", ".join((r.op, r.variant, r.dtypes)).decode(), ptx(r.symbol).decode()
            )
            for r in rows
            if r.arch and not is_stub(r.symbol, ptx(r.symbol).decode())
        }
    assert len({k.name for k in found.values()}) == len(found), "two rows of a name"
    others = names("sm_80", "sm_90a") if arch == "sm_120a" else set()
    return {symbol: kernel for symbol, kernel in found.items() if kernel.name not in others}


def names(*archs: str) -> set[str]:
    return {kernel.name for arch in archs for kernel in kernels(arch).values()}


def show(title: str, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    widths = [max(len(str(r[i])) for r in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for row in [header, *sorted(rows, key=str)]:
        first, *rest = (str(v) for v in row)
        print(first.ljust(widths[0]), *(v.rjust(w) for v, w in zip(rest, widths[1:], strict=True)))


# --- Every kernel is reached ---

GRIDS = {
    "causal_conv1d": (BF16, F32, torch.float16),
    "causal_conv1d_update": (BF16, F32, torch.float16),
    "coded_products": [(r, w) for r in ("bfloat16", "float32", "coded") for w in ("nvfp4", "e4m3")],
    "grouped_gemm": (BF16, F32),
    "latent_moe": (BF16,),
    "moe_mlp": (BF16, F32),
    "moe_route": ((BF16, BF16), (F32, F32), (BF16, F32)),
    "nvfp4_quantize": (BF16, F32, torch.float16),
    "rms_norm": (BF16, F32, torch.float16),
    "ssd_scan": (BF16, F32),
    "ssm_step": (BF16, F32, torch.float16),
}
GRIDS_OF_ITS_OWN = {"sm_120a": {"coded_products": [("coded", "nvfp4")]}}


def only_launched(op: Callable[..., Any]) -> Callable[..., Any]:
    """Its launches on the simulated device, where no block runs, and the results of the CPU."""

    def call(*args: Any, **kwargs: Any) -> Any:
        drawn = kwargs.get("generator")
        again = {"generator": torch.Generator().set_state(drawn.get_state())} if drawn else {}
        op(*args, **kwargs | again)
        _native.simulate_cuda("")
        try:
            return op(*args, **kwargs)
        finally:
            simulator().serve(_native)

    return call


@pytest.fixture(scope="module")
def reached() -> dict[str, int]:
    """The most shared memory that a launch of each kernel took in the grids of the ops' tests."""
    shared: dict[str, int] = {}
    for arch, device in DEVICES.items():
        if names(arch) <= set(shared):  # no kernel of its own
            continue
        for op, dtypes in GRIDS_OF_ITS_OWN.get(arch, GRIDS).items():
            tests = importlib.import_module(f"test_{op}")
            for dtype in dtypes:  # the op's own tests run them
                with targets.simulated(device, execute=0):
                    tests.check(only_launched(getattr(ops, op, None) or tests.product), dtype)
                    for launch in simulator().counters():
                        if kernel := kernels(arch).get(launch["symbol"]):
                            most = max(shared.get(kernel.name, 0), launch["shared_bytes"])
                            shared[kernel.name] = most
    return shared


def test_the_grids_of_the_ops_reach_every_kernel(reached: dict[str, int]) -> None:
    missing = sorted(names(*DEVICES) - set(reached))
    assert not missing, "add a shape to SHAPES of the op's tests for:\n" + "\n".join(missing)


# --- What a kernel takes ---


def test_every_kernel_has_one_budget() -> None:
    assert set(BUDGETS["kernels"]) == names(*DEVICES)
    assert set(BUDGETS["spills"]) <= set(BUDGETS["kernels"])


def resources(reached: dict[str, int]) -> tuple[list[tuple[Any, ...]], list[str]]:
    """A table, and what is over its budget."""
    rows, broken = [], []
    texts = sorted({(k.text, arch) for arch in DEVICES for k in kernels(arch).values()})
    with ThreadPoolExecutor(2) as pool:
        compiled = dict(zip(texts, pool.map(lambda t: build.resources(*t), texts), strict=True))
    for arch in DEVICES:
        for symbol, (name, text) in kernels(arch).items():
            found = compiled[text, arch][symbol]
            budget, spills = BUDGETS["kernels"][name], BUDGETS["spills"].get(name, {})
            dynamic = max(reached.get(name, 0) - found.shared, 0)
            rows.append((name, arch, found.registers, found.spilled, found.shared, dynamic))
            for what, actual, allowed in (
                ("registers", found.registers, budget[arch]),
                ("spilled bytes", found.spilled, spills.get(arch, 0)),
                ("bytes of stack", found.stack, spills.get(arch, 0)),
                ("shared bytes", found.shared + dynamic, budget["shared"]),
            ):
                if actual > allowed:
                    broken.append(f"{name} on {arch}: {actual} {what}, budget {allowed}")
    return rows, broken


def test_resources(reached: dict[str, int]) -> None:
    rows, broken = resources(reached)
    header = ("kernel", "arch", "registers", "spilled", "static shared", "dynamic shared")
    show("Resources", header, rows)
    assert not broken, "\n".join(broken)


def test_tensor_instructions_are_there() -> None:
    broken = []
    for arch in DEVICES:
        for symbol, (name, text) in kernels(arch).items():
            body = re.split(r"\.entry\s+", text.partition(f".entry {symbol}(")[2])[0]
            broken += [
                f"{name} on {arch} has no {word}"
                for word in BUDGETS["kernels"][name].get("needs", ())
                if word not in body
            ]
    assert not broken, "\n".join(broken)


# --- What slices cost ---


class Slice(NamedTuple):
    """Bytes are what the stated passes move between L2 and the blocks; tensor operations what their
    tiling multiplies and adds."""

    call: Callable[[], Any]
    units: float  # in 32 of which the budget counts warp instructions
    pass_bytes: float
    tensor: float = 0.0
    kernel: str = ""  # if only launches of this one count


def conv(channel_last: bool, T: int, sequences: str = "") -> Slice:
    C = 4096
    x = torch.randn(1, C, T).to(BF16)
    x = x.transpose(1, 2).contiguous().transpose(1, 2) if channel_last else x
    weight, bias = torch.randn(C, 4).to(BF16), torch.randn(C).to(BF16)
    rows = 4 * (8 if T == 512 else 16)  # of a block, channel-last; it reads 3 more
    read = x.nbytes * (1 + 3 / rows) if channel_last else x.nbytes
    weights = (weight.nbytes + bias.nbytes) * (T / rows if channel_last else 1)
    case: dict[str, Any] = {"x": x, "weight": weight, "bias": bias, "activation": "silu"}
    if sequences:  # of 100 tokens on average
        cuts = torch.cat([torch.tensor([0]), torch.randperm(T - 1)[: T // 100].sort()[0] + 1])
        if sequences == "seq_idx":
            case["seq_idx"] = torch.zeros(1, T).index_fill_(1, cuts[1:], 1.0).cumsum(1).int()
            read += T * 4 * C / (256 if channel_last else 8)  # channels of a block
        else:
            case["cu_seqlens"] = torch.cat([cuts, torch.tensor([T])])
        if sequences == "states":
            case["initial_states"] = torch.randn(len(cuts), C, 3).to(BF16)
            read += case["initial_states"].nbytes
    return Slice(lambda: ops.causal_conv1d(**case), x.numel(), read + x.nbytes + weights)


def conv_update(B: int, C: int, T: int) -> Slice:
    x, state = torch.randn(B, C, T).to(BF16), torch.randn(B, C, 3).to(BF16)
    weight, bias = torch.randn(C, 4).to(BF16), torch.randn(C).to(BF16)
    call = lambda: ops.causal_conv1d_update(x, state, weight, bias, activation="silu")  # noqa: E731
    weights = B * (weight.nbytes + bias.nbytes)
    return Slice(call, x.numel(), 2 * x.nbytes + 2 * state.nbytes + weights)


def step(B: int, H: int, state_dtype: torch.dtype, rounding: str = "nearest") -> Slice:
    P, G, N, blocks = 64, 8, 128, 2  # blocks of a head
    state, dt = torch.randn(B, H, P, N).to(state_dtype), torch.randn(B, H).to(BF16)
    case: dict[str, Any] = {n: torch.randn(B, G, N).to(BF16) for n in ("B", "C")}
    case |= {n: torch.randn(B, H, P).to(BF16) for n in ("x", "z")}
    case |= {n: -torch.rand(H) for n in ("A", "D", "dt_bias")}
    case |= {"state": state, "dt": dt, "dt_softplus": True, "rounding": rounding}
    # A block takes a whole sector for each value of its head.
    read = B * H * blocks * (2 * 2 * N + 4 * 32)
    moved = 2 * state.nbytes + read + 3 * B * H * P * 2
    return Slice(lambda: ops.ssm_step(**case), state.numel(), moved)


def norm(rows: int, D: int, form: str, group: int | None = None) -> Slice:
    x, weight = torch.randn(rows, D).to(BF16), torch.randn(D)
    case: dict[str, Any] = {"x": x, "weight": weight, "group_size": group}
    case |= {} if form == "plain" else {form: torch.randn(rows, D).to(BF16)}
    call = lambda: ops.rms_norm(**case)  # noqa: E731
    tensors = {"plain": 2, "gate": 3, "residual": 4}[form]
    warps = 4 if group else 1  # of a block, each another group of the row
    blocks = x.numel() / (group or D) / warps
    return Slice(call, x.numel(), tensors * x.nbytes + blocks * (group or D) * warps * 4)


def route(tokens: int, E: int, d: int) -> Slice:
    x, weight = torch.randn(tokens, d).to(BF16), torch.randn(E, d).to(BF16)
    call = lambda: ops.moe_route(x, weight, torch.zeros(E), top_k=6)  # noqa: E731
    rows, experts = (4, 16) if tokens <= 16 else (32, 64)
    read = x.nbytes * math.ceil(E / experts) + weight.nbytes * math.ceil(tokens / rows)
    return Slice(call, tokens * E * d, read + 2 * tokens * E * 4 + tokens * (E * 4 / 4 + 6 * 8))


def gemm(rows: int, tile: int, N: int, K: int, columns: int = 128) -> Slice:
    E, M = 2, 2 * rows
    a, b = torch.randn(M, K).to(BF16), torch.randn(E, N, K).to(BF16)
    ends = torch.tensor([rows, M], dtype=torch.int32)
    tiles = M / tile * N / columns
    call = lambda: ops.grouped_gemm(a, b, ends, activation="relu2")  # noqa: E731
    return Slice(call, M * N, tiles * (tile + columns) * K * 2 + M * N * 2, 2.0 * M * N * K)


def nvfp4(M: int, N: int, K: int) -> Slice:
    """Block scales are put in order before: read and written once more."""
    codes = [torch.randint(256, (n, K // 2), dtype=torch.uint8) for n in (M, N)]
    scales = [torch.rand(n, K // 16).to(torch.float8_e4m3fn) for n in (M, N)]
    a, b = (NVFP4Tensor(c, s, torch.tensor(1.0)) for c, s in zip(codes, scales, strict=True))
    tiles = M / 128 * N / 128
    read = tiles * (128 + 128) * K * 9 / 16 + 2 * (M + N) * K / 16
    return Slice(lambda: ops.nvfp4_matmul(a, b), M * N, read + M * N * 2, 2.0 * M * N * K)


def experts(T: int, K: int, I: int) -> Slice:  # noqa: E741
    """Each of 8 experts gets 16 tokens, a tile of rows; the sums of two rows of fp32 follow."""
    pairs = T * 2
    assert pairs == 8 * 16
    x, indices = torch.randn(T, K).to(BF16), torch.arange(pairs).view(T, 2) % 8
    up, down = torch.randn(8, I, K).to(BF16), torch.randn(8, K, I).to(BF16)
    call = lambda: ops.moe_mlp(x, up, down, torch.rand(T, 2), indices.int())  # noqa: E731
    tile = (16 + 128) * 2  # bytes for each k
    products = 8 * (I / 128 * K + K / 128 * I) * tile + pairs * (I * 2 + K * 4)
    return Slice(call, T * K, products + pairs * K * 4 + x.nbytes, 4.0 * pairs * I * K)


def combine(T: int, K: int, top_k: int) -> Slice:
    x, weights = torch.randn(T, K).to(BF16), torch.rand(T, top_k)
    indices = torch.arange(T * top_k).view(T, top_k) % 16
    up, down = torch.randn(16, 8, K).to(BF16), torch.randn(16, K, 8).to(BF16)
    call = lambda: ops.moe_mlp(x, up, down, weights, indices.int())  # noqa: E731
    choices = T * top_k * 3 * 4
    return Slice(call, T * K, T * top_k * K * 4 + x.nbytes + choices, kernel="combine")


def quantize(rows: int, K: int, **mode: Any) -> Slice:
    """x twice, and codes and block scales."""
    x = torch.randn(rows, K).to(BF16)
    call = lambda: ops.nvfp4_quantize(x, **mode)  # noqa: E731
    return Slice(call, x.numel(), 2 * x.nbytes + x.numel() / 2 + x.numel() / 16)


def scan(T: int, H: int, P: int, N: int, batch: int = 1, on_hopper: bool = False) -> Slice:
    """Chunks of 64: C·Bᵀ and its product with X in blocks of 16 up to the diagonal, or on Hopper
    all; C times the state but for the first chunk, or for all; the state's own step."""
    x, dt = torch.randn(batch, T, H, P).to(BF16), torch.rand(batch, T, H)
    B, C = torch.randn(batch, T, 1, N).to(BF16), torch.randn(batch, T, 1, N).to(BF16)
    A, D = -torch.rand(H), torch.randn(H)
    call = lambda: ops.ssd_scan(x, dt, A, B, C, D=D, return_final_states=True)  # noqa: E731
    chunks, pairs = T / 64, 64 * 64 if on_hopper else 10 * 16 * 16
    products = chunks * pairs * (N + P) + (2 * chunks - (not on_hopper)) * 64 * N * P
    moved = 2 * x.nbytes + H * (B.nbytes + C.nbytes) + batch * H * (T * 32 + P * N * 4)
    return Slice(call, batch * H * T, moved, 2.0 * batch * H * products)


SLICES: dict[str, Callable[[], Slice]] = {  # on the A100, or as the name says
    "causal_conv1d, channel-last, 512 tokens": lambda: conv(True, 512),
    "causal_conv1d, channel-last, 2048 tokens": lambda: conv(True, 2048),
    "causal_conv1d, channel-first, 512 tokens": lambda: conv(False, 512),
    "causal_conv1d, channel-first, 2048 tokens": lambda: conv(False, 2048),
    "causal_conv1d, channel-last, seq_idx": lambda: conv(True, 2048, "seq_idx"),
    "causal_conv1d, channel-last, cu_seqlens": lambda: conv(True, 2048, "cu_seqlens"),
    "causal_conv1d, channel-last, states": lambda: conv(True, 2048, "states"),
    "causal_conv1d, channel-first, seq_idx": lambda: conv(False, 2048, "seq_idx"),
    "causal_conv1d, channel-first, cu_seqlens": lambda: conv(False, 2048, "cu_seqlens"),
    "causal_conv1d, channel-first, states": lambda: conv(False, 2048, "states"),
    "causal_conv1d_update, batch 64": lambda: conv_update(64, 4096, 1),
    "causal_conv1d_update, batch 16, 4 tokens": lambda: conv_update(16, 4096, 4),
    "ssm_step, batch 1, float32 state": lambda: step(1, 128, F32),
    "ssm_step, batch 16, float32 state": lambda: step(16, 64, F32),
    "ssm_step, batch 1, bfloat16 state": lambda: step(1, 128, BF16),
    "ssm_step, batch 16, bfloat16 state": lambda: step(16, 64, BF16),
    "ssm_step, float16 state": lambda: step(1, 64, F16),
    "ssm_step, float16 state, stochastic": lambda: step(1, 64, F16, "stochastic"),
    "rms_norm": lambda: norm(64, 4096, "plain"),
    "rms_norm with residual": lambda: norm(64, 4096, "residual"),
    "rms_norm, gated, groups of 512": lambda: norm(64, 4096, "gate", 512),
    "moe_route, 8 tokens": lambda: route(8, 128, 2048),
    "moe_route, 64 tokens": lambda: route(64, 128, 2048),
    "grouped_gemm, 16 rows": lambda: gemm(16, 16, 256, 512),
    "grouped_gemm, 64 rows": lambda: gemm(64, 64, 256, 512),
    "grouped_gemm, 128 rows": lambda: gemm(128, 128, 256, 512),
    "moe_mlp, 64 tokens": lambda: experts(64, 1024, 512),
    "moe_mlp, combine, 2 experts": lambda: combine(32, 2688, 2),
    "moe_mlp, combine, 6 experts": lambda: combine(32, 2688, 6),
    "nvfp4_quantize": lambda: quantize(64, 4096),
    "nvfp4_quantize, tiles": lambda: quantize(64, 4096, block="2d"),
    "nvfp4_quantize, stochastic": lambda: quantize(64, 4096, rounding="stochastic"),
    "ssd_scan, P64 N64": lambda: scan(256, 8, 64, 64),
    "ssd_scan, P80 N64": lambda: scan(256, 8, 80, 64),
    "ssd_scan, P64 N128": lambda: scan(256, 8, 64, 128),
    "ssd_scan, P80 N128": lambda: scan(256, 8, 80, 128),
    "ssd_scan, P32 N256": lambda: scan(256, 8, 32, 256),
    "H100: grouped_gemm, 256 rows": lambda: gemm(256, 128, 512, 512, columns=256),
    "H100: ssd_scan, P64 N64": lambda: scan(256, 8, 64, 64, 17, on_hopper=True),
    "H100: ssd_scan, P64 N128": lambda: scan(256, 8, 64, 128, 17, on_hopper=True),
    "RTX PRO 6000: nvfp4_matmul, 512 rows": lambda: nvfp4(512, 1024, 1024),
}
GLOBAL = ("global_load", "global_store", "global_atomic", "cp_async_load", "bulk_load",
          "bulk_store", "tma_load", "tma_store")  # fmt: skip
SHARED = ("shared_load", "shared_store", "shared_atomic", "ldmatrix", "stmatrix", "cp_async",
          "wgmma", "bulk", "tma")  # fmt: skip


class Cost(NamedTuple):
    instructions: float  # of a warp, for 32 units
    sectors: float  # that L2 delivers and takes, over those of the passes
    requests: float  # sectors of each warp instruction, the part that L1 has to serve: as above
    conflicts: float  # wavefronts over the least
    tensor: float  # operations over those of the tiling


def cost(name: str) -> Cost:
    part = SLICES[name]()
    device = name.partition(":")[0] if ":" in name else "A100"
    with targets.simulated(device, check_races=0, check_unwritten=0):
        part.call()
        launches = [c for c in simulator().counters() if part.kernel in c["symbol"]]

    def total(*fields: str) -> int:
        return sum(c[f] for c in launches for f in fields)

    waves = {k: sum(c[s][k] for c in launches for s in SHARED) for k in ("actual", "minimal")}
    tensor = sum(sum(c["tensor_operations"].values()) for c in launches)
    return Cost(
        32 * total("warp_instructions") / part.units,
        32 * total("loaded_by_blocks", "stored_by_blocks") / part.pass_bytes,
        32 * sum(c[g]["sectors"] for c in launches for g in GLOBAL) / part.pass_bytes,
        waves["actual"] / max(waves["minimal"], 1),
        tensor / part.tensor if part.tensor else 0.0,
    )


@pytest.fixture(scope="module")
def costs() -> dict[str, Cost]:
    torch.manual_seed(0)
    return {name: cost(name) for name in SLICES}


def over_budget(costs: dict[str, Cost]) -> list[str]:
    return [
        f"{name}: {field} {value:.3f}, budget {budget}"
        for name, found in costs.items()
        for field, value in found._asdict().items()
        if value > (budget := (BUDGETS["limits"] | BUDGETS["slices"][name])[field])
    ]


def test_slices(costs: dict[str, Cost]) -> None:
    assert sorted(BUDGETS["slices"]) == sorted(SLICES)
    rows = [(name, *(f"{value:.2f}" for value in found)) for name, found in costs.items()]
    show("Slices", ("slice", *Cost._fields), rows)
    broken = over_budget(costs)
    assert not broken, "\n".join(broken)


# --- The gates can fail ---


def test_less_than_a_kernel_takes_is_refused(
    reached: dict[str, int], costs: dict[str, Cost], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels_of = {
        arch: next(k for k in BUDGETS["kernels"].values() if arch in k) for arch in DEVICES
    }
    for budget, name in (
        *((kernel, arch) for arch, kernel in kernels_of.items()),
        *((slice, "instructions") for slice in BUDGETS["slices"].values()),
        *((BUDGETS["limits"], name) for name in BUDGETS["limits"]),
    ):
        with monkeypatch.context() as less:
            less.setitem(budget, name, budget[name] / 2)
            assert over_budget(costs) or resources(reached)[1]


def test_a_missing_instruction_or_kernel_is_refused(
    reached: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(iter(BUDGETS["kernels"]))
    with monkeypatch.context() as more:
        more.setitem(BUDGETS["kernels"][name], "needs", ["no such instruction"])
        with pytest.raises(AssertionError, match="has no no such instruction"):
            test_tensor_instructions_are_there()
    with pytest.raises(AssertionError, match="add a shape"):
        test_the_grids_of_the_ops_reach_every_kernel(
            {k: v for k, v in reached.items() if k != name}
        )
