# SPDX-License-Identifier: Apache-2.0
"""Times the simulator on one core: python -m ptxsim.bench (PYTHONPATH=tests).

Warp instructions per second on arithmetic and on memory code, and a bf16 GEMM of CUTLASS, each
with the checkers off and on; the median of several runs against what is asked of it.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from ptxsim import build
from ptxsim.driver import aligned, simulator
from ptxsim.oracles import build as oracles

ROUNDS = 5
N = 1 << 20
# what: its number in kernels/bench.cu, its argument n, millions of warp instructions a second asked
CODE = {"arithmetic": (0, 512, 10.0), "global memory": (1, N, 3.0), "shared memory": (2, N, 3.0)}
GEMM = 512, 0.3, 1.5  # m = n = k; seconds without and with checkers


def seconds(run: Callable[[], int], checks: int) -> tuple[float, int]:
    """Of one run, and its warp instructions."""
    sim, times = simulator(), []
    for seed in range(ROUNDS):
        sim.reset("A100", seed=seed, check_races=checks, check_unwritten=checks)
        start = time.perf_counter()
        status = run()
        times.append(time.perf_counter() - start)
        if status or sim.reports():
            raise RuntimeError(f"{status}: {sim.report_texts()}")
    return median(times), sum(c["warp_instructions"] for c in sim.counters())


def line(what: str, checks: int, value: float, unit: str, asked: str) -> None:
    checkers = "checkers on" if checks else "checkers off"
    print(f"{what:<16} {checkers:<13} {value:8.3f} {unit:<26} {asked}", flush=True)


def code() -> None:
    simulator()
    library = ctypes.CDLL(str(build.kernels("bench", "80")))
    x, y = (aligned(np.ones(N, np.float32)) for _ in range(2))
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (y, x)]
    for what, (which, n, asked) in CODE.items():
        for checks in (0, 1):

            def run(which: int = which, n: int = n) -> int:
                with simulator().exposed({"x": x}, {"y": y}):
                    return int(library.run(which, *pointers, n))

            took, instructions = seconds(run, checks)
            line(what, checks, instructions / took / 1e6, "M warp instructions / s",
                 "" if checks else f"asked: {asked}")  # fmt: skip


def gemm() -> None:
    size, off, on = GEMM
    library = oracles.load(oracles.build("sm80_gemm", build.BUILD / "oracles", build.nvcc()))
    rng = np.random.default_rng(0)
    one = np.float32(1).view(np.uint32) >> 16  # of bfloat16
    a, b = (aligned((rng.integers(0, 2, size * size) * one).astype(np.uint16)) for _ in range(2))
    d = aligned(np.zeros((size, size), np.float32))
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in (a, b)]

    def run() -> int:
        with simulator().exposed({"a": a, "b": b}, {"d": d}, written=False):
            return int(library.sm80_bf16(*[size] * 3, *pointers, None, d.ctypes.data))

    for checks, asked in ((0, off), (1, on)):
        line(f"GEMM {size}^3", checks, seconds(run, checks)[0], "s", f"asked: {asked}")


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    code()
    gemm()


if __name__ == "__main__":
    main()
