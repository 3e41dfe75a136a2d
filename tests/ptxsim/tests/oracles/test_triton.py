# SPDX-License-Identifier: Apache-2.0
"""Triton's kernels, which another compiler than nvcc made."""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ptxsim import build
from ptxsim.driver import aligned, simulator
from ptxsim.tests.oracles.cases import BF16, integers

SEEDS = range(8)
DEVICES = {80: "A100", 90: "H100"}
Array = NDArray[Any]


@pytest.fixture(scope="module")
def triton() -> Any:
    pytest.importorskip("triton", reason="Triton is not installed")
    os.environ.setdefault("TRITON_CACHE_DIR", str(build.BUILD / "triton"))
    from ptxsim.oracles import triton_kernels

    return triton_kernels


def packed(kind: str, value: Any) -> tuple[int, bytes]:
    """Alignment and bytes of a parameter."""
    if kind.startswith("*"):
        return 8, struct.pack("<Q", value.ctypes.data if isinstance(value, np.ndarray) else value)
    return 4, struct.pack("<i", value)


def launch(triton: Any, name: str, arch: int, seed: int, grid: tuple[int, ...],
           given: dict[str, Any], result: str) -> None:  # fmt: skip
    """Runs the kernel on `given`: integers and arrays, of which it writes `result`."""
    ptx, facts = triton.compile_kernel(name, arch)
    assert not any(facts["scratch_bytes"])  # so that its last two pointers are null
    parameters = b""
    for parameter, kind in facts["parameters"]:
        alignment, value = packed(kind, given.get(parameter, 0))
        parameters += b"\0" * (-len(parameters) % alignment) + value
    arrays = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
    write = {result: arrays.pop(result)}
    sim = simulator()
    sim.reset(DEVICES[arch], seed=seed)
    with sim.exposed(arrays, write, written=False):
        sim.launch(sim.load(ptx), facts["entry"], parameters, grid, facts["threads"],
                   dynamic_shared=facts["shared"])  # fmt: skip
        assert not sim.reports(), seed


@pytest.mark.parametrize("arch", DEVICES)
@pytest.mark.parametrize(
    ("name", "shape"), [("triton_matmul", (200, 80, 112)), ("triton_matmul_any", (77, 51, 39))]
)
def test_matmul(triton: Any, name: str, arch: int, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        a, b = aligned(integers(rng, (m, k), BF16)), aligned(integers(rng, (k, n), BF16))
        d = aligned(np.zeros((m, n), np.float32))
        launch(triton, name, arch, seed, (-(-m // 128), -(-n // 64)),
               {"a": a, "b": b, "d": d, "m": m, "n": n, "k": k}, "d")  # fmt: skip
        np.testing.assert_array_equal(d, a.astype(np.float32) @ b.astype(np.float32))


@pytest.mark.parametrize("arch", DEVICES)
def test_softmax(triton: Any, arch: int) -> None:
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        columns = int(rng.integers(1, 1025))
        x = aligned(rng.standard_normal((3, columns)).astype(np.float32))
        y = aligned(np.zeros_like(x))
        launch(triton, "triton_softmax", arch, seed, (3,),
               {"x": x, "y": y, "columns": columns, "stride": columns}, "y")  # fmt: skip
        powers = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
        # exp(t) is ex2.approx(t log2 e): that product's rounding alone makes |t| 2^-24.
        np.testing.assert_allclose(y, powers / powers.sum(1, keepdims=True), rtol=2e-6)
