# SPDX-License-Identifier: Apache-2.0
"""The vector functions under the kernels, over the whole range of fp32 and against float64."""

from collections.abc import Callable

import numpy as np
import pytest

Function = Callable[[np.ndarray], np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


# name: float64 function, ulp allowed, smallest x it is meant for
FUNCTIONS: dict[str, tuple[Function, float, float]] = {
    "exp": (np.exp, 2, -np.inf),
    "log1p": (np.log1p, 2, -1.0),
    "softplus": (lambda x: np.logaddexp(x, 0.0), 2, -np.inf),
    "sigmoid": (sigmoid, 2, -np.inf),
    "silu": (lambda x: x * sigmoid(x), 2, -np.inf),
    "silu_coarse": (lambda x: x * sigmoid(x), 72, -88.0),
}


def inputs() -> np.ndarray:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 1 << 32, 200_000, dtype=np.uint32).view(np.float32)
    usual = rng.uniform(-110, 110, 200_000).astype(np.float32)
    small = rng.normal(0, 1, 100_000).astype(np.float32)
    special = [0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 20, 88.72, 89, -88.72, -104]
    return np.concatenate([bits, usual, small, np.array(special, np.float32)])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_in_ulp(cpu_isa: str, name: str) -> None:
    from warpweave import _native

    function, allowed, low = FUNCTIONS[name]
    x = inputs()
    x = x[~(x < low)]
    actual = _native.numerics.vector_math(name, x)
    with np.errstate(all="ignore"):
        exact = function(x.astype(np.float64))
        rounded = exact.astype(np.float32)
        ulp = np.spacing(np.abs(rounded)).astype(np.float64)
        finite = np.isfinite(rounded) & np.isfinite(actual)
        same = (actual == rounded) | (np.isnan(actual) & np.isnan(rounded))
        error = np.abs(actual.astype(np.float64) - exact)[finite] / ulp[finite]
    near_overflow = np.abs(exact) > 3.4e38
    assert (same | finite | near_overflow).all(), x[~(same | finite | near_overflow)][:5]
    assert error.max() <= allowed, f"{name}: {error.max():.2f} ulp at {x[finite][error.argmax()]}"
