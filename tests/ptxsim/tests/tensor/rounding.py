# SPDX-License-Identifier: Apache-2.0
"""Rounding to the narrow formats by looking for the neighbours of a value, for the tests of cvt."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

# Format: numpy's type, bits of a code, largest finite code, canonical NaN (the largest if none).
FORMATS = {
    "f16": (np.float16, 16, 0x7BFF, 0x7FFF),
    "bf16": (ml_dtypes.bfloat16, 16, 0x7F7F, 0x7FFF),
    "e5m2": (ml_dtypes.float8_e5m2, 8, 0x7B, 0x7F),
    "e4m3": (ml_dtypes.float8_e4m3fn, 8, 0x7E, 0x7F),
    "e3m2": (ml_dtypes.float6_e3m2fn, 6, 0x1F, 0x1F),
    "e2m3": (ml_dtypes.float6_e2m3fn, 6, 0x1F, 0x1F),
    "e2m1": (ml_dtypes.float4_e2m1fn, 4, 0x7, 0x7),
}


def values_of(name: str) -> NDArray[np.float64]:
    """The values of the non-negative finite codes."""
    dtype, bits, largest, _ = FORMATS[name]
    codes = np.arange(largest + 1, dtype=np.uint16 if bits == 16 else np.uint8)
    return codes.view(dtype).astype(np.float64)


def round_code(
    name: str, x: NDArray[np.float64], mode: str, satfinite: bool, random: int = 0, n: int = 0
) -> NDArray[np.int64]:
    """The code of each finite x, by looking for the two neighbours of its magnitude."""
    _, bits, largest, nan = FORMATS[name]
    values = values_of(name)
    size, negative = np.abs(x), np.signbit(x)
    below = np.searchsorted(values, size, side="right") - 1
    # One more value, as if the exponents went on, stands for overflow.
    grid = np.append(values, 2 * values[-1] - values[-2])
    low, high = grid[below], grid[np.minimum(below + 1, largest + 1)]
    past = size >= grid[-1]
    middle = (low + high) / 2
    away = {
        "rn": (size > middle) | ((size == middle) & (below % 2 == 1)),
        "rna": size >= middle,
        "rz": np.zeros(x.shape, bool),
        "rm": negative & (size > low),
        "rp": ~negative & (size > low),
    }
    if mode == "rs":
        part = np.floor((size - low) / (high - low) * 2.0**n)
        up = part + random >= 2.0**n
    else:
        up = away[mode]
    code = below + up
    over = past | (code > largest)
    if satfinite or mode in ("rz", "rs"):
        infinite = np.full(x.shape, largest)
    else:
        has_infinity = nan > largest + 1
        infinite = np.full(x.shape, largest + 1 if has_infinity else nan)
        if mode in ("rm", "rp"):
            infinite = np.where(negative == (mode == "rp"), largest, infinite)
    code = np.where(over, infinite, code)
    return np.where(negative, code | 1 << (bits - 1), code)


def special(name: str, x: NDArray[np.float32], mode: str, satfinite: bool, relu: bool,
            random: int = 0, n: int = 0) -> NDArray[np.int64]:  # fmt: skip
    """round_code with NaN, infinities and .relu."""
    _, bits, largest, nan = FORMATS[name]
    wide = x.astype(np.float64)
    finite = np.where(np.isfinite(wide), wide, 0)
    code = round_code(name, finite, mode, satfinite, random, n)
    infinity = (largest if satfinite else largest + 1) | (np.signbit(wide) << (bits - 1))
    code = np.where(np.isinf(wide), infinity, code)
    if relu:
        code = np.where(np.signbit(wide), 0, code)
    return np.where(np.isnan(wide), nan, code)


def inputs(name: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Random bits, every code, every midpoint and what is next to them, special values."""
    values = values_of(name)
    grid = np.append(values, 2 * values[-1] - values[-2])
    near = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2]).astype(np.float32)
    sides = [np.nextafter(near, np.float32(0)), near, np.nextafter(near, np.float32(np.inf))]
    bits = rng.integers(0, 1 << 32, 20000, dtype=np.uint64).astype(np.uint32)
    odd = np.array([0, 1, 0x7F800000, 0x7FC00000, 0x7F800001, 0x7F7FFFFF, 0x00800000], np.uint32)
    x = np.concatenate([*sides, bits.view(np.float32), odd.view(np.float32)])
    return np.concatenate([x, -x])
