# SPDX-License-Identifier: Apache-2.0
"""The oracles' libraries, compiled in the background from when they are asked for."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

from ptxsim import build
from ptxsim.driver import simulator
from ptxsim.oracles import build as oracles

# As they are compiled and tested; the first take 15 s, the last 60 s.
ORDER = ("sm80_gemm", "sm80_grouped", "sm90_gemm", "sm90_grouped", "sm120_nvfp4", "sm90_e4m3",
         "sm90_mixed", "sm120_mxfp8")  # fmt: skip
GIGABYTES = 5  # that one needs at most

_compiled: dict[str, Future[Path]] = {}


def _compile(name: str) -> Path:
    build.simulator()  # first, for all tests wait for it
    return oracles.build(name, build.BUILD / "oracles", build.nvcc())


def start(names: Iterable[str]) -> None:
    """Begins to compile, two at a time if the memory is enough for that."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    pool = ThreadPoolExecutor(2 if memory > 2.5e9 * GIGABYTES else 1)
    for name in sorted(names, key=ORDER.index):
        _compiled[name] = pool.submit(_compile, name)
    pool.shutdown(wait=False)


def stop() -> None:
    """Compiles nothing more than what is being compiled: the process would wait for all."""
    for future in _compiled.values():
        future.cancel()


@cache
def load(name: str) -> ctypes.CDLL:
    """A library with the simulator as its CUDA runtime, waited for."""
    simulator()
    return oracles.load(_compiled[name].result())


def ptx(name: str) -> str:
    return oracles.ptx(_compiled[name].result())
