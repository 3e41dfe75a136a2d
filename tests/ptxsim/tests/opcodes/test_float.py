# SPDX-License-Identifier: Apache-2.0
"""Floating point against rational arithmetic, rounded once: PTX ISA 9.7.3 to 9.7.5."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from ptxsim.tests.opcodes.assembler import accepted, agree_with_ptxas
from ptxsim.tests.opcodes.numbers import (
    FLOATS,
    SHAPES,
    Array,
    compute,
    dtype,
    element,
    flush,
    values,
)
from ptxsim.tests.opcodes.table import Case, Function, check, grammar, spell

ROUNDINGS = ("", "rn", "rz", "rm", "rp")
SINGLE = ("f32", "f64", "f16", "bf16")
TYPES = (*SINGLE, "f16x2", "bf16x2", "f32x2")
# fma.bf16 is .rn in the ISA. An OOB-NaN is what tensor copies fill with.
BEYOND = ("fma.rz.bf16", "fma.rm.bf16", "fma.rp.bf16", "fma.rz.relu.bf16", "fma.rm.relu.bf16",
          "fma.rp.relu.bf16", "fma.rn.oob", "rcp.rn.ftz.f64", "rcp.rz.ftz.f64", "rcp.rm.ftz.f64",
          "rcp.rp.ftz.f64")  # fmt: skip
NEEDED = {"add": 2, "sub": 2, "mul": 2, "fma": 3, "mad": 3, "div": 2, "rcp": 1, "sqrt": 1}


@cache
def rounded(op: str, kind: str, mode: str, ftz: bool, key: bytes) -> Array:
    """`compute` of the same operands once for all forms."""
    count = NEEDED[op]
    one = np.dtype(FLOATS[kind])
    operands = np.frombuffer(key, np.uint8).reshape(count, -1).view(one)
    return compute("fma" if op == "mad" else op, kind, mode, ftz, *operands)


def arithmetic(op: str, kind: str, mode: str, ftz: bool, sat: bool, relu: bool) -> Function:
    def f(*x: Array) -> Array:
        key = b"".join(np.ascontiguousarray(v).tobytes() for v in x)
        out = rounded(op, kind, mode or "rn", ftz, key)
        if sat:
            out = np.where(out > 0, np.minimum(out, out.dtype.type(1)), out.dtype.type(0))
        return np.where(out < 0, out.dtype.type(0), out + out.dtype.type(0)) if relu else out

    return f


def sums() -> Iterator[Case]:
    for op, mode, ftz, extra, kind in grammar(
        ("add", "sub", "mul", "fma", "mad"), ROUNDINGS, ("", "ftz"), ("", "sat", "relu"), TYPES
    ):
        f = arithmetic(op, element(kind), mode, bool(ftz), extra == "sat", extra == "relu")
        yield Case(spell(op, mode, ftz, extra, kind), (kind,), (kind,) * NEEDED[op], f)


def mixed() -> Iterator[Case]:
    """Sums of fp32 with operands of 16 bits."""
    for op, mode, sat, kind in grammar(("add", "sub", "fma"), ROUNDINGS, ("", "sat"),
                                       ("f16", "bf16")):  # fmt: skip
        count = NEEDED[op]
        f = arithmetic(op, "f32", mode, False, bool(sat), False)

        def want(*x: Array, f: Function = f) -> Array:
            return f(*[v.astype(np.float32) for v in x])

        yield Case(
            spell(op, mode, sat, "f32", kind), ("f32",), (kind,) * (count - 1) + ("f32",), want
        )


def divisions() -> Iterator[Case]:
    for op, mode, ftz, kind in grammar(("div", "rcp", "sqrt"), (*ROUNDINGS, "full"), ("", "ftz"),
                                       TYPES):  # fmt: skip
        f = arithmetic(op, element(kind), "rn" if mode == "full" else mode, bool(ftz), False, False)
        yield Case(spell(op, mode, ftz, kind), (kind,), (kind,) * NEEDED[op], f,
                   ulp=2 if mode == "full" else 0)  # fmt: skip


EXACT = {
    "ex2": np.exp2, "lg2": np.log2, "rcp": np.reciprocal, "rsqrt": lambda x: 1 / np.sqrt(x),
    "sqrt": np.sqrt, "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
}  # fmt: skip


def approximations() -> Iterator[Case]:
    """Rounded from the double function: the simulator's choice within the ISA's bounds."""
    for op, ftz, kind in grammar(tuple(EXACT), ("", "ftz"), TYPES):
        yield Case(spell(op, "approx", ftz, kind), (kind,), (kind,),
                   approximation(op, element(kind), bool(ftz)), ulp=1)  # fmt: skip
    for ftz, kind in grammar(("", "ftz"), TYPES):
        yield Case(
            spell("div", "approx", ftz, kind),
            (kind,),
            (kind,) * 2,
            arithmetic("div", element(kind), "", bool(ftz), False, False),
            ulp=2,
        )


def approximation(op: str, kind: str, ftz: bool) -> Function:
    def f(x: Array) -> Array:
        if kind == "f64":  # of the upper halves of the words, but for rsqrt without .ftz
            if not ftz:
                return EXACT[op](x)
            cut = np.uint64(0xFFFFFFFF00000000)
            out = EXACT[op]((flush(x, kind).view(np.uint64) & cut).view(np.float64))
            out = (flush(out, kind).view(np.uint64) & cut).view(np.float64)
            return np.where(np.isnan(x), x, out)
        out = EXACT[op]((flush(x, kind) if ftz else x).astype(np.float64)).astype(FLOATS[kind])
        return flush(out, kind) if ftz else out

    return f


# --- Sign, extremes, classes ---


def extreme(op: str, kind: str, ftz: bool, nan: bool, sign: str) -> Function:
    def two(a: Array, b: Array) -> Array:
        if ftz:
            a, b = flush(a, kind), flush(b, kind)
        negative = np.signbit(a) ^ np.signbit(b)
        if sign:
            a, b = np.abs(a), np.abs(b)
        below = (a < b) | ((a == b) & np.signbit(a) & ~np.signbit(b))
        out = np.where(below == (op == "min"), a, b)
        out = np.where(np.isnan(a), b, np.where(np.isnan(b), a, out))
        if nan:
            out = np.where(np.isnan(a) | np.isnan(b), a.dtype.type(np.nan), out)
        return np.where(negative, -out, out) if sign == "xorsign.abs" else out

    def f(*x: Array) -> Array:
        out = two(x[0], x[1])
        return two(out, x[2]) if len(x) == 3 else out

    return f


def extremes() -> Iterator[Case]:
    for op, ftz, nan, sign, kind in grammar(("min", "max"), ("", "ftz"), ("", "NaN"),
                                            ("", "abs", "xorsign.abs"), TYPES):  # fmt: skip
        f = extreme(op, element(kind), bool(ftz), bool(nan), sign)
        for count in (2, 3):
            yield Case(spell(op, ftz, nan, sign, kind), (kind,), (kind,) * count, f)


def signs() -> Iterator[Case]:
    """On the bits: of a NaN the sign changes, too."""
    for op, ftz, kind in grammar(("abs", "neg"), ("", "ftz"), TYPES):
        one, bits = element(kind), f"b{8 * np.dtype(dtype(element(kind))).itemsize}"
        top = 1 << (int(bits[1:]) - 1)
        packed = f"{bits}x2" if "x" in kind else bits

        def want(x: Array, op: str = op, ftz: str = ftz, one: str = one, top: int = top) -> Array:
            x = flush(x.view(FLOATS[one]), one).view(x.dtype) if ftz else x
            return x ^ x.dtype.type(top) if op == "neg" else x & x.dtype.type(top - 1)

        yield Case(spell(op, ftz, kind), (packed,), (packed,), want,
                   inputs={0: values(kind, 0).view(dtype(packed))})  # fmt: skip
    for kind in TYPES:
        bits = f"b{8 * np.dtype(dtype(kind)).itemsize}"
        top = 1 << (int(bits[1:]) - 1)
        yield Case(f"copysign.{kind}", (bits,), (bits, bits), lambda a, b, top=top:
                   (a & a.dtype.type(top)) | (b & b.dtype.type(top - 1)))  # fmt: skip


def classes() -> Iterator[Case]:
    for what, kind in grammar(
        ("finite", "infinite", "number", "notanumber", "normal", "subnormal"), TYPES
    ):
        least = 2.0 ** SHAPES[element(kind)][1]
        f = {
            "finite": np.isfinite, "infinite": np.isinf, "number": lambda x: ~np.isnan(x),
            "notanumber": np.isnan, "normal": lambda x, m=least: np.isfinite(x) & (np.abs(x) >= m),
            "subnormal": lambda x, m=least: (np.abs(x) < m) & (x != 0),
        }[what]  # fmt: skip
        yield Case(f"testp.{what}.{kind}", ("pred",), (kind,), f)


CASES = [*sums(), *mixed(), *divisions(), *approximations(), *extremes(), *signs(), *classes()]


def test_values() -> None:
    check(accepted(CASES))


def test_the_simulator_takes_what_ptxas_takes() -> None:
    agree_with_ptxas(CASES, BEYOND)
