# SPDX-License-Identifier: Apache-2.0
"""Which device is simulated and what host code learns of it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest

from ptxsim import build
from ptxsim.driver import simulator
from ptxsim.tests.runtime.cuda import DEVICES, Cuda, function


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("RTX 4090", "RTX4090"), ("h100-sxm5", "H100"), ("NVIDIA B200", "B200"),
        ("RTX PRO 6000", "RTXPRO6000"), ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"), ("GeForce RTX 4090", "RTX4090"),
    ],
)  # fmt: skip
def test_names(alias: str, name: str) -> None:
    simulator().reset(alias)
    assert simulator().device()["name"] == name


def test_unknown_device() -> None:
    with pytest.raises(RuntimeError, match=r"GTX 480.*A100, RTX4090, H100, B200, RTXPRO6000"):
        simulator().reset("GTX 480")


@pytest.mark.parametrize(
    ("environment", "expected"), [({}, "100 0 100 0"), ({"PTXSIM_DEVICE": "B200"}, "0 1 0 0")]
)
def test_before_a_device_is_chosen(environment: dict[str, str], expected: str) -> None:
    """cudaErrorNoDevice, once, unless the environment names a device."""
    program = f"""
import ctypes
c, n = ctypes.CDLL({str(build.simulator())!r}), ctypes.c_int(-1)
print(c.cudaGetDeviceCount(ctypes.byref(n)), n.value, c.cudaGetLastError(), c.cudaGetLastError())
"""
    clean = {k: v for k, v in os.environ.items() if k != "PTXSIM_DEVICE"}
    done = subprocess.run((sys.executable, "-c", program), env=clean | environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # SMs, compute capability, GiB, shared memory a block: data sheets, CUDA programming guide
        ("A100", (108, 8, 0, 80, 166912)), ("RTX4090", (128, 8, 9, 24, 101376)),
        ("H100", (132, 9, 0, 80, 232448)), ("B200", (148, 10, 0, 180, 232448)),
        ("RTXPRO6000", (188, 12, 0, 96, 101376)),
    ],
)  # fmt: skip
def test_properties(name: str, expected: tuple[int, ...]) -> None:
    cuda = Cuda(name)
    text, numbers = ctypes.create_string_buffer(256), np.zeros(5, np.uint64)
    assert cuda.host("properties", text, numbers.ctypes.data) == 0
    numbers[3] >>= np.uint64(30)
    assert tuple(numbers) == expected
    assert text.value.decode() == cuda.sim.device()["full_name"]


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (16, 132), (75, 9), (76, 0), (97, 232448), (8, 49152), (81, 233472), (39, 2048), (106, 32),
        (12, 65536), (120, 1), (95, 1), (111, 1024),
    ],
)  # fmt: skip
def test_attributes(cuda: Cuda, attribute: int, value: int) -> None:
    assert cuda.get("DeviceGetAttribute", attribute, 0) == value


def test_attributes_that_are_not_simulated(cuda: Cuda) -> None:
    value = ctypes.c_int()
    assert cuda.DeviceGetAttribute(ctypes.byref(value), 33, 0) == 1  # PCI bus number
    assert "33 is not simulated" in cuda.why()
    assert cuda.DeviceGetAttribute(ctypes.byref(value), 16, 1) == 101
    assert cuda.SetDevice(1) == 101
    assert cuda.get("GetDevice") == 0


@pytest.mark.parametrize("name", DEVICES)
def test_target_of_a_device(name: str) -> None:
    """The newest PTX that it runs: that with a suffix on its own architecture only."""
    cuda = Cuda(name)
    out = np.zeros(6, np.int32)
    assert cuda.host("attributes", function("statics"), out.ctypes.data) == 0
    d = cuda.sim.device()
    machine = d["major"] * 10 + d["minor"]
    assert tuple(out[:5]) == (8192, 1024, machine, 90 if name == "H100" else 80, 49152 - 8192)
