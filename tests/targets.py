# SPDX-License-Identifier: Apache-2.0
"""What an op's tests run on: `cpu:<isa>`, a simulated device `sim:<arch>`, or `cuda`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ptxsim import build
from warpweave import _native, ops
from warpweave.quantized import FP8Tensor, NVFP4Tensor

ROOT = Path(__file__).resolve().parent.parent
SIMULATED = {"sim:sm_80": "A100", "sim:sm_90a": "H100", "sim:sm_120a": "RTX PRO 6000"}
current = "cpu"  # the target of the running test


def has_cuda_kernel(op: str) -> bool:
    return (ROOT / "csrc" / op / f"{op}_cuda.cu").is_file()


def missing(target: str) -> str:
    """Why the target cannot be used here; empty if it can."""
    if target == "cuda":
        return _native.cuda_info()["problem"]
    if target in SIMULATED and not build.warpweave().is_file():
        return "the CUDA kernels were not built for the simulator: WARPWEAVE_SIMULATION=ON"
    return ""


def of_op(op: str) -> list[str]:
    kernels = {k["target"] for k in _native.kernels() if k["op"] == op}
    targets = [f"cpu:{i}" for i in _native.cpu_isas() if f"cpu:{i}" in kernels]
    return [*targets, *SIMULATED, "cuda"] if has_cuda_kernel(op) else targets


def parameters(op: str) -> list[object]:
    def parameter(target: str) -> object:
        reason = missing(target)
        return pytest.param(target, marks=pytest.mark.skip(reason)) if reason else target

    return [parameter(target) for target in of_op(op)]


@contextmanager
def use(target: str) -> Iterator[None]:
    """Ops go to the target's kernels. A report of the simulator's checkers is an error."""
    global current
    before = current, _native.cpu_isa()
    current = target
    try:
        if target.startswith("cpu:"):
            _native.set_cpu_isa(target.removeprefix("cpu:"))
        with (
            simulated(SIMULATED[target]) if target in SIMULATED
            else moved_to("cuda") if target == "cuda"
            else nullcontext()
        ):  # fmt: skip
            yield
    finally:
        current, isa = before
        _native.set_cpu_isa(isa)


@contextmanager
def simulated(name: str, **options: int) -> Iterator[None]:
    """Ops on CPU tensors run their CUDA kernels on this simulated device."""
    from ptxsim.driver import simulator

    sim = simulator()
    sim.reset(name, **options)
    sim.serve(_native)
    try:
        yield
    finally:
        _native.simulate_cuda("")
        reports = sim.report_texts()
    assert not reports, "\n".join(reports)


def capture_calls(on: bool) -> None:
    """On a simulated device: each op's call is captured and run as a CUDA graph."""
    from ptxsim.driver import simulator

    simulator().set_option("capture", on)


@contextmanager
def moved_to(device: str) -> Iterator[None]:
    """Every op of warpweave.ops moves its tensors there and its results back."""
    before = {name: getattr(ops, name) for name in ops.__all__}
    try:
        for name, op in before.items():
            setattr(ops, name, moving(op, device))
        yield
    finally:
        for name, op in before.items():
            setattr(ops, name, op)


def moving(op: Callable[..., Any], device: str) -> Callable[..., Any]:
    schema = getattr(torch.ops.warpweave, op.__name__).default._schema
    written = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write]

    @functools.wraps(op)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(op).bind(*args, **kwargs).arguments
        moved = {k: place(v, device) for k, v in given.items()}
        result = op(**moved)
        for name in written:
            if given.get(name) is not None:
                given[name].copy_(moved[name].cpu())
        return tuple(t.cpu() for t in result) if isinstance(result, tuple) else result.cpu()

    return call


def place(t: Any, device: str) -> Any:
    """A copy on the device, with the strides of the tensor and the memory around it."""
    if isinstance(t, NVFP4Tensor | FP8Tensor):
        return type(t)(*(place(part, device) for part in vars(t).values()))
    if not isinstance(t, Tensor):
        return t
    storage = t.untyped_storage()
    storage = storage.clone() if device == "cpu" else storage.to(device=torch.device(device))
    return torch.empty(0, dtype=t.dtype, device=device).set_(
        storage, t.storage_offset(), t.shape, t.stride()
    )
