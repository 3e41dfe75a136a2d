# SPDX-License-Identifier: Apache-2.0
"""Launches of all kinds, and the limits that they are held to."""

from __future__ import annotations

import ctypes
import json

import numpy as np
import pytest

from ptxsim.tests.runtime.cuda import (
    MAX_DYNAMIC_SHARED,
    NON_PORTABLE_CLUSTER,
    Cuda,
    Dim3,
    dim3,
    function,
    symbol,
)

INVALID_VALUE, INVALID_CONFIGURATION, INVALID_CLUSTER = 1, 9, 912


def test_chevrons(cuda: Cuda) -> None:
    """Parameters of all sizes arrive, and each of the 192 threads counts itself."""
    out = cuda.make("Malloc", 48)
    assert cuda.host("run_parameters", out) == 0
    assert cuda.read(out, 6, np.float64).tolist() == [-9, 3, 5, 2.5, -2, 3]
    count = ctypes.c_int()
    assert cuda.MemcpyFromSymbol(ctypes.byref(count), symbol("counter"), 4, 0, 2) == 0
    assert count.value == 7 + 3 * 64


def test_shape(cuda: Cuda) -> None:
    out = cuda.zeros(8)
    assert cuda.launch("shape", out, grid=dim3(2, 3, 4), block=dim3(8, 2, 3), shared=1000) == 0
    assert cuda.read(out, 8).tolist() == [2, 3, 4, 8, 2, 3, 1, 1000]


@pytest.mark.parametrize(
    ("grid", "block", "status"),
    [
        (dim3(0), dim3(), INVALID_CONFIGURATION), (dim3(), dim3(0), INVALID_CONFIGURATION),
        (dim3(), dim3(1025), INVALID_CONFIGURATION), (dim3(), dim3(32, 33), INVALID_CONFIGURATION),
        (dim3(), dim3(1, 1, 65), INVALID_CONFIGURATION),
        (dim3(1, 65536), dim3(), INVALID_CONFIGURATION),
        (dim3(1, 1, 65536), dim3(), INVALID_CONFIGURATION),
        (dim3(2**31), dim3(), INVALID_CONFIGURATION), (dim3(), dim3(4, 4, 64), 0),
        (dim3(), dim3(1024), 0),
    ],
)  # fmt: skip
def test_sizes(cuda: Cuda, grid: Dim3, block: Dim3, status: int) -> None:
    """An error of a launch is seen once by cudaGetLastError and does not stick."""
    assert cuda.launch("shape", cuda.zeros(8), grid=grid, block=block) == status
    assert cuda.PeekAtLastError() == cuda.GetLastError() == status
    assert cuda.GetLastError() == cuda.DeviceSynchronize() == 0


def test_launch_bounds(cuda: Cuda) -> None:
    out = cuda.zeros(8)
    assert cuda.launch("bounded", out, block=dim3(128)) == 0
    assert cuda.launch("bounded", out, block=dim3(129)) == INVALID_VALUE
    assert "__launch_bounds__ of 128" in cuda.why()


def test_launched_and_not_executed(cuda: Cuda) -> None:
    out = cuda.zeros(8)
    cuda.sim.set_option("execute", 0)
    assert cuda.launch("shape", out, block=dim3(64)) == 0
    assert cuda.launch("bounded", out, block=dim3(129)) == INVALID_VALUE
    assert [c["block"] for c in cuda.sim.counters()] == [[64, 1, 1]]
    assert not cuda.read(out, 8).any()


def test_registers(cuda: Cuda) -> None:
    """What ptxas says limits the block: 168 registers of 384 threads fit, of 416 do not."""
    out = cuda.zeros(8)
    assert cuda.launch("shape", out, block=dim3(1024)) == 0
    assert cuda.sim.c.ptxsim_set_registers(b"_Z5shapePj", 168) == 0
    assert cuda.launch("shape", out, block=dim3(384)) == 0
    assert cuda.launch("shape", out, block=dim3(416)) == 701
    kernels = {k["name"]: k for k in json.loads(cuda.sim.c.ptxsim_kernels())}
    assert kernels["_Z5shapePj"]["registers"] == 168
    assert cuda.sim.c.ptxsim_set_registers(b"no such kernel", 1) == -1


def test_shared_memory(cuda: Cuda) -> None:
    """48 KiB without asking, 227 KiB with; static shared memory is part of both."""
    out = cuda.zeros(8)
    assert cuda.launch("shape", out, shared=49152) == 0
    assert cuda.launch("shape", out, shared=49153) == INVALID_VALUE
    statics = {"kernel": "statics", "x": out, "block": dim3(2)}
    assert cuda.launch(**statics, shared=49152 - 8192) == 0
    assert cuda.launch(**statics, shared=49152 - 8191) == INVALID_VALUE
    most = 232448 - 8192
    set_most = lambda n: cuda.FuncSetAttribute(function("statics"), MAX_DYNAMIC_SHARED, n)  # noqa: E731
    assert set_most(most + 1) == set_most(-1) == INVALID_VALUE
    assert set_most(most) == 0
    assert cuda.launch(**statics, shared=most) == 0
    assert cuda.launch(**statics, shared=most + 1) == INVALID_VALUE


def test_shared_memory_of_a_smaller_card(ampere: Cuda) -> None:
    """What an H100 has does not pass on an A100, and the reason is told."""
    attribute = function("statics"), MAX_DYNAMIC_SHARED
    assert ampere.FuncSetAttribute(*attribute, 232448 - 8192) == INVALID_VALUE
    assert "A100 has 158720" in ampere.why()
    assert ampere.FuncSetAttribute(*attribute, 166912 - 8192) == 0


def test_attributes_that_cannot_be_set(cuda: Cuda) -> None:
    carveout, maximum_threads = 9, 3
    assert cuda.FuncSetAttribute(function("statics"), carveout, 100) == 0
    assert cuda.FuncSetAttribute(function("statics"), carveout, 101) == INVALID_VALUE
    assert cuda.FuncSetAttribute(function("statics"), maximum_threads, 1) == INVALID_VALUE


def test_wrong_arguments(cuda: Cuda) -> None:
    pointers = (ctypes.c_void_p * 2)()
    assert cuda.LaunchKernel(12345, dim3(), dim3(), pointers, 0, 0) == 98
    assert cuda.LaunchKernel(function("increment"), dim3(), dim3(), 0, 0, 0) == INVALID_VALUE
    assert cuda.launch("increment", cuda.zeros(1), stream=77) == 400


@pytest.mark.parametrize(
    ("attributes", "status", "cluster"),
    [  # cluster, cooperative, programmatic, preferred cluster, unknown attribute
        ((0, 0, 0, 0, 0), 0, 1), ((2, 0, 1, 0, 0), 0, 2), ((8, 0, 0, 0, 0), 0, 8),
        ((3, 0, 0, 0, 0), INVALID_CLUSTER, 0), ((16, 0, 0, 0, 0), INVALID_CLUSTER, 0),
        ((2, 0, 0, 4, 0), 0, 2), ((2, 0, 0, 3, 0), INVALID_CLUSTER, 0),
        ((0, 1, 0, 0, 0), 0, 1), ((0, 0, 0, 0, 1), INVALID_VALUE, 0),
    ],
)  # fmt: skip
def test_extended(cuda: Cuda, attributes: tuple[int, ...], status: int, cluster: int) -> None:
    out = cuda.zeros(8)
    assert cuda.host("run_extended", out, *attributes) == status
    expected = [0] * 8 if status else [8, 1, 1, 64, 1, 1, cluster, 0]
    assert cuda.read(out, 8).tolist() == expected


def test_large_cluster(cuda: Cuda) -> None:
    """16 blocks of a cluster are not portable; the grid must hold whole ones."""
    assert cuda.FuncSetAttribute(function("bounded"), NON_PORTABLE_CLUSTER, 1) == 0
    assert cuda.host("run_extended", cuda.zeros(8), 16, 0, 0, 0, 0) == INVALID_CLUSTER
    assert "16" in cuda.why()


def test_cluster_of_the_source(cuda: Cuda) -> None:
    out = cuda.zeros(8)
    assert cuda.launch("clustered", out, grid=dim3(4)) == 0
    assert cuda.read(out, 8)[6] == 2
    assert cuda.launch("clustered", out, grid=dim3(3)) == INVALID_CLUSTER


def test_card_without_clusters(ampere: Cuda) -> None:
    out = ampere.zeros(8)
    assert ampere.host("run_extended", out, 1, 0, 0, 0, 0) == 0
    assert ampere.host("run_extended", out, 2, 0, 0, 0, 0) == INVALID_CLUSTER
    assert ampere.host("run_extended", out, 0, 0, 1, 0, 0) == 801  # programmatic launches, too
    assert ampere.FuncSetAttribute(function("bounded"), NON_PORTABLE_CLUSTER, 1) == 801


def test_cooperative(ampere: Cuda) -> None:
    """All blocks are on the card at once, so more than fit are refused."""
    x = ampere.zeros(2)
    grid = {"kernel": "grid_sum", "x": x, "how": "LaunchCooperativeKernel"}
    assert ampere.launch(**grid, grid=dim3(10), block=dim3(64)) == 0
    assert ampere.read(x, 2).tolist() == [45, 45]
    assert ampere.launch(**grid, grid=dim3(108 * 2 + 1), block=dim3(1024)) == 720


def test_counters_and_reports_are_cleared(cuda: Cuda) -> None:
    for by in range(3):
        assert cuda.launch("increment", cuda.zeros(1), by) == 0
    assert [c["kernel"] for c in cuda.sim.counters()] == ["increment"] * 3
    assert cuda.sim.c.ptxsim_counters(3) is None
    cuda.sim.c.ptxsim_clear()
    assert cuda.sim.counters() == cuda.sim.reports() == []
