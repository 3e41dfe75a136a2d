# SPDX-License-Identifier: Apache-2.0
"""Closeness of two float64 computations of the same thing."""

from typing import Any


def close(actual: Any, expected: Any, tol: float = 1e-12) -> None:
    """Same shape, and within tol of the largest expected magnitude."""
    if isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            close(a, e, tol)
        return
    assert actual.shape == expected.shape
    assert actual.isfinite().all()
    if expected.numel():
        error = float((actual - expected).abs().max())
        assert error <= tol * max(1.0, float(expected.abs().max())), f"error {error:.3g}"
