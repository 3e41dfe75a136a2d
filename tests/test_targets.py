# SPDX-License-Identifier: Apache-2.0
"""The simulated targets run the CUDA kernels, and know what memory an op's kernels may touch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch

import targets
from ptxsim import build
from ptxsim.driver import Simulator, simulator
from warpweave import _native, ops

pytestmark = pytest.mark.skipif(
    bool(targets.missing("sim:sm_80")), reason=targets.missing("sim:sm_80") or "never"
)


class Extent(ctypes.Structure):  # csrc/core/simulator_api.h
    _fields_ = (
        ("begin", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("access", ctypes.c_int32),
    )


def conv_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(2, 20, 70), torch.randn(20, 4), torch.randn(20)


def run_with(change: Callable[[list[Extent]], None]) -> list[str]:
    """The kinds of reports of one call after `change` to what the simulator is told of memory."""
    sim = simulator()
    sim.reset("A100")

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(Extent), ctypes.c_int32)
    def begin(extents: ctypes._Pointer[Extent], count: int) -> int | None:
        told = extents[:count]
        change(told)
        sim.c.ptxsim_begin_call((Extent * len(told))(*told), len(told))
        return None

    address = ctypes.cast(begin, ctypes.c_void_p).value or 0
    end = ctypes.cast(sim.c.ptxsim_end_call, ctypes.c_void_p).value or 0
    _native.simulate_cuda(str(build.warpweave()), address, end)
    try:
        ops.causal_conv1d(*conv_inputs())
    except ValueError:  # the launch faulted
        assert sim.reports()
    finally:
        _native.simulate_cuda("")
    return [report["kind"] for report in sim.reports()]


def of(told: list[Extent], name: str) -> Extent:
    (found,) = (e for e in told if e.name.decode() == name)
    return found


def shorten(name: str) -> Callable[[list[Extent]], None]:
    def change(told: list[Extent]) -> None:
        of(told, name).bytes -= 4

    return change


def test_nothing_is_reported() -> None:
    assert run_with(lambda told: None) == []


@pytest.mark.parametrize("name", ["input (2, 20, 70)", "input (20, 4)", "input (20)"])
def test_a_read_past_an_input_is_found(name: str) -> None:
    assert "out of bounds" in run_with(shorten(name))


def test_a_write_past_the_output_is_found() -> None:
    assert "out of bounds" in run_with(shorten("output (2, 20, 70)"))


def test_an_input_cannot_be_written() -> None:
    def change(told: list[Extent]) -> None:
        of(told, "output (2, 20, 70)").access = 0

    assert "write to read-only memory" in run_with(change)


def test_a_fresh_tensor_cannot_be_read() -> None:
    def change(told: list[Extent]) -> None:
        of(told, "input (2, 20, 70)").access = 2

    assert "read of memory nothing wrote" in run_with(change)


@pytest.mark.parametrize("name", targets.SIMULATED)
def test_every_call_has_another_schedule_and_the_same_bits(name: str) -> None:
    inputs = conv_inputs()
    sim: Simulator = simulator()
    with targets.use(name):
        first, *others = [ops.causal_conv1d(*inputs) for _ in range(8)]
        kernels = [launch["kernel"] for launch in sim.counters()]
    assert len(kernels) == 8
    assert all(torch.equal(first, other) for other in others)


def test_a_library_without_the_kernel_is_refused() -> None:
    _native.simulate_cuda(str(build.kernels("checkers", "80")))
    try:
        with pytest.raises(ValueError, match="causal_conv1d: has no CUDA kernel; supported"):
            ops.causal_conv1d(*conv_inputs())
    finally:
        _native.simulate_cuda("")


def test_moved_ops_write_back() -> None:
    """What the target `cuda` does around every op, with copies on the CPU."""
    x, weight, state = torch.randn(2, 6), torch.randn(6, 4), torch.randn(2, 6, 3)
    moved = state.clone()
    expected = ops.causal_conv1d_update(x, state, weight)
    with targets.moved_to("cpu"):
        actual = ops.causal_conv1d_update(x, moved, weight=weight)
        with pytest.raises(ValueError, match="'x' has shape"):
            ops.causal_conv1d_update(x[0], moved, weight)
    assert torch.equal(actual, expected)
    assert torch.equal(moved, state)
