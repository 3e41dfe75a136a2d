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
COPIES = "race through the async proxy"
SM90 = [
    Case("wgmma_proxy_fence_missing", COPIES, "wgmma", 1, 128, [16] * 128),
    Case("wgmma_fence_missing", FLIGHT, "wgmma", 1, 128, [16] * 128),
    Case("wgmma_commit_missing", FLIGHT, "wgmma", 1, 128, [16] * 128),
    Case("wgmma_wait_missing", FLIGHT, "wgmma", 1, 128, [16] * 128),
    Case("wgmma_early_read", FLIGHT, "wgmma", 1, 128, [16] * 128),
    Case("wgmma_early_write", RACE, "wgmma", 1, 128, [16] * 128),
    Case("wgmma_early_copy", RACE, "wgmma", 1, 128, [16] * 128),
    Case("wgmma_registers_a_written", FLIGHT, "wgmma_registers", 1, 128, [16] * 128),
    Case("wgmma_registers_a_read", FLIGHT, "wgmma_registers", 1, 128, [16] * 128),
    Case("wgmma_registers_d_written", FLIGHT, "wgmma_registers", 1, 128, [16] * 128),
    Case("load_wait_missing", RACE, "load", result=COPY[::-1]),
    Case("load_expects_less", "deadlock", "load", result=COPY[::-1]),
    Case("load_expects_more", "deadlock", "load", result=COPY[::-1]),
    Case("load_expects_too_much", BARRIER, "load", result=COPY[::-1]),
    Case("load_over_unfenced_write", COPIES, "load", result=COPY[::-1]),
    Case("exit_with_load", FLIGHT, "load", result=COPY[::-1]),
    Case("store_fence_missing", COPIES, "store", result=COPY[::-1]),
    Case("store_barrier_missing", RACE, "store", result=COPY[::-1]),
    Case("store_wait_missing", RACE, "store", result=COPY[::-1]),
    Case("exit_with_store", FLIGHT, "store", result=COPY[::-1]),
    Case("remote_before_start", RACE, "remote", 2, 128, np.r_[128:256, 0:128]),
    Case("remote_after_exit", f"{BOUNDS}|{FLIGHT}", "remote", 2, 128, np.r_[128:256, 0:128]),
    Case("map_release_missing", COPIES, "map", result=COPY[::-1]),
    Case("map_acquire_missing", COPIES, "map", result=COPY[::-1]),
]


def run(library: str, arch: str, device: str, name: str, case: Case, seed: int,
        **options: int) -> tuple[int, list[str], np.ndarray]:  # fmt: skip
    sim = simulator()
    sim.reset(device, seed=seed, max_instructions=200_000, **options)
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


ON_SM80 = ("checkers", "80", "A100")


def check(where: tuple[str, str, str], case: Case) -> None:
    for seed in SEEDS:
        status, kinds, out = run(*where, case.right, case, seed)
        assert (status, kinds) == (0, []), seed
        if case.result is not None:
            expected = np.asarray(case.result)
            np.testing.assert_array_equal(out[: expected.size], expected)
        _, kinds, _ = run(*where, case.fault, case, seed)
        assert set(case.kind.split("|")) & set(kinds), f"seed {seed}: {kinds}"


@pytest.mark.parametrize("case", SM80, ids=lambda c: c.fault)
def test_sm80(case: Case) -> None:
    check(ON_SM80, case)


@pytest.mark.parametrize("case", SM90, ids=lambda c: c.fault)
def test_sm90(case: Case) -> None:
    check(("checkers_sm90", "90a", "H100"), case)


def test_host_threads() -> None:
    """Independent blocks on one and several host threads: the same results, reports and counts."""
    for name, reported in (("blocks_write_their_own", 0), ("blocks_write_one_place", 1)):
        case = Case("", "", "", grid=64, block=1)
        runs = []
        for threads in (1, 2, 3):
            _, _, out = run(*ON_SM80, name, case, 0, host_threads=threads)
            sim = simulator()
            runs.append((sim.reports(), sim.counters()))
            assert len(sim.reports()) == reported
            assert reported or np.array_equal(out[:64], COPY[:64])
        assert runs[0] == runs[1] == runs[2]


def test_schedule_dependent_result() -> None:
    def sums(name: str) -> str:
        return same_results(lambda s: {"sum": run(*ON_SM80, name, SM80[0], s)[2]}, SEEDS)

    assert sums("float_sum").startswith("sum[0] is ")
    assert not sums("integer_sum")


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
