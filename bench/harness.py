# SPDX-License-Identifier: Apache-2.0
"""Times an op against a roofline and a baseline that are measured in the same run.

Every round times the roofline's own kernel, the op and the baseline one after the other, so that a
busy machine slows all three; the median of the rounds is reported. Operands rotate through copies
that together exceed the cache (`FOOTPRINT`), unless the case is marked warm.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from warpweave.quantized import FP8Tensor, NVFP4Tensor

QUANTIZED = (NVFP4Tensor, FP8Tensor)
TENSORS = (torch.Tensor, *QUANTIZED)
FOOTPRINT = 512 << 20  # bytes of rotating operands: above a shared last-level cache
ROUNDS = 7
SECONDS = 0.15  # of each timed stretch, at most
clock = time.perf_counter  # or time.process_time, for one thread on a busy machine
device = "cpu"  # or "cuda", timed by events

Args = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """`run(*make())` moves `bytes` or does `flops`; `baseline(*make())` is `versus` in torch.

    baseline None is one that cannot be imported here, as `versus` then says. `tokens` is what one
    call takes in, where tokens per second mean something.
    """

    shape: str
    dtype: torch.dtype
    make: Callable[[], Args]
    run: Callable[..., Any]
    versus: str
    baseline: Callable[..., Any] | None
    bytes: int = 0
    flops: int = 0
    bound: str = "copy"  # a key of ROOFLINES
    warm: bool = False
    tokens: int = 0


def keep_memory() -> None:
    """Makes the allocator keep what it has, as a program that has run for a while does.

    By default glibc takes every result above 32 MB fresh from the kernel and gives it back, and
    the page faults cost three times the kernel that fills it.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def nbytes(*values: Any) -> int:
    """Bytes of all tensors among `values`, quantised ones too."""
    return sum(v.nbytes if isinstance(v, torch.Tensor) else nbytes(*vars(v).values())
               for v in values if isinstance(v, TENSORS))  # fmt: skip


def clone(v: Any) -> Any:
    if isinstance(v, QUANTIZED):
        return type(v)(*map(clone, vars(v).values()))
    return v.clone() if isinstance(v, torch.Tensor) else v


def copies(case: Case, footprint: int) -> list[Args]:
    move = lambda v: v.to(device) if isinstance(v, TENSORS) else v  # noqa: E731
    first = tuple(map(move, case.make()))
    count = 1 if case.warm else min(2000, -(-footprint // max(1, nbytes(*first))))
    return [first, *(tuple(map(clone, first)) for _ in range(count - 1))]


def per_call(fn: Callable[..., Any], sets: list[Args], calls: int) -> float:
    if device == "cpu":
        start = clock()
        for i in range(calls):
            fn(*sets[i % len(sets)])
        return (clock() - start) / calls
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for i in range(calls):
        fn(*sets[i % len(sets)])
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3 / calls


def calls_for(fn: Callable[..., Any], sets: list[Args]) -> int:
    once = per_call(fn, sets, min(3, len(sets)))
    return max(3, min(2 * len(sets) if len(sets) > 1 else 20000, int(SECONDS / once)))


def rooflines() -> dict[str, tuple[Callable[[], Any], float]]:
    """What the machine can do: a kernel of torch, and the GB or GFLOP of one call of it."""
    source, target = torch.ones(1 << 26, device=device), torch.empty(1 << 26, device=device)
    square = torch.randn(1024, 1024, device=device)
    narrow = torch.randn(2048, 2048, device=device).bfloat16()
    return {
        "copy": (lambda: target.copy_(source), 2 * source.nbytes / 1e9),
        "read": (lambda: torch.sum(source), source.nbytes / 1e9),
        "fma": (lambda: square @ square, 2 * 1024**3 / 1e9),
        "fma_bf16": (lambda: narrow @ narrow, 2 * 2048**3 / 1e9),
    }


def measure(name: str, case: Case, roofs: dict[str, tuple[Callable[[], Any], float]],
            footprint: int = FOOTPRINT) -> dict[str, Any]:  # fmt: skip
    """One row: microseconds, GB/s or GFLOP/s, percent of the roofline, ratio to the baseline."""
    from warpweave import _native

    sets = copies(case, footprint)
    roof, amount = roofs[case.bound]
    plan = [(fn, calls_for(fn, sets)) for fn in (case.run, case.baseline) if fn]
    rounds = []
    for _ in range(ROUNDS):
        limit = amount / per_call(roof, [()], 1)
        rounds.append((limit, *(per_call(fn, sets, calls) for fn, calls in plan)))
    limit, seconds, *base = (median(column) for column in zip(*rounds, strict=True))
    arithmetic = case.bound.startswith("fma")
    rate = (case.flops if arithmetic else case.bytes) / seconds / 1e9
    return {
        "op": name, "shape": case.shape, "dtype": str(case.dtype).removeprefix("torch."),
        "isa": _native.cpu_isa() if device == "cpu" else device,
        "threads": torch.get_num_threads(), "us": seconds * 1e6,
        "rate": rate, "unit": "GFLOP/s" if arithmetic else "GB/s", "bound": case.bound,
        "roofline": limit, "percent": 100 * rate / limit, "warm": case.warm,
        "tokens_per_s": case.tokens / seconds, "versus": case.versus,
        "ratio": base[0] / seconds if base else None,
    }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    roofline = (
        "warm, so no roofline" if row["warm"]
        else f"{row['percent']:4.0f} % of {row['bound']} {row['roofline']:.1f}"
    )  # fmt: skip
    ratio = f"{row['ratio']:>6.2f}x" if row["ratio"] else "      -"
    tokens = f"  {row['tokens_per_s']:.1f} tokens/s" if row["tokens_per_s"] else ""
    return (
        f"{row['op']:<21} {row['shape']:<38} {row['dtype']:<9} {row['isa']:<11} "
        f"{row['us']:>9.1f} us {row['rate']:>7.1f} {row['unit']:<7} {roofline:<24} "
        f"{ratio} {row['versus']}{tokens}"
    )


def run_cases(name: str, cases: Iterable[Case]) -> Iterable[dict[str, Any]]:
    if device == "cpu":
        keep_memory()
    roofs = rooflines()
    with torch.inference_mode():
        for case in cases:
            yield measure(name, case, roofs)
