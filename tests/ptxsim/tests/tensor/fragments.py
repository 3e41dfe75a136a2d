# SPDX-License-Identifier: Apache-2.0
"""Fragments of mma by the ISA's formulas for element i of a lane, and the numbers in them."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ptxsim.tests.tensor.library import LANES

Array = NDArray[np.generic]
Place = tuple[int, int]
T = np.arange(LANES)

# Element type: bits, numpy's type of a code.
BITS = {"f16": 16, "bf16": 16, "tf32": 32, "f32": 32, "s32": 32, "f64": 64, "e4m3": 8, "e5m2": 8,
        "e3m2": 6, "e2m3": 6, "e2m1": 4, "u8": 8, "s8": 8, "u4": 4, "s4": 4, "b1": 1}  # fmt: skip
NARROW = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2,
          "e3m2": ml_dtypes.float6_e3m2fn, "e2m3": ml_dtypes.float6_e2m3fn,
          "e2m1": ml_dtypes.float4_e2m1fn}  # fmt: skip


def a_place(kind: str, m: int, k: int, i: int, g: int, q: int) -> Place:
    """Row and column of A of element a_i of the lane q of group g (ISA 9.7.14.5.1 to .13)."""
    if kind in ("f16", "bf16"):
        if k == 8:
            return (g if i < 2 else g + 8), q * 2 + (i & 1)
        return (g if i < 2 or 4 <= i < 6 else g + 8), q * 2 + (i & 1) + (8 if i >= 4 else 0)
    if kind == "tf32" and k == 4:
        return (g if i == 0 else g + 8), q
    if kind == "tf32":
        return (g if i in (0, 2) else g + 8), (q if i in (0, 1) else q + 4)
    if kind == "f64" and m == 8:
        return g, q
    if kind == "f64":
        return (g if i % 2 == 0 else g + 8), q + 4 * (i // 2)
    if kind == "8" and m == 8:
        return g, q * 4 + i
    if kind == "8" and k == 16:
        return (g if i < 4 else g + 8), q * 4 + (i & 3)
    if kind == "8":
        return (g if i < 4 or 8 <= i < 12 else g + 8), q * 4 + (i & 3) + (16 if i >= 8 else 0)
    if kind == "4" and m == 8:
        return g, q * 8 + i
    if kind == "4" and k == 32:
        return (g if i < 8 else g + 8), q * 8 + (i & 7)
    if kind == "4":
        return (g if i < 8 or 16 <= i < 24 else g + 8), q * 8 + (i & 7) + (32 if i >= 16 else 0)
    if m == 8:  # b1
        return g, q * 32 + i
    if k == 128:
        return (g if i < 32 else g + 8), q * 32 + (i & 31)
    return (g if i < 32 or 64 <= i < 96 else g + 8), q * 32 + (i & 31) + (128 if i >= 64 else 0)


def b_place(kind: str, k: int, i: int, g: int, q: int) -> Place:
    """Row and column of B of element b_i."""
    if kind in ("f16", "bf16"):
        return q * 2 + (i & 1) + (8 if i >= 2 else 0), g
    if kind == "tf32":
        return (q if i == 0 else q + 4), g
    if kind == "f64":
        return q + 4 * i, g
    if kind == "8":
        return q * 4 + (i & 3) + (16 if i >= 4 else 0), g
    if kind == "4":
        return q * 8 + (i & 7) + (32 if i >= 8 else 0), g
    return q * 32 + (i & 31) + (128 if i >= 32 else 0), g


def c_place(i: int, g: int, q: int) -> Place:
    return (g if i < 2 else g + 8), q * 2 + (i & 1)


def pack(matrix: Array, bits: int, count: int, place: Callable[[int, int, int], Place]) -> Array:
    """Registers of 32 lanes from a matrix of codes, `count` elements a lane, `bits` each."""
    word = 64 if bits == 64 else 32
    registers = np.zeros((count * bits // word, LANES), f"u{word // 8}")
    per = word // bits
    for lane in range(LANES):
        for i in range(count):
            code = int(matrix[place(i, lane // 4, lane % 4)])
            registers[i // per, lane] |= np.uint64(code << (i % per * bits)).astype(registers.dtype)
    return registers


def unpack(
    registers: Array, bits: int, shape: Place, place: Callable[[int, int, int], Place]
) -> Array:
    codes = np.zeros(shape, "u8")
    word = registers.itemsize * 8
    per = word // bits
    for lane in range(LANES):
        for i in range(len(registers) * per):
            value = int(registers[i // per, lane]) >> (i % per * bits)
            codes[place(i, lane // 4, lane % 4)] = value & ((1 << bits) - 1)
    return codes


def family(element: str) -> str:
    if element in ("f16", "bf16", "tf32", "f64", "b1"):
        return element
    return "4" if element in ("u4", "s4") else "8"


def codes_of(element: str, values: NDArray[np.float64]) -> Array:
    if element == "tf32":
        return values.astype(np.float32).view(np.uint32)
    if element in ("f64", "f32", "f16"):
        return values.astype(f"f{BITS[element] // 8}").view(f"u{BITS[element] // 8}")
    if element == "bf16":
        return values.astype(ml_dtypes.bfloat16).view(np.uint16)
    if element in NARROW:
        return values.astype(NARROW[element]).view(np.uint8)
    return values.astype(np.int64) & ((1 << BITS[element]) - 1)


def values_of(element: str, codes: Array) -> NDArray[np.float64]:
    if element == "tf32":
        return (codes.astype(np.uint32) & ~np.uint32(0x1FFF)).view(np.float32).astype(np.float64)
    if element in ("f64", "f32", "f16"):
        size = BITS[element] // 8
        return codes.astype(f"u{size}").view(f"f{size}").astype(np.float64)
    if element == "bf16":
        return codes.astype(np.uint16).view(ml_dtypes.bfloat16).astype(np.float64)
    if element in NARROW:
        return codes.astype(np.uint8).view(NARROW[element]).astype(np.float64)
    bits = BITS[element]
    signed = codes.astype(np.int64)
    if element[0] == "s":
        signed = np.where(signed >> (bits - 1) & 1, signed - (1 << bits), signed)
    return signed.astype(np.float64)


def chain(
    a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]
) -> NDArray[np.float64]:
    """k in order, one rounding to f32 each: products of at most 24 bits are exact in double, and
    rounding their sum with an f32 to double first does not change what it rounds to."""
    total = c.astype(np.float32)
    for k in range(a.shape[1]):
        total = (total.astype(np.float64) + np.outer(a[:, k], b[k])).astype(np.float32)
    return total.astype(np.float64)


def shape_of(shape: str) -> tuple[int, int, int]:
    m, rest = shape[1:].split("n")
    n, k = rest.split("k")
    return int(m), int(n), int(k)
