# SPDX-License-Identifier: Apache-2.0
"""The counters of tiny kernels against numbers worked out by hand."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ptxsim import build
from ptxsim.driver import Simulator, aligned, simulator

Run = Callable[..., dict[str, Any]]
F32 = np.float32


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    simulator()
    return ctypes.CDLL(str(build.kernels("counters", "90a")))


@pytest.fixture
def sim(library: ctypes.CDLL) -> Simulator:
    sim = simulator()
    sim.reset("H100")
    return sim


@pytest.fixture
def run(sim: Simulator, library: ctypes.CDLL) -> Run:
    """Launches a kernel of kernels/counters.cu once and returns its counters."""

    def launch(name: str, *arguments: NDArray[Any] | int, reports: int = 0) -> dict[str, Any]:
        arrays = {f"{i}": a for i, a in enumerate(arguments) if isinstance(a, np.ndarray)}
        with sim.exposed({}, arrays):
            status = getattr(library, f"run_{name}")(
                *(ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else a
                  for a in arguments)
            )  # fmt: skip
        assert (status, sim.reports()[reports:]) == (0, [])
        return sim.counters()[-1]

    return launch


def zeros(n: int, dtype: Any = F32) -> NDArray[Any]:
    return aligned(np.zeros(n, dtype))


@pytest.mark.parametrize(
    ("stride", "offset", "sectors"), [(1, 0, 4), (1, 1, 5), (2, 0, 8), (8, 0, 32), (0, 0, 1)]
)
def test_sectors_of_a_load(run: Run, stride: int, offset: int, sectors: int) -> None:
    c = run("strided_load", zeros(512), zeros(32), stride, offset, 1, 32)
    assert c["global_load"] == {"bytes": 128, "sectors": sectors}
    assert c["global_store"] == {"bytes": 128, "sectors": 4}
    assert (c["loaded"], c["stored"], c["dram_bytes"]) == (sectors, 4, 32 * (sectors + 4))


def test_unique_sectors(run: Run) -> None:
    """4 blocks of 2 warps: all read the same 256 bytes, and each writes its own."""
    c = run("strided_load", zeros(64), zeros(256), 1, 0, 4, 64)
    assert c["global_load"]["sectors"] == c["loaded_by_blocks"] == 4 * 8
    assert c["loaded"] == 8
    assert c["global_store"]["sectors"] == c["stored_by_blocks"] == c["stored"] == 32
    both = run("strided_load", zeros(64), zeros(256), 0, 0, 4, 64)  # both warps the same sector
    assert (both["global_load"]["sectors"], both["loaded_by_blocks"], both["loaded"]) == (8, 4, 1)


@pytest.mark.parametrize(
    ("stride", "wavefronts"), [(0, 1), (1, 1), (2, 2), (4, 4), (16, 16), (32, 32), (33, 1)]
)
def test_bank_conflicts(run: Run, stride: int, wavefronts: int) -> None:
    c = run("strided_shared", stride)
    assert c["shared_store"] == {"bytes": 128, "actual": wavefronts, "minimal": 1}
    assert c["wavefronts"] == wavefronts


@pytest.mark.parametrize(("stride", "wavefronts"), [(1, 4), (2, 8), (0, 4)])
def test_bank_conflicts_of_vectors(run: Run, stride: int, wavefronts: int) -> None:
    """16 bytes a lane: 8 lanes make a wavefront at best."""
    c = run("vector_shared", stride)
    assert c["shared_store"] == {"bytes": 512, "actual": wavefronts, "minimal": 4}


@pytest.mark.parametrize(("pitch", "each"), [(16, 1), (32, 2), (128, 8), (144, 1)])
def test_matrices(run: Run, pitch: int, each: int) -> None:
    """Rows of 16 bytes: 8 of them, a matrix, make a wavefront at best."""
    c = run("matrices", pitch)
    assert c["stmatrix"] == {"bytes": 512, "actual": 4 * each, "minimal": 4}
    assert c["ldmatrix"] == {"bytes": 256, "actual": 2 * each, "minimal": 2}
    assert c["shared_load"]["bytes"] == c["shared_store"]["bytes"] == 0


def test_copies(run: Run) -> None:
    """cp.async to every other 16 bytes: two lanes of a group of 8 want the same banks."""
    c = run("copies", zeros(128, np.int32))
    assert c["cp_async_load"] == {"bytes": 512, "sectors": 16}
    assert c["cp_async"] == {"bytes": 512, "actual": 8, "minimal": 4}
    assert c["instructions"]["cp_async"] == 1
    assert c["loaded"] == 16


@pytest.mark.parametrize("addresses", [1, 2, 32])
def test_atomics(run: Run, addresses: int) -> None:
    c = run("one_address_atomics", zeros(32, np.int32), addresses)
    expected = {"operations": 32, "collisions": 32 - addresses}
    assert c["global_atomics"] == c["shared_atomics"] == expected
    assert c["global_atomic"] == {"bytes": 128, "sectors": -(-addresses // 8)}
    assert c["shared_atomic"] == {"bytes": 128, "actual": 1, "minimal": 1}
    assert (c["loaded"], c["stored"]) == (0, -(-addresses // 8))
    assert c["instructions"]["atomic"] == 2


@pytest.mark.parametrize("off", [0, 1])
def test_instructions(run: Run, off: int) -> None:
    """3 blocks of 2 warps; one that all lanes skip is issued all the same."""
    c = run("arithmetic", zeros(1), off)
    assert c["instructions"]["float32"] == 3 * 6
    assert c["predicated_off"] == off * 6
    assert c["instructions"]["barrier"] == 2 * 6
    assert c["block_barriers"] == 2 * 3
    assert c["warp_instructions"] == sum(c["instructions"].values())
    assert c["kernel"] == "arithmetic"


def test_tensor_operations(run: Run) -> None:
    c = run("products")
    name = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
    assert c["tensor_operations"] == {name: 4 * 3 * 2 * 16 * 8 * 16}
    assert c["instructions"]["mma"] == 12


def test_bulk_copies(run: Run) -> None:
    """320 bytes at 64 in shared memory touch 3 of its lines, both ways."""
    c = run("bulk", zeros(512, np.uint8), zeros(512, np.uint8))
    assert c["bulk_load"] == c["bulk_store"] == {"bytes": 320, "sectors": 10}
    assert c["bulk"] == {"bytes": 640, "actual": 6, "minimal": 6}
    assert (c["loaded"], c["stored"], c["mbarrier_phases"]) == (10, 10, 1)
    assert c["instructions"]["bulk"] == 2


@pytest.mark.parametrize(("row", "rows"), [(0, 8), (16, 4), (-3, 5), (20, 0)])
def test_tensor_copies(run: Run, row: int, rows: int) -> None:
    """A box of 8 rows of 128 bytes: shared memory gets all of it, global memory what is inside."""
    c = run("tensor_copy", zeros(20 * 64, np.uint16), row)
    assert c["tma_load"] == c["tma_store"] == {"bytes": rows * 128, "sectors": rows * 4}
    assert (c["loaded"], c["stored"]) == (rows * 4, rows * 4)
    lines = 8 + rows
    assert c["tma"] == {"bytes": lines * 128, "actual": lines, "minimal": lines}


def test_multicast(run: Run) -> None:
    """Global memory is read once, the shared memory of both blocks written."""
    c = run("multicast", zeros(20 * 64, np.uint16), 0)
    assert c["tma_load"] == {"bytes": 1024, "sectors": 32}
    assert c["loaded_by_blocks"] == c["loaded"] == 32
    assert c["tma"] == {"bytes": 2048, "actual": 16, "minimal": 16}


def test_warpgroup_product(run: Run) -> None:
    """A is 64 rows of 32 bytes and B 8 columns: 16 + 2 core matrices, read once for 4 warps."""
    c = run("warpgroup_product")
    name = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16"
    assert c["tensor_operations"] == {name: 2 * 64 * 8 * 16}
    assert c["wgmma"] == {"bytes": 18 * 128, "actual": 18, "minimal": 18}
    assert c["instructions"]["wgmma"] == 4


def test_cluster_barriers(run: Run) -> None:
    c = run("clusters")
    assert (c["cluster"], c["blocks"], c["cluster_barriers"]) == ([2, 1, 1], 4, 2)


def test_parts_of_an_op(sim: Simulator, run: Run) -> None:
    with sim.op("twice", 256):
        for _ in range(2):
            run("products")
    assert [(op.name, op.compulsory_bytes, op.end - op.first) for op in sim.ops] == [
        ("twice", 256, 2)
    ]


def test_time_bound(sim: Simulator, run: Run) -> None:
    """Each term is its count over the device's rate, and the bound is the largest."""
    d = sim.device()
    clocks = d["sms"] * d["clock_ghz"] * 1e9
    for name, arguments, limit in (
        ("strided_load", (zeros(512), zeros(32), 8, 0, 1, 32), "DRAM"),
        ("strided_shared", (32,), "shared memory"),
        ("clusters", (), "issue slots"),
        ("warpgroup_product", (), "issue slots"),
    ):
        c = run(name, *arguments)
        assert c["dram_s"] == pytest.approx(c["dram_bytes"] / d["dram_gb_per_s"] / 1e9)
        assert c["issue_s"] == pytest.approx(c["warp_instructions"] / clocks / 4)
        assert c["shared_s"] == pytest.approx(c["wavefronts"] / clocks)
        operations = sum(c["tensor_operations"].values())
        assert c["tensor_s"] == pytest.approx(operations / d["tensor_tflops_bf16"] / 1e12)
        assert c["time_bound_s"] == max(c[f"{k}_s"] for k in ("dram", "tensor", "shared", "issue"))
        assert c["limited_by"] == limit


def test_registers_of_ptxas(sim: Simulator, run: Run) -> None:
    few, many = run("clusters"), run("wide", zeros(96))
    assert not few["registers_known"]
    sim.ask_ptxas()
    few, many = sim.counters()
    assert few["registers_known"]
    assert many["registers_known"]
    assert few["registers"] < 16 < 96 <= many["registers"]
    warps = 64 // 32 * few["blocks_per_sm"]
    assert few["occupancy"] == warps / sim.device()["warps_per_sm"]
