# SPDX-License-Identifier: Apache-2.0
"""Every checker finds its fault under every schedule, and the repaired kernel raises no report."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from ptxsim import build
from ptxsim.driver import aligned, simulator

SEEDS = range(12)
LANES = np.arange(256)
RIGHT = {  # kernel: grid, block, which elements of the result must be what
    "barrier": (1, 256, slice(None), LANES[::-1]),
    "warp_barrier": (1, 256, slice(None), LANES ^ 1),
    "async_copy": (1, 256, slice(None), LANES[::-1]),
    "unwritten_unused": (1, 256, slice(255), LANES[:255]),
    "last_block": (8, 64, 1, sum(range(8))),
}
WRONG = {  # kernel: grid, block, what is reported
    "barrier_missing": (1, 256, "race"),
    "warp_barrier_missing": (1, 256, "hazard within a warp"),
    "async_copy_wait_missing": (1, 256, "race"),
    "async_copy_barrier_missing": (1, 256, "race"),
    "unwritten": (1, 256, "read of memory nothing wrote"),
    "last_block_fence_missing": (8, 64, "race"),
    "blocks_write_one_place": (4, 1, "race"),
    "past_the_end": (1, 256, "out of bounds"),
    "writes_its_input": (1, 256, "write to read-only memory"),
    "misaligned": (1, 32, "misaligned address"),
    "waits_for_nobody": (1, 64, "deadlock"),
    "traps": (1, 256, "trap"),
}


def run(name: str, grid: int, block: int, seed: int) -> tuple[int, list[str], np.ndarray]:
    sim = simulator()
    sim.reset("A100", seed=seed)
    library = ctypes.CDLL(str(build.kernels("checkers", "80")))
    library.run.argtypes = [ctypes.c_char_p, *[ctypes.c_int] * 2, *[ctypes.c_void_p] * 2]
    source = aligned(np.arange(256, dtype=np.float32))
    result = aligned(np.zeros(256, np.float32))
    with sim.exposed({"in": source}, {"out": result}):
        status = library.run(name.encode(), grid, block, source.ctypes.data, result.ctypes.data)
        kinds = [report["kind"] for report in sim.reports()]
    return status, kinds, result


@pytest.mark.parametrize("name", RIGHT)
def test_no_report(name: str) -> None:
    grid, block, part, expected = RIGHT[name]
    for seed in SEEDS:
        status, kinds, result = run(name, grid, block, seed)
        assert (status, kinds) == (0, []), seed
        np.testing.assert_array_equal(result[part], expected)


@pytest.mark.parametrize("name", WRONG)
def test_fault_is_found(name: str) -> None:
    *size, kind = WRONG[name]
    for seed in SEEDS:
        _, kinds, _ = run(name, *size, seed)
        assert kind in kinds, f"seed {seed}: {kinds}"
