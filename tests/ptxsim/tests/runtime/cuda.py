# SPDX-License-Identifier: Apache-2.0
"""CUDA's C API as the simulator offers it, and the host code of kernels/runtime.cu."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptxsim import build
from ptxsim.driver import Simulator, simulator

DEVICES = ("A100", "RTX4090", "H100", "B200", "RTXPRO6000")
HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE, BY_ADDRESS = 1, 2, 3, 4
MAX_DYNAMIC_SHARED, NON_PORTABLE_CLUSTER = 8, 14  # cudaFuncAttribute


class Dim3(ctypes.Structure):
    _fields_ = (("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint))


def dim3(x: int = 1, y: int = 1, z: int = 1) -> Dim3:
    return Dim3(x, y, z)


@cache
def library() -> ctypes.CDLL:
    simulator()
    return ctypes.CDLL(str(build.kernels("runtime", "80", "90a")))


def call(function: Any, *arguments: Any) -> int:
    """With integers of 64 bits, which do for every smaller one and for handles, too."""
    return int(function(*(ctypes.c_int64(a) if isinstance(a, int) else a for a in arguments)))


class Cuda:
    """`cuda.Malloc(p, 4)` calls cudaMalloc and returns its status."""

    def __init__(self, device: str) -> None:
        self.sim: Simulator = simulator()
        library()
        self.sim.reset(device)
        self.GetLastError()

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: call(getattr(self.sim.c, f"cuda{name}"), *arguments)

    def host(self, name: str, *arguments: Any) -> int:
        """A function of kernels/runtime.cu."""
        return call(getattr(library(), name), *arguments)

    def make(self, what: str, *arguments: Any) -> int:
        """The handle or address that cuda<what> returns in its first argument."""
        handle = ctypes.c_void_p()
        assert call(getattr(self.sim.c, f"cuda{what}"), ctypes.byref(handle), *arguments) == 0
        return handle.value or 0

    def get(self, what: str, *arguments: Any) -> int:
        """The int that cuda<what> returns in its first argument."""
        value = ctypes.c_int()
        assert call(getattr(self.sim.c, f"cuda{what}"), ctypes.byref(value), *arguments) == 0
        return value.value

    def read(self, address: int, n: int, dtype: Any = np.int32) -> NDArray[Any]:
        out = np.zeros(n, dtype)
        assert self.Memcpy(out.ctypes.data, address, out.nbytes, DEVICE_TO_HOST) == 0
        return out

    def write(self, address: int, values: NDArray[Any]) -> None:
        assert self.Memcpy(address, values.ctypes.data, values.nbytes, HOST_TO_DEVICE) == 0

    def zeros(self, n: int) -> int:
        """The address of n ints that are 0."""
        address = self.make("Malloc", 4 * n)
        assert self.Memset(address, 0, 4 * n) == 0
        return address

    def launch(self, kernel: str, x: int, by: int = 0, grid: Dim3 | None = None,
               block: Dim3 | None = None, shared: int = 0, stream: int = 0,
               how: str = "LaunchKernel") -> int:  # fmt: skip
        """A kernel of (pointer, int), or of the pointer alone."""
        values = ctypes.c_void_p(x), ctypes.c_int(by)
        pointers = (ctypes.c_void_p * 2)(*(ctypes.addressof(v) for v in values))
        return int(call(getattr(self.sim.c, f"cuda{how}"), function(kernel), grid or dim3(),
                        block or dim3(), pointers, shared, stream))  # fmt: skip

    def why(self) -> str:
        return str(self.sim.c.ptxsim_cuda_failure().decode())


def function(name: str) -> int:
    get = getattr(library(), f"function_{name}")
    get.restype = ctypes.c_void_p
    return int(get())


def symbol(name: str) -> int:
    get = getattr(library(), f"symbol_{name}")
    get.restype = ctypes.c_void_p
    return int(get())
