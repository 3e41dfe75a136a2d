# SPDX-License-Identifier: Apache-2.0
"""Device memory: allocation, copies, what is refused, and what a kernel finds after a free."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from ptxsim.driver import aligned
from ptxsim.tests.runtime.cuda import (
    BY_ADDRESS,
    DEVICE_TO_DEVICE,
    DEVICE_TO_HOST,
    HOST_TO_DEVICE,
    Cuda,
    symbol,
)  # fmt: skip

INVALID_VALUE, OUT_OF_MEMORY, INVALID_SYMBOL, INVALID_DIRECTION = 1, 2, 13, 21
COUNT = np.arange(64, dtype=np.int32)


def test_copies(cuda: Cuda) -> None:
    p, q = cuda.make("Malloc", 256), cuda.make("Malloc", 256)
    assert p % 256 == q % 256 == 0
    cuda.write(p, COUNT)
    assert cuda.Memcpy(q, p, 256, DEVICE_TO_DEVICE) == 0
    np.testing.assert_array_equal(cuda.read(q, 64), COUNT)
    out = np.zeros(1, np.int32)
    assert cuda.Memcpy(out.ctypes.data, q + 8, 4, BY_ADDRESS) == 0
    assert cuda.MemcpyAsync(q, q + 128, 128, DEVICE_TO_DEVICE, 0) == 0
    np.testing.assert_array_equal(cuda.read(q, 32), COUNT[32:])
    assert out[0] == 2


@pytest.mark.parametrize(
    ("to", "start", "size", "kind", "status"),
    [
        ("p", 0, 257, HOST_TO_DEVICE, INVALID_VALUE), ("p", 1, 256, HOST_TO_DEVICE, INVALID_VALUE),
        ("host", 0, 1, HOST_TO_DEVICE, INVALID_VALUE), ("p", 0, 3, 9, INVALID_DIRECTION),
        ("p", 0, 256, HOST_TO_DEVICE, 0), ("p", 255, 1, HOST_TO_DEVICE, 0),
    ],
)  # fmt: skip
def test_bounds_of_copies(
    cuda: Cuda, to: str, start: int, size: int, kind: int, status: int
) -> None:
    host = np.zeros(300, np.uint8)
    base = cuda.make("Malloc", 256) if to == "p" else host.ctypes.data
    assert cuda.Memcpy(base + start, host.ctypes.data, size, kind) == status


def test_memset(cuda: Cuda) -> None:
    p = cuda.make("Malloc", 256)
    cuda.write(p, COUNT)
    assert cuda.Memset(p, 7, 100) == 0
    assert cuda.read(p, 256, np.uint8)[:104].tolist() == [7] * 100 + [25, 0, 0, 0]
    assert cuda.MemsetAsync(p, 1, 4, 0) == 0
    assert cuda.read(p, 1)[0] == 0x01010101
    assert cuda.Memset(COUNT.ctypes.data, 7, 1) == INVALID_VALUE


def test_rectangles(cuda: Cuda) -> None:
    """8 rows of 8 bytes, 32 apart in the source and 16 in the destination."""
    p = cuda.make("Malloc", 256)
    cuda.write(p, np.zeros(64, np.int32))
    source = np.arange(256, dtype=np.uint8)
    assert cuda.Memcpy2D(p, 16, source.ctypes.data, 32, 8, 8, HOST_TO_DEVICE) == 0
    expected = np.zeros((16, 16), np.uint8)
    expected[:8, :8] = source.reshape(8, 32)[:, :8]
    np.testing.assert_array_equal(cuda.read(p, 256, np.uint8), expected.ravel())
    narrow = cuda.Memcpy2D(p, 4, source.ctypes.data, 32, 8, 8, HOST_TO_DEVICE)
    assert narrow == 12  # cudaErrorInvalidPitchValue
    assert cuda.Memcpy2D(p, 16, source.ctypes.data, 32, 8, 17, HOST_TO_DEVICE) == INVALID_VALUE


def test_free(cuda: Cuda) -> None:
    p = cuda.make("Malloc", 256)
    assert cuda.Free(p + 1) == INVALID_VALUE
    assert cuda.Free(p) == 0
    assert cuda.Free(p) == INVALID_VALUE
    assert cuda.Free(0) == 0
    assert cuda.Memcpy(p, COUNT.ctypes.data, 1, HOST_TO_DEVICE) == INVALID_VALUE
    assert "freed" in cuda.why()
    assert cuda.make("Malloc", 0) == 0
    q = cuda.make("MallocAsync", 32, 0)
    assert cuda.FreeAsync(q, 0) == 0


def test_use_after_free(cuda: Cuda) -> None:
    p = cuda.zeros(1)
    assert cuda.Free(p) == 0
    cuda.launch("increment", p)
    assert cuda.DeviceSynchronize() == 700
    (report,) = cuda.sim.reports()
    assert (report["kind"], report["is_fault"]) == ("use after free", True)
    assert "reads 4 bytes" in report["text"]


def test_memory_that_nothing_wrote(cuda: Cuda) -> None:
    cuda.launch("increment", cuda.make("Malloc", 4))
    assert [r["kind"] for r in cuda.sim.reports()] == ["read of memory nothing wrote"]


def test_limit(cuda: Cuda) -> None:
    cuda.sim.reset("H100", memory_limit=1 << 20)
    p = ctypes.c_void_p()
    assert cuda.Malloc(ctypes.byref(p), 1 << 19) == 0
    assert cuda.Malloc(ctypes.byref(p), 1 << 20) == OUT_OF_MEMORY
    assert cuda.GetLastError() == OUT_OF_MEMORY
    with pytest.raises(RuntimeError, match="no option 'colour'"):
        cuda.sim.reset("H100", colour=1)


def test_host_memory(cuda: Cuda) -> None:
    unregistered, host, device = 0, 1, 2
    pinned, p = cuda.make("MallocHost", 64), cuda.make("Malloc", 64)
    kind, seen = ctypes.c_int(), ctypes.c_void_p()
    for pointer, expected, visible in (
        (pinned, host, pinned), (p, device, p), (COUNT.ctypes.data, unregistered, None),
    ):  # fmt: skip
        assert cuda.host("pointer_type", pointer, ctypes.byref(kind), ctypes.byref(seen)) == 0
        assert (kind.value, seen.value) == (expected, visible)
    assert cuda.Free(pinned) == INVALID_VALUE
    assert cuda.FreeHost(pinned) == 0
    array = COUNT.copy()
    assert cuda.HostRegister(array.ctypes.data, 256, 0) == 0
    assert cuda.HostRegister(array.ctypes.data, 256, 0) == 712
    assert cuda.HostUnregister(array.ctypes.data) == 0
    assert cuda.HostUnregister(array.ctypes.data) == 713


def test_exposed_memory(cuda: Cuda) -> None:
    """Memory of the caller is device memory for a while, and inputs stay as they are."""
    x, y = aligned(COUNT), cuda.make("Malloc", 256)
    with cuda.sim.exposed({"argument x": x}, {}):
        with pytest.raises(RuntimeError, match="'part' overlaps 'argument x'"):
            cuda.sim.exposed({"part": x[2:4]}, {}).__enter__()
        assert cuda.Memset(x.ctypes.data, 0, 1) == INVALID_VALUE
        assert "read only" in cuda.why()
        assert cuda.Memcpy(y, x.ctypes.data, 256, DEVICE_TO_DEVICE) == 0
    assert cuda.Memcpy(y, x.ctypes.data, 256, DEVICE_TO_DEVICE) == INVALID_VALUE
    np.testing.assert_array_equal(cuda.read(y, 64), COUNT)


def test_symbols(cuda: Cuda) -> None:
    count = ctypes.c_int(99)
    counter, table = symbol("counter"), symbol("table")
    assert cuda.MemcpyToSymbol(counter, ctypes.byref(count), 4, 0, HOST_TO_DEVICE) == 0
    count.value = 0
    assert cuda.MemcpyFromSymbol(ctypes.byref(count), counter, 4, 0, DEVICE_TO_HOST) == 0
    assert count.value == 99
    values = (ctypes.c_float * 4)(9)
    assert cuda.MemcpyToSymbol(table, values, 4, 8, HOST_TO_DEVICE) == 0
    assert cuda.MemcpyFromSymbol(values, table, 16, 0, DEVICE_TO_HOST) == 0
    assert list(values) == [1, 2, 9, 4]
    assert cuda.MemcpyFromSymbol(values, table, 16, 4, DEVICE_TO_HOST) == INVALID_VALUE
    assert cuda.MemcpyToSymbol(table, values, 4, 8, DEVICE_TO_HOST) == INVALID_DIRECTION
    assert cuda.MemcpyFromSymbol(values, 5, 4, 0, DEVICE_TO_HOST) == INVALID_SYMBOL
    size = ctypes.c_size_t()
    assert cuda.GetSymbolSize(ctypes.byref(size), table) == 0
    assert size.value == 16
    assert cuda.Memset(cuda.make("GetSymbolAddress", table), 0, 4) == INVALID_VALUE  # constant


def test_managed_variable(cuda: Cuda) -> None:
    """Host code reads what the kernel wrote, and a new device starts from the initial value."""
    assert cuda.host("managed_value") == 3
    assert cuda.host("run_parameters", cuda.make("Malloc", 48)) == 0
    assert cuda.host("managed_value") == 4
    cuda.host("set_managed", 8)
    assert cuda.host("managed_value") == 8
    assert Cuda("A100").host("managed_value") == 3
