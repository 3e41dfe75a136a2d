# SPDX-License-Identifier: Apache-2.0
"""How many blocks fit: as cuda_occupancy.h computes it, which comes with the CUDA toolkit."""

from __future__ import annotations

import ctypes

import pytest

from ptxsim.tests.runtime.cuda import DEVICES, MAX_DYNAMIC_SHARED, Cuda, dim3, function

BLOCKS = "OccupancyMaxActiveBlocksPerMultiprocessor"


@pytest.mark.parametrize("name", DEVICES)
def test_blocks_of_an_sm(name: str) -> None:
    cuda = Cuda(name)
    shape, most = function("shape"), cuda.sim.device()["shared_per_block_optin"]
    assert cuda.launch("shape", cuda.zeros(8)) == 0
    for shared in (0, 1, 100, 1024, 40000, 49152, 50000, 101376, 166912, 232448):
        if shared > most:
            continue
        assert cuda.FuncSetAttribute(shape, MAX_DYNAMIC_SHARED, shared) == 0
        for registers in (16, 32, 40, 64, 72, 80, 96, 128, 168, 255):
            assert cuda.sim.c.ptxsim_set_registers(b"_Z5shapePj", registers) == 0
            for threads in (1, 32, 96, 128, 160, 256, 384, 512, 1024):
                got = cuda.get(BLOCKS, shape, threads, shared)
                expected = cuda.host("reference_occupancy", threads, registers, shared)
                assert got == expected, (threads, registers, shared)


def test_wrong_blocks(cuda: Cuda) -> None:
    blocks = ctypes.c_int()
    assert cuda.get(BLOCKS, function("shape"), 1025, 0) == 0
    assert getattr(cuda, BLOCKS)(ctypes.byref(blocks), function("shape"), 0, 0) == 1


def test_largest_block(cuda: Cuda) -> None:
    """__launch_bounds__(128): 16 blocks of it fill an SM's 64 warps."""
    grid, block = ctypes.c_int(), ctypes.c_int()
    assert cuda.launch("bounded", cuda.zeros(8), block=dim3(128)) == 0
    assert cuda.sim.c.ptxsim_set_registers(b"_Z7boundedPj", 16) == 0
    assert cuda.host("potential_block", ctypes.byref(grid), ctypes.byref(block)) == 0
    assert (grid.value, block.value) == (16 * 132, 128)


def test_shared_memory_that_is_left(cuda: Cuda) -> None:
    """Half of 228 KiB, less the reserved KiB and the kernel's 8."""
    left = ctypes.c_size_t()
    statics = function("statics")
    assert cuda.OccupancyAvailableDynamicSMemPerBlock(ctypes.byref(left), statics, 2, 64) == 0
    assert left.value == 114 * 1024 - 1024 - 8192


def test_clusters(cuda: Cuda) -> None:
    active, largest = ctypes.c_int(), ctypes.c_int()
    out = ctypes.byref(active), ctypes.byref(largest)
    assert cuda.launch("bounded", cuda.zeros(8)) == 0
    assert cuda.sim.c.ptxsim_set_registers(b"_Z7boundedPj", 16) == 0
    assert cuda.host("active_clusters", 4, *out) == 0
    assert (active.value, largest.value) == (132 * 32 // 4, 8)
    assert cuda.FuncSetAttribute(function("bounded"), 14, 1) == 0  # not portable
    assert cuda.host("active_clusters", 16, *out) == 0
    assert (active.value, largest.value) == (132 * 32 // 16, 16)


def test_clusters_of_a_card_without(ampere: Cuda) -> None:
    value = ctypes.byref(ctypes.c_int())
    assert ampere.host("active_clusters", 4, value, value) == 801
