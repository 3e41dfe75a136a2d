# SPDX-License-Identifier: Apache-2.0
"""The simulator's tensor functions for the tests, through the C functions in tensor/."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ptxsim import build

LANES = 32
ALL = 0xFFFFFFFF
ROUNDINGS = ("rn", "rna", "rz", "rm", "rp", "rs")  # numbered as ptxsim::Rounding


class TensorError(Exception):
    """What the library reports: ptx::Error."""


class Library:
    """The simulator's shared library."""

    def __init__(self, path: str) -> None:
        self.c = ctypes.CDLL(path)
        self.c.ptxsim_test_decode.restype = ctypes.c_double
        self.c.ptxsim_test_decode.argtypes = [ctypes.c_int, ctypes.c_uint64]
        self.c.ptxsim_test_encode.restype = ctypes.c_uint64
        self.c.ptxsim_test_encode.argtypes = [
            ctypes.c_int, ctypes.c_double, *[ctypes.c_int] * 3, ctypes.c_uint32, ctypes.c_int,
        ]  # fmt: skip
        self.c.ptxsim_test_encode_integer.restype = ctypes.c_uint64
        self.c.ptxsim_test_encode_integer.argtypes = [
            ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int,
        ]  # fmt: skip

        self.c.ptxsim_test_approx.restype = ctypes.c_uint64
        self.c.ptxsim_test_approx.argtypes = [*[ctypes.c_int] * 4, ctypes.c_uint64]

    def call(self, name: str, *args: object) -> int:
        """A function that returns an int and writes its error to a last argument."""
        error = ctypes.create_string_buffer(256)
        result = int(getattr(self.c, name)(*args, error))
        if error.value:
            raise TensorError(error.value.decode())
        return result

    def accepts(self, name: str, *args: object) -> bool:
        """Whether an instruction decodes; what does not must say where it is."""
        try:
            self.call(name, *args)
        except TensorError as error:
            if "PTX line 1" not in str(error):
                raise
            return False
        return True

    def format(self, name: str) -> int:
        index = int(self.c.ptxsim_test_format(name.encode()))
        assert index >= 0, name
        return index

    def decode(self, name: str, codes: Sequence[int]) -> NDArray[np.float64]:
        fmt = self.format(name)
        return np.array([self.c.ptxsim_test_decode(fmt, int(c)) for c in codes])

    def encode(
        self, name: str, value: float, rounding: str, satfinite: bool = False, relu: bool = False
    ) -> int:
        mode = ROUNDINGS.index(rounding)
        fmt = self.format(name)
        return int(self.c.ptxsim_test_encode(fmt, value, mode, satfinite, relu, 0, 0))

    def convert(
        self,
        text: str,
        *sources: NDArray[np.generic],
        registers: Sequence[int] | None = None,
        mask: int = ALL,
        before: int = 0,
    ) -> NDArray[np.generic]:
        """`cvt` on arrays of any length, 32 lanes at a time. The operands in `text` are as
        test::instruction has them; the result has the unsigned type of the destination. `registers`
        are the widths in bytes of the destination's and the sources' registers."""
        natural = (ctypes.c_int * 6)()
        self.call("ptxsim_test_convert", text.encode(), None, natural, None, None, 0)
        widths = list(registers or natural[: len(sources) + 1])
        count = len(sources[0])
        padded = -(-count // LANES) * LANES
        inputs = []
        for source, width in zip(sources, widths[1:], strict=True):
            array = np.zeros(padded, f"u{width}")
            raw = np.ascontiguousarray(source)
            array[:count] = raw.view(f"u{raw.itemsize}").astype(f"u{width}")
            inputs.append(array)
        out = np.full(padded, before, f"u{widths[0]}")
        bound = (ctypes.c_int * len(widths))(*widths)
        for at in range(0, padded, LANES):
            rows = (ctypes.c_void_p * len(inputs))(*[a[at:].ctypes.data for a in inputs])
            dst = ctypes.c_void_p(out[at:].ctypes.data)
            self.call("ptxsim_test_convert", text.encode(), bound, None, dst, rows, mask)
        return out[:count]


@pytest.fixture(scope="session")
def lib() -> Library:
    return Library(str(build.simulator()))


REGISTERS = (
    ".reg .b8 c<9>; .reg .b16 h<9>; .reg .b32 r<130>; .reg .f32 f<130>; .reg .b64 d<20>; "
    ".reg .f64 e<20>; .reg .pred p<2>;"
)


def ptxas_accepts(lines: Sequence[str], target: str, directory: Path) -> list[bool] | None:
    """Which of these instructions, with REGISTERS, ptxas accepts for `target`; None without it."""
    ptxas = shutil.which("ptxas")
    if not ptxas:
        return None
    head = [
        ".version 9.0",
        f".target {target}",
        ".address_size 64",
        ".visible .entry k() {",
        REGISTERS,
    ]
    source = directory / "forms.ptx"
    source.write_text("\n".join([*head, *lines, "ret; }"]) + "\n")
    command = [ptxas, f"-arch={target}", "-o", str(directory / "forms.cubin"), str(source)]
    errors = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    bad = {int(m.split(";")[0]) for m in errors.split(", line ")[1:]}
    return [i + len(head) + 1 not in bad for i in range(len(lines))]
