# SPDX-License-Identifier: Apache-2.0
"""The approximate functions: the ISA's special values, elsewhere the true value rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from ptxsim.tests.tensor.library import Library, lib

__all__ = ["lib"]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

NAMES = ("ex2", "lg2", "rcp", "rsqrt", "sqrt", "sin", "cos", "tanh")  # numbered as ptxsim::Approx
EXACT: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "ex2": np.exp2, "lg2": np.log2, "rcp": np.reciprocal, "rsqrt": lambda x: 1 / np.sqrt(x),
    "sqrt": np.sqrt, "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
}  # fmt: skip
INF, NAN = math.inf, math.nan
SUB = 2.0**-130  # subnormal as f32
# Tables of the ISA (9.7.3.13 to .21): operand, result; the last of three is that with .ftz.
SPECIAL: dict[str, list[tuple[float, ...]]] = {
    "ex2": [(-INF, 0), (-SUB, 1), (-0.0, 1), (0, 1), (SUB, 1), (INF, INF),
            (NAN, NAN), (-140, 2.0**-140, 0)],
    "lg2": [(-INF, NAN), (-1, NAN), (-0.0, -INF), (0, -INF), (SUB, -130, -INF), (-SUB, NAN, -INF),
            (INF, INF), (NAN, NAN), (1, 0)],
    "rcp": [(-INF, -0.0), (-0.0, -INF), (0, INF), (INF, 0), (NAN, NAN), (2.0**-127, 2.0**127, INF),
            (-(2.0**-127), -(2.0**127), -INF), (2.0**127, 2.0**-127, 0)],
    "rsqrt": [(-INF, NAN), (-1, NAN), (-SUB, NAN, -INF), (-0.0, -INF), (0, INF),
              (SUB, 2.0**65, INF),
              (INF, 0), (NAN, NAN), (4, 0.5)],
    "sqrt": [(-INF, NAN), (-1, NAN), (-SUB, NAN, -0.0), (-0.0, -0.0), (0, 0), (SUB, 2.0**-65, 0),
             (INF, INF), (NAN, NAN), (9, 3)],
    "sin": [(-INF, NAN), (-SUB, -SUB, -0.0), (-0.0, -0.0), (0, 0), (SUB, SUB, 0), (INF, NAN),
            (NAN, NAN)],
    "cos": [(-INF, NAN), (-SUB, 1), (-0.0, 1), (0, 1), (SUB, 1), (INF, NAN), (NAN, NAN)],
    "tanh": [(-INF, -1), (-SUB, -SUB), (-0.0, -0.0), (0, 0), (SUB, SUB), (INF, 1), (NAN, NAN)],
}  # fmt: skip


def f32(lib: Library, name: str, x: NDArray[np.float32], ftz: bool) -> NDArray[np.float32]:
    args = NAMES.index(name), lib.format("f32"), 0, int(ftz)
    bits = [lib.c.ptxsim_test_approx(*args, int(v)) for v in x.view(np.uint32)]
    return np.array(bits, np.uint32).view(np.float32)


@pytest.mark.parametrize("ftz", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_f32(lib: Library, name: str, ftz: bool) -> None:
    rng = np.random.default_rng(1)
    x = (rng.normal(size=4000) * 10.0 ** rng.integers(-6, 3, 4000)).astype(np.float32)
    x = np.concatenate(
        [x, rng.integers(0, 1 << 32, 4000, dtype=np.uint64).astype(np.uint32).view(np.float32)]
    )
    flushed = np.where(np.abs(x) < 2.0**-126, np.copysign(0, x), x) if ftz else x
    wanted = EXACT[name](flushed.astype(np.float64)).astype(np.float32)
    if ftz:
        wanted = np.where(np.abs(wanted) < 2.0**-126, np.copysign(np.float32(0), wanted), wanted)
    got = f32(lib, name, x, ftz)
    # numpy's and the C library's functions agree to an f32, but for a double next to a midpoint.
    nan = np.isnan(wanted)
    assert (got.view(np.uint32)[nan] == 0x7FFFFFFF).all()
    away = np.abs(got.view(np.int32).astype(np.int64) - wanted.view(np.int32))[~nan]
    assert away.max() <= 1
    assert (away != 0).mean() < 1e-3


@pytest.mark.parametrize("ftz", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_special_values(lib: Library, name: str, ftz: bool) -> None:
    rows = SPECIAL[name]
    got = f32(lib, name, np.array([r[0] for r in rows], np.float32), ftz)
    wanted = np.array([r[-1 if ftz else 1] for r in rows], np.float32)
    if name == "tanh" and ftz:
        return  # tanh has no .ftz
    np.testing.assert_array_equal(got, wanted)
    ok = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(got)[ok], np.signbit(wanted)[ok])


@pytest.mark.parametrize(("name", "kind", "ftz"), [
    ("ex2", "f16", False), ("ex2", "bf16", True), ("tanh", "f16", False), ("tanh", "bf16", False),
])  # fmt: skip
def test_16_bits(lib: Library, name: str, kind: str, ftz: bool) -> None:
    dtype = np.float16 if kind == "f16" else ml_dtypes.bfloat16
    codes = np.arange(1 << 16, dtype=np.uint16)
    x = codes.view(dtype).astype(np.float64)
    wanted = (
        EXACT[name](np.where(np.abs(x) < 2.0**-126, 0, x) if ftz else x)
        .astype(np.float32)
        .astype(dtype)
    )
    if ftz:
        wanted = np.where(np.abs(wanted.astype(np.float32)) < 2.0**-126, np.zeros(1, dtype), wanted)
    args = NAMES.index(name), lib.format(kind)
    got = np.array([lib.c.ptxsim_test_approx(*args, 0, int(ftz), int(c)) for c in codes], np.uint16)
    nan = np.isnan(x)
    assert (got[nan] == 0x7FFF).all()
    away = np.abs(got.astype(int) - wanted.view(np.uint16))[~nan]
    assert away.max() <= 1  # two roundings in the oracle
    assert (away != 0).mean() < 1e-3
    two = [lib.c.ptxsim_test_approx(*args, 1, int(ftz), int(c) << 16 | 0x3C00) for c in codes[::97]]
    one = int(lib.c.ptxsim_test_approx(*args, 0, int(ftz), 0x3C00))
    assert [t >> 16 for t in two] == got[::97].tolist()
    assert {t & 0xFFFF for t in two} == {one}


@pytest.mark.parametrize("name", ["rcp", "rsqrt"])
def test_f64(lib: Library, name: str) -> None:
    x = np.array([3.0, 1e300, 1e-300, 7.25, -5.0, 0.0, -0.0, INF, NAN, 5e-324, 1.7e308])
    args = NAMES.index(name), lib.format("f64"), 0
    got = np.array(
        [lib.c.ptxsim_test_approx(*args, 1, int(v)) for v in x.view(np.uint64)], np.uint64
    )
    assert (got & 0xFFFFFFFF == 0).all()
    values = got.view(np.float64)
    small = np.where(np.abs(x) < 2.0**-1022, np.copysign(0, x), x)
    wanted = EXACT[name](small)
    wanted = np.where(np.abs(wanted) < 2.0**-1022, np.copysign(0, wanted), wanted)
    np.testing.assert_allclose(values, wanted, rtol=2.0**-18)
    exact = np.array(
        [lib.c.ptxsim_test_approx(*args, 0, int(v)) for v in x.view(np.uint64)], np.uint64
    )
    np.testing.assert_array_equal(exact.view(np.float64), EXACT[name](x))
