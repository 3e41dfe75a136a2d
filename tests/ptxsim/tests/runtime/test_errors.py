# SPDX-License-Identifier: Apache-2.0
"""Faults of kernels stick, and modules that cannot be loaded say why."""

from __future__ import annotations

import ctypes
from _ctypes import dlclose
from pathlib import Path

import numpy as np
import pytest

from ptxsim import build
from ptxsim.tests.runtime.cuda import DEVICE_TO_HOST, Cuda, call

FAULTS = [(0, 700, "out of bounds"), (1, 716, "misaligned address"), (2, 710, "assertion"),
          (3, 719, "trap")]  # fmt: skip


@pytest.mark.parametrize(("which", "status", "kind"), FAULTS)
def test_fault(cuda: Cuda, which: int, status: int, kind: str) -> None:
    """It surfaces where the host next waits, what is behind it does not run, and only a reset of
    the device helps."""
    x = cuda.zeros(16)
    assert cuda.launch("faulty", x, which) == cuda.GetLastError() == 0
    assert cuda.launch("increment", x, 5) == cuda.MemsetAsync(x + 4, 9, 4, 0) == 0
    assert cuda.DeviceSynchronize() == status
    for _ in range(2):
        assert cuda.GetLastError() == cuda.PeekAtLastError() == status
    out = np.zeros(2, np.int32)
    assert cuda.launch("increment", x) == status
    assert cuda.Malloc(ctypes.byref(ctypes.c_void_p()), 4) == status
    assert cuda.Memcpy(out.ctypes.data, x, 8, DEVICE_TO_HOST) == status
    assert list((ctypes.c_int * 2).from_address(x)) == [0, 0]
    assert cuda.get("DeviceGetAttribute", 16, 0) == 132
    assert [(r["kind"], r["is_fault"]) for r in cuda.sim.reports()] == [(kind, True)]
    assert cuda.DeviceReset() == 0
    assert (cuda.GetLastError(), cuda.GetLastError(), cuda.DeviceSynchronize()) == (status, 0, 0)
    assert cuda.Free(x) == 1  # gone with the reset
    assert len(cuda.sim.reports()) == 1


@pytest.mark.parametrize("name", ["Memcpy", "StreamSynchronize", "Free", "StreamQuery"])
def test_where_a_fault_surfaces(cuda: Cuda, name: str) -> None:
    x, out = cuda.zeros(16), np.zeros(1, np.int32)
    arguments = {"Memcpy": (out.ctypes.data, x, 4, DEVICE_TO_HOST), "Free": (x,)}
    cuda.launch("faulty", x, 0)
    assert getattr(cuda, name)(*arguments.get(name, (0,))) == 700


def test_names_of_errors(cuda: Cuda) -> None:
    for get, text in (("GetErrorName", b"cudaErrorIllegalAddress"),
                      ("GetErrorString", b"an illegal memory access was encountered")):  # fmt: skip
        function = getattr(cuda.sim.c, f"cuda{get}")
        function.restype = ctypes.c_char_p
        assert function(700) == text


def misspelt(folder: Path) -> Path:
    """A library with PTX that holds an unknown instruction, of the same length."""
    text = build.kernels("module", "90a").read_bytes()
    assert text.count(b"ld.global") == 1
    (folder / "libmisspelt.so").write_bytes(text.replace(b"ld.global", b"lx.global"))
    return folder / "libmisspelt.so"


@pytest.mark.parametrize(
    ("name", "targets", "compress", "status", "why"),
    [
        ("A100", ("90a",), False, 209, "no PTX that A100 (sm_80) runs; it holds PTX sm_90a"),
        ("B200", ("90a",), False, 209, "B200"),
        ("H100", ("90a",), False, 0, ""),
        ("H100", ("90a",), True, 200, "--no-compress"),
        ("H100", ("sm_80",), False, 209, "it holds machine code sm_80"),
        ("H100", (), False, 218, "unknown instruction"),
    ],
)  # fmt: skip
def test_modules(
    tmp_path: Path, name: str, targets: tuple[str, ...], compress: bool, status: int, why: str
) -> None:
    """The launch fails, what else is loaded goes on."""
    cuda = Cuda(name)
    path = build.kernels("module", *targets, compress=compress) if targets else misspelt(tmp_path)
    library, x = ctypes.CDLL(str(path)), cuda.zeros(1)
    assert call(library.go, x, 3) == status
    if status:
        reason = cuda.sim.c.ptxsim_load_error().decode()
        assert why in reason
        assert path.name in reason
    assert cuda.GetLastError() == 0
    assert cuda.launch("increment", x, 4) == 0
    assert cuda.read(x, 1)[0] == (4 if status else 10)
    dlclose(library._handle)  # other tests load whatever is registered


def test_unloading(cuda: Cuda, tmp_path: Path) -> None:
    """A library that goes takes its kernels along."""
    path = tmp_path / "libcopy.so"
    path.write_bytes(build.kernels("module", "90a").read_bytes())
    library, x = ctypes.CDLL(str(path)), cuda.zeros(1)
    assert call(library.go, x, 3) == 0
    assert b"libcopy.so" in cuda.sim.c.ptxsim_kernels()
    dlclose(library._handle)
    assert b"libcopy.so" not in cuda.sim.c.ptxsim_kernels()
    assert cuda.read(x, 1)[0] == 3
