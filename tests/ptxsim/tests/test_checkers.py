# SPDX-License-Identifier: Apache-2.0
"""Every checker finds its fault under every schedule, and the repaired kernel raises no report."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np
import pytest

from ptxsim import build
from ptxsim.driver import aligned, same_results, simulator

SEEDS = range(12)
LANES = np.arange(256)
COPY = LANES.astype(float)


class Case(NamedTuple):
    fault: str  # the kernel with it
    kind: str  # of the report
    right: str  # the kernel without
    grid: int = 1
    block: int = 256
    result: object = COPY  # of the right one; None: not looked at


RACE, WARP, BARRIER = "race", "hazard within a warp", "barrier misuse"
BOUNDS, FLIGHT = "out of bounds", "asynchronous operation in flight"
SM80 = [
    Case("barrier_missing", RACE, "barrier", result=COPY[::-1]),
    Case("warp_barrier_missing", WARP, "warp_barrier", result=LANES ^ 1),
    Case("warp_barrier_global_missing", WARP, "warp_barrier_global", result=LANES ^ 1),
    Case("lanes_write_one_place", WARP, "lanes_write_one_value", result=COPY[:128]),
    Case("async_copy_wait_missing", RACE, "async_copy", result=COPY[::-1]),
    Case("async_copy_barrier_missing", RACE, "async_copy", result=COPY[::-1]),
    Case("exit_with_copy", FLIGHT, "exit_after_copy"),
    Case("unwritten", "read of memory nothing wrote", "unwritten_unused", result=COPY[:255]),
    Case("last_block_fence_missing", RACE, "last_block", 8, 64, None),
    Case("blocks_write_one_place", RACE, "blocks_write_their_own", 4, 1, COPY[:4]),
    Case("past_the_end", BOUNDS, "up_to_the_end"),
    Case("past_shared", BOUNDS, "up_to_the_end_of_shared"),
    Case("past_dynamic_shared", BOUNDS, "up_to_the_end_of_dynamic_shared"),
    Case("past_local", BOUNDS, "up_to_the_end_of_local", result=None),
    Case("writes_its_input", "write to read-only memory", "reads_its_input"),
    Case("misaligned", "misaligned address", "aligned", 1, 32, LANES[:64] % 2),
    Case("waits_for_nobody", "deadlock", "named_barrier", 1, 64, COPY[:64]),
    Case("barrier_of_48", BARRIER, "named_barrier", 1, 64, COPY[:64]),
    Case("barrier_of_two_counts", BARRIER, "named_barrier_of_three", 1, 96, COPY[:96]),
    Case("divergent_barrier", BARRIER, "barrier_after_divergence", 1, 64, None),
    Case("mbarrier_made_again", BARRIER, "mbarrier", result=COPY[::-1]),
    Case("mbarrier_arrivals", BARRIER, "mbarrier", result=COPY[::-1]),
    Case("mbarrier_before_init", BARRIER, "mbarrier", result=COPY[::-1]),
    Case("mbarrier_after_inval", BARRIER, "mbarrier", result=COPY[::-1]),
    Case("mbarrier_unsynchronised", f"{RACE}|{WARP}|{BARRIER}", "mbarrier", result=COPY[::-1]),
    Case("waits_for_flag_in_vain", "deadlock", "waits_for_flag", 2, 64, [1]),
    Case("keeps_lock", "deadlock", "takes_lock", 1, 64, [0, 2]),
    Case("endless_loop", "limit", "loop", 1, 64, np.ones(64)),
    Case("traps", "trap", "no_trap"),
]


def run(library: str, arch: str, device: str, name: str, case: Case,
        seed: int) -> tuple[int, list[str], np.ndarray]:  # fmt: skip
    sim = simulator()
    sim.reset(device, seed=seed, max_instructions=200_000)
    entries = ctypes.CDLL(str(build.kernels(library, arch)))
    entries.run.argtypes = [ctypes.c_char_p, *[ctypes.c_int] * 2, *[ctypes.c_void_p] * 2]
    source = aligned(np.arange(256, dtype=np.float32))
    result = aligned(np.zeros(256, np.float32))
    with sim.exposed({"in": source}, {"out": result}):
        status = entries.run(
            name.encode(), case.grid, case.block, source.ctypes.data, result.ctypes.data
        )
        kinds = [report["kind"] for report in sim.reports()]
    return status, kinds, result


def on_sm80(name: str, case: Case, seed: int) -> tuple[int, list[str], np.ndarray]:
    return run("checkers", "80", "A100", name, case, seed)


def check_right(result: tuple[int, list[str], np.ndarray], case: Case, seed: int) -> None:
    status, kinds, out = result
    assert (status, kinds) == (0, []), seed
    if case.result is not None:
        expected = np.asarray(case.result)
        np.testing.assert_array_equal(out[: expected.size], expected)


@pytest.mark.parametrize("case", SM80, ids=lambda c: c.fault)
def test_sm80(case: Case) -> None:
    for seed in SEEDS:
        check_right(on_sm80(case.right, case, seed), case, seed)
        _, kinds, _ = on_sm80(case.fault, case, seed)
        assert set(case.kind.split("|")) & set(kinds), f"seed {seed}: {kinds}"


def test_schedule_dependent_result() -> None:
    case = Case("", "", "")
    dependent = same_results(lambda seed: {"sum": on_sm80("float_sum", case, seed)[2]}, SEEDS)
    assert dependent.startswith("sum[0] is ")
    assert not same_results(lambda seed: {"sum": on_sm80("integer_sum", case, seed)[2]}, SEEDS)


def test_freed_memory() -> None:
    sim = simulator()
    source = aligned(np.arange(256, dtype=np.float32))
    entries = ctypes.CDLL(str(build.kernels("checkers", "80")))
    entries.run_freed.argtypes = [ctypes.c_int, ctypes.c_void_p]
    sim.reset("A100")
    with sim.exposed({"in": source}, {}):
        assert entries.run_freed(0, source.ctypes.data) != 0
        assert [report["kind"] for report in sim.reports()] == ["use after free"]
    sim.reset("A100")
    assert entries.run_freed(1, source.ctypes.data) == 1  # cudaErrorInvalidValue
    assert "cudaFree" in sim.c.ptxsim_cuda_failure().decode()
