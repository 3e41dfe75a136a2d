# SPDX-License-Identifier: Apache-2.0
"""The simulator from Python, through the C interface of src/runtime/control.h."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptxsim import build

_TEXTS = ("error", "cuda_failure", "load_error", "device", "report", "report_text",
          "counters", "printed", "kernels", "ptx", "parse", "forms")  # fmt: skip


@dataclass
class Op:
    name: str
    compulsory_bytes: int
    first: int  # launch
    end: int


Dims = int | tuple[int, ...]


def _dims(dims: Dims) -> tuple[int, ...]:
    given = (dims,) if isinstance(dims, int) else dims
    return (*given, 1, 1)[:3]


class Simulator:
    """One simulated device in this process."""

    def __init__(self) -> None:
        self.c = ctypes.CDLL(str(build.simulator()), mode=ctypes.RTLD_GLOBAL)
        for name in _TEXTS:
            getattr(self.c, f"ptxsim_{name}").restype = ctypes.c_char_p
        self.c.ptxsim_begin_call.restype = self.c.ptxsim_end_call.restype = ctypes.c_char_p
        self.c.ptxsim_set_option.argtypes = [ctypes.c_char_p, ctypes.c_uint64]
        self.c.ptxsim_expose.argtypes = [ctypes.c_void_p, ctypes.c_uint64, *[ctypes.c_int] * 2,
                                         ctypes.c_char_p]  # fmt: skip
        self.c.ptxsim_forget.argtypes = [ctypes.c_void_p]
        self.ops: list[Op] = []
        self.c.ptxsim_launch.argtypes = [
            ctypes.c_int, ctypes.c_char_p, *[ctypes.POINTER(ctypes.c_uint32)] * 3, ctypes.c_uint64,
            ctypes.c_char_p, ctypes.c_uint64,
        ]  # fmt: skip

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(self.c.ptxsim_error().decode())

    def device(self) -> dict[str, Any]:
        return dict(json.loads(self.c.ptxsim_device()))

    def reset(self, device: str, **options: int) -> None:
        """Chooses the device and forgets everything of the one before."""
        self.ops.clear()
        self._check(self.c.ptxsim_reset(device.encode()))
        for name, value in options.items():
            self.set_option(name, value)

    def set_option(self, name: str, value: int) -> None:
        self._check(self.c.ptxsim_set_option(name.encode(), value))

    def serve(self, native: Any) -> None:
        """Sends ops of `native`, warpweave._native, on CPU tensors to their CUDA kernels here, each
        call under another schedule."""
        hooks = (self.c.ptxsim_begin_call, self.c.ptxsim_end_call)
        begin, end = (ctypes.cast(hook, ctypes.c_void_p).value or 0 for hook in hooks)
        native.simulate_cuda(str(build.warpweave()), begin, end)

    def replace_ptx(self, name: str, ptx: str) -> None:
        """Until the next reset, the translation unit of this kernel, or the loaded library of this
        file name, holds that PTX."""
        self._check(self.c.ptxsim_replace_ptx(name.encode(), ptx.encode()))

    @contextmanager
    def exposed(self, read: dict[str, NDArray[Any]], write: dict[str, NDArray[Any]],
                written: bool = True) -> Iterator[None]:  # fmt: skip
        """Arrays that kernels may read, and those that they may write; `written`: and also read."""
        for arrays, read_only in ((read, True), (write, False)):
            for name, array in arrays.items():
                self._check(self.c.ptxsim_expose(array.ctypes.data, array.nbytes, read_only,
                                                 read_only or written, name.encode()))  # fmt: skip
        try:
            yield
        finally:
            for array in (*read.values(), *write.values()):
                self.c.ptxsim_forget(array.ctypes.data)

    def load(self, ptx: str, name: str = "test.ptx") -> int:
        """A module of PTX text, for launch(); it lives until the next reset."""
        module = int(self.c.ptxsim_load(ptx.encode(), name.encode()))
        self._check(min(module, 0))
        return module

    def launch(self, module: int, kernel: str, parameters: bytes = b"",
               grid: Dims = 1, block: Dims = 32, cluster: Dims = 1,
               dynamic_shared: int = 0) -> None:  # fmt: skip
        """Runs a kernel; RuntimeError with the report if it faults."""
        dims = [(ctypes.c_uint32 * 3)(*_dims(d)) for d in (grid, block, cluster)]
        self._check(self.c.ptxsim_launch(module, kernel.encode(), *dims, dynamic_shared,
                                         parameters, len(parameters)))  # fmt: skip

    def parse(self, ptx: str) -> str:
        """The text as parsed and printed again."""
        return self._text(self.c.ptxsim_parse(ptx.encode()))

    def forms(self, ptx: str) -> list[str]:
        """The distinct instructions of a text, without their operands."""
        return list(json.loads(self._text(self.c.ptxsim_forms(ptx.encode()))))

    def _text(self, text: bytes | None) -> str:
        self._check(text is None)
        return (text or b"").decode()

    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(self.c.ptxsim_report(i)) for i in range(self.c.ptxsim_report_count())]

    def report_texts(self) -> list[str]:
        count = self.c.ptxsim_report_count()
        return [self.c.ptxsim_report_text(i).decode() for i in range(count)]

    @contextmanager
    def op(self, name: str, compulsory_bytes: int) -> Iterator[None]:
        """Launches in here belong to an op that cannot move fewer bytes of global memory."""
        first = self.c.ptxsim_launch_count()
        yield
        self.ops.append(Op(name, compulsory_bytes, first, self.c.ptxsim_launch_count()))

    def ask_ptxas(self) -> None:
        """Lets the simulator know the registers of all kernels that were launched."""
        arch = self.device()["arch"]
        for kernel in {c["symbol"] for c in self.counters() if not c["registers_known"]}:
            ptx = self.c.ptxsim_ptx(kernel.encode())
            if ptx is not None:  # unless its library is gone
                count = build.registers(ptx.decode(), kernel, arch)
                self._check(self.c.ptxsim_set_registers(kernel.encode(), count))

    def counters(self) -> list[dict[str, Any]]:
        """What each launch did: src/counters/counters.h defines the fields."""
        return [json.loads(self.c.ptxsim_counters(i)) for i in range(self.c.ptxsim_launch_count())]


def same_results(run: Callable[[int], dict[str, NDArray[Any]]], seeds: Iterable[int]) -> str:
    """Runs `run(seed)` under every schedule and compares what it returns, bit for bit.

    Names the first difference; empty if there is none.
    """
    first: dict[str, NDArray[Any]] = {}
    for seed in seeds:
        for name, array in run(seed).items():
            before = first.setdefault(f"{name}", array.copy())
            bits = [np.ascontiguousarray(a).view(np.uint8).reshape(a.size, -1)
                    for a in (before, array)]  # fmt: skip
            if different := np.flatnonzero((bits[0] != bits[1]).any(axis=1)).tolist():
                at = different[0]
                return (f"{name}[{', '.join(map(str, np.unravel_index(at, array.shape)))}] is "
                        f"{array.flat[at]} under seed {seed} and {before.flat[at]} before; "
                        f"{len(different)} of {array.size} differ")  # fmt: skip
    return ""


@cache
def simulator() -> Simulator:
    return Simulator()


def aligned(array: NDArray[Any], to: int = 256) -> NDArray[Any]:
    """A copy that starts at a multiple of `to` bytes, as device memory does."""
    raw = np.zeros(array.nbytes + to, np.uint8)
    start = -raw.ctypes.data % to
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
