# SPDX-License-Identifier: Apache-2.0
"""Two GEMMs of our own, as kernels for sm_80 and sm_90a are built, and mutants of them: the right
ones come out exact and raise no report, each mutant is caught under every schedule."""

from __future__ import annotations

import ctypes

import ml_dtypes
import numpy as np
import pytest

from ptxsim import build
from ptxsim.driver import aligned, simulator

SEEDS = range(12)
M, N, K = 128, 64, 256
TARGETS = {"sm_80": ("pipeline_sm80", "80", "A100"), "sm_90a": ("pipeline_sm90", "90a", "H100")}
BOTH = ("syncthreads_dropped", "off_by_one", "unwritten", "atomic_missing", "wrong_swizzle")
MUTANTS = {
    "sm_80": (*BOTH, "copy_wait_dropped"),
    "sm_90a": (*BOTH, "wgmma_wait_dropped", "full_barrier_skipped", "empty_barrier_skipped",
               "wrong_expect_tx", "async_fence_missing"),
}  # fmt: skip
LETTERS = {
    "asynchronous operation in flight": "f",
    "barrier misuse": "b",
    "deadlock": "d",
    "hazard within a warp": "h",
    "out of bounds": "o",
    "race": "r",
    "race through the async proxy": "p",
    "read of memory nothing wrote": "u",
    "wrong result": "w",
}


def outcome(arch: str, fault: str, seed: int) -> set[str]:
    """The kinds of reports, and "wrong result"; empty if all is right."""
    library, ptx, device = TARGETS[arch]
    sim = simulator()
    sim.reset(device, seed=seed, max_reports=1000)
    entry = ctypes.CDLL(str(build.kernels(library, ptx))).run
    entry.argtypes = [ctypes.c_char_p, *[ctypes.c_int] * 3, *[ctypes.c_void_p] * 5]
    random = np.random.default_rng(seed)
    a, b = (aligned(random.integers(-3, 4, (rows, K)).astype(ml_dtypes.bfloat16))
            for rows in (M, N))  # fmt: skip
    bias = aligned(random.integers(-9, 10, N).astype(np.float32))
    d, total = aligned(np.full((M, N), np.nan, np.float32)), aligned(np.zeros(1, np.int32))
    with sim.exposed({"a": a, "b": b, "bias": bias}, {"d": d}, written=False), \
            sim.exposed({}, {"total": total}):  # fmt: skip
        status = entry(fault.encode(), M, N, K, *(x.ctypes.data for x in (a, b, bias, d, total)))
        found = {report["kind"] for report in sim.reports()}
    expected = a.astype(np.float32) @ b.astype(np.float32).T + bias
    right = np.array_equal(d, expected) and total[0] == expected.sum()
    if status and not found:
        found.add(f"error {status}")
    return found if right else found | {"wrong result"}


@pytest.mark.parametrize("arch", TARGETS)
def test_right(arch: str) -> None:
    for seed in SEEDS:
        assert not outcome(arch, "right", seed), seed


@pytest.mark.parametrize("arch", TARGETS)
def test_mutants(arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = {fault: [outcome(arch, fault, seed) for seed in SEEDS] for fault in MUTANTS[arch]}
    with capsys.disabled():
        print(f"\n{arch:24s}{''.join(f'{seed:5d}' for seed in SEEDS)}   (seed)")
        for fault, row in table.items():
            cells = ("".join(LETTERS[kind] for kind in sorted(cell)) or "MISSED" for cell in row)
            print(f"  {fault:22s}{''.join(f'{cell:>5s}' for cell in cells)}")
        print("  " + ", ".join(f"{letter} {kind}" for kind, letter in LETTERS.items()))
    missed = [fault for fault, row in table.items() if not all(row)]
    assert not missed
    # Whatever the result, these are found for what they are.
    for fault, row in table.items():
        assert fault == "wrong_swizzle" or all(cell - {"wrong result"} for cell in row), fault
