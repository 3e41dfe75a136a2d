# SPDX-License-Identifier: Apache-2.0
"""Operands of every PTX type, and exact arithmetic to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
N = 512  # values of an operand: 16 warps

FLOATS: dict[str, Any] = {
    "f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64,
}  # fmt: skip
# Bits of the significand, exponents of the smallest and of the largest normal number.
SHAPES = {"f16": (11, -14, 15), "bf16": (8, -126, 127), "f32": (24, -126, 127),
          "f64": (53, -1022, 1023)}  # fmt: skip
CANONICAL_NAN = {"f16": 0x7FFF, "bf16": 0x7FFF, "f32": 0x7FFFFFFF}


def bits_of(kind: str) -> int:
    """The size of a type, "s32" or "f16x2"; predicates come as 32 bits."""
    if kind == "pred":
        return 32
    each, _, count = kind.lstrip("busf").partition("x")
    return int(each) * int(count or 1)


def dtype(kind: str) -> Any:
    """What an array of a type is in numpy; packed types are unsigned."""
    if kind in FLOATS:
        return FLOATS[kind]
    if bits_of(kind) == 128:
        return np.dtype("V16")
    return np.dtype(f"{'i' if kind[0] == 's' and 'x' not in kind else 'u'}{bits_of(kind) // 8}")


def element(kind: str) -> str:
    """ "f16" of "f16x2"."""
    return kind.partition("x")[0]


def _edges(kind: str) -> list[int]:
    bits = bits_of(kind)
    if kind in FLOATS:
        significand = SHAPES[kind][0]
        one = (1 << (bits - 2)) - (1 << (significand - 1))
        infinity = (1 << (bits - 1)) - (1 << (significand - 1))
        sizes = [0, 1, (1 << (significand - 1)) - 1, 1 << (significand - 1), one - 1, one, one + 1,
                 one + (3 << (significand - 3)), infinity - 1, infinity]  # fmt: skip
        nans = [infinity + 1, infinity | 1 << (significand - 2), (1 << bits) - 1]
        return [*sizes, *(s | 1 << (bits - 1) for s in sizes), *nans]
    top = 1 << (bits - 1)
    near = [0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 63, 64, 0x55, 0x80, 0xFF]
    return [v % (1 << bits) for v in (*near, top, top - 1, top + 1, -1, -2, -33)]


@cache
def values(kind: str, position: int) -> Array:
    """Operand number `position` of this type: pairs of edge values, then random ones."""
    rng = np.random.default_rng([position, *kind.encode()])
    if kind == "pred":
        return rng.integers(0, 2, N, np.uint32)
    if "x" in kind:
        each = [values(element(kind), position + 3 * i) for i in range(int(kind[-1]))]
        if kind[0] in "us":
            each = [np.roll(e, 7 * i) for i, e in enumerate(each)]
        return np.stack(each, -1).copy().view(f"u{bits_of(kind) // 8}").reshape(N)
    bits = bits_of(kind)
    if bits == 128:
        return rng.integers(0, 256, (N, 16), np.uint8).view("V16").reshape(N)
    raw = rng.integers(0, 256, (N, bits // 8), np.uint8).view(f"u{bits // 8}").reshape(N)
    if kind in FLOATS:  # every other one of a size that neither overflows nor vanishes
        wide = rng.normal(size=N) * 2.0 ** rng.integers(-6, 7, N)
        raw[::2] = wide.astype(FLOATS[kind]).view(raw.dtype)[::2]
    else:
        raw >>= rng.integers(0, bits, N).astype(raw.dtype)
    edges = np.array(_edges(kind), raw.dtype)
    count = 3 * N // 4
    raw[:count] = edges[rng.integers(0, len(edges), count)]
    return raw.view(dtype(kind))


# --- Integers: arrays of Python's ---


def wrap(values: Array, kind: str) -> Array:
    """Integers of any size as the type holds them."""
    mask = (1 << bits_of(kind)) - 1
    unsigned = np.array([int(v) & mask for v in values], f"u{bits_of(kind) // 8}")
    return unsigned.view(dtype(kind))


def lanes(kind: str, f: Callable[..., Any]) -> Callable[..., Any]:
    """f of Python's integers, lane by lane, wrapped to the type."""

    def run(*operands: Array) -> Array:
        rows = zip(*[x.astype(object) for x in operands], strict=True)
        return wrap(np.array([f(*row) for row in rows], object), element(kind))

    return run


# --- Floats: rational arithmetic, rounded once ---


def _round_magnitude(x: Fraction, mode: str, negative: bool) -> int:
    below = x.numerator // x.denominator
    rest = x - below
    up = {"rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and below % 2 == 1), "rz": False,
          "rm": negative and rest > 0, "rp": not negative and rest > 0}  # fmt: skip
    return below + up[mode]


def round_to(x: Fraction, kind: str, mode: str = "rn") -> float:
    """A rational other than 0, rounded to a format; a double holds all of them."""
    significand, smallest, largest = SHAPES[kind]
    negative, size = x < 0, abs(x)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if size < Fraction(2) ** exponent:
        exponent -= 1
    unit = max(exponent, smallest) - significand + 1
    code = _round_magnitude(size / Fraction(2) ** unit, mode, negative)
    most = (2**significand - 1) * Fraction(2) ** (largest - significand + 1)
    rounded = code * Fraction(2) ** unit
    if rounded > most:
        inward = mode == "rz" or mode == ("rp" if negative else "rm")
        result = float(most) if inward else math.inf
    else:
        result = float(rounded)
    return -result if negative else result


def _sqrt(x: float) -> Fraction:
    """The root, cut off far below any format's last bit and marked if it is not exact."""
    f = Fraction(x)
    shift = 400 + 2 * max(0, f.denominator.bit_length())
    scaled = f.numerator * (1 << shift * 2) // f.denominator
    root = math.isqrt(scaled)
    exact = root * root == scaled and scaled * f.denominator == f.numerator << shift * 2
    return Fraction(2 * root + (not exact), 1 << (shift + 1))


def _special(op: str, a: float, b: float, c: float) -> float:
    """With an operand that is infinite or no number, or a division by zero."""
    with np.errstate(all="ignore"):
        x, y, z = np.float64(a), np.float64(b), np.float64(c)
        return float({"add": lambda: x + y, "sub": lambda: x - y, "mul": lambda: x * y,
                      "fma": lambda: np.sign(x) * np.sign(y) * np.inf + z
                      if np.isinf(x) or np.isinf(y) else x + y + z,
                      "div": lambda: x / y, "rcp": lambda: 1 / x,
                      "sqrt": lambda: np.sqrt(x)}[op]())  # fmt: skip


def exact(op: str, kind: str, mode: str, a: float, b: float, c: float) -> float:
    """One operation of IEEE 754, correctly rounded."""
    used = {"rcp": (a,), "sqrt": (a,), "fma": (a, b, c)}.get(op, (a, b))
    divisor = {"div": b, "rcp": a}.get(op, 1.0)
    if not all(map(math.isfinite, used)) or divisor == 0 or (op == "sqrt" and a <= 0):
        return _special(op, a, b, c)
    if op == "sqrt":
        return round_to(_sqrt(a), kind, mode)
    x, y, z = Fraction(a), Fraction(b), Fraction(c)
    sign = math.copysign(1, a) * (math.copysign(1, b) if op != "rcp" else 1)
    if op in ("mul", "div", "rcp"):
        value = {"mul": lambda: x * y, "div": lambda: x / y, "rcp": lambda: 1 / x}[op]()
        return round_to(value, kind, mode) if value else math.copysign(0, sign)
    first, second = (x * y, z) if op == "fma" else (x, -y if op == "sub" else y)
    if total := first + second:
        return round_to(total, kind, mode)
    signs = (sign, math.copysign(1, c)) if op == "fma" else (
        math.copysign(1, a), math.copysign(1, b) * (-1 if op == "sub" else 1))  # fmt: skip
    if not first and not second and signs[0] == signs[1]:
        return math.copysign(0, signs[0])
    return -0.0 if mode == "rm" else 0.0


def flush(x: Array, kind: str) -> Array:
    """Subnormal numbers become zeros of their sign."""
    small = np.abs(x.astype(np.float64)) < 2.0 ** SHAPES[kind][1]
    return np.where(small, np.copysign(x.dtype.type(0), x), x)


def compute(op: str, kind: str, mode: str, ftz: bool, *operands: Array) -> Array:
    """`exact` on arrays, with .ftz."""
    read = [flush(x, kind) if ftz and x.dtype == FLOATS[kind] else x for x in operands]
    rows = zip(*[x.astype(np.float64).tolist() for x in read], strict=True)
    out = np.array([exact(op, kind, mode, *(*row, 0.0, 0.0)[:3]) for row in rows])
    with np.errstate(all="ignore"):
        result = out.astype(FLOATS[kind])
    return flush(result, kind) if ftz else result


def halves(kind: str, f: Callable[..., Array], *operands: Array) -> Array:
    """f on each element of packed operands, packed again."""
    one = dtype(element(kind))
    count = bits_of(kind) // (8 * np.dtype(one).itemsize)
    parts = [
        np.ascontiguousarray(x).view(one).reshape(-1, count // 8 * 8 or count) for x in operands
    ]
    done = [f(*[p[:, i] for p in parts]) for i in range(parts[0].shape[1])]
    return np.stack(done, -1).astype(one).copy().view(f"u{bits_of(kind) // 8}").reshape(-1)
