# SPDX-License-Identifier: Apache-2.0
"""Comparison and selection: PTX ISA 9.7.6 and 9.7.7."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ptxsim.tests.opcodes.assembler import accepted, agree_with_ptxas
from ptxsim.tests.opcodes.numbers import FLOATS, Array, bits_of, dtype, element, flush
from ptxsim.tests.opcodes.table import Case, check, grammar, spell

INTEGERS = ("b16", "b32", "b64", "u16", "s16", "u32", "s32", "u64", "s64")
TYPES = (*INTEGERS, *FLOATS, "f16x2", "bf16x2")
OPERATIONS = ("eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs",
              "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")  # fmt: skip
UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
COMBINE = ("", "and", "or", "xor")


def compared(op: str, kind: str, ftz: bool, a: Array, b: Array) -> Array:
    if kind in FLOATS and ftz:
        a, b = flush(a, kind), flush(b, kind)
    nan = np.zeros(a.shape, bool)
    if kind in FLOATS:
        a, b = a.astype(np.float64), b.astype(np.float64)
        nan = np.isnan(a) | np.isnan(b)
    if op in ("num", "nan"):
        return nan == (op == "nan")
    base = UNSIGNED.get(op, op)
    f = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
         "gt": np.greater, "ge": np.greater_equal}[base[:2]]  # fmt: skip
    return np.where(nan, base.endswith("u"), f(a, b))


def combined(how: str, a: Array, c: Array) -> Array:
    return {"": a, "and": a & c, "or": a | c, "xor": a ^ c}[how]


def parts(kind: str, x: Array) -> list[Array]:
    if "x" not in kind:
        return [x]
    each = x.view(dtype(element(kind))).reshape(-1, 2)
    return [each[:, 0], each[:, 1]]


def setp() -> Iterator[Case]:
    for op, how, ftz, kind in grammar(OPERATIONS, COMBINE, ("", "ftz"), TYPES):
        for results, flip in ((1, ""), (2, "!")):
            if "x" in kind and results == 1:
                continue  # ptxas takes it; the ISA has a result for each half

            def want(a: Array, b: Array, c: Array | None = None, op: str = op, how: str = how,
                     ftz: str = ftz, kind: str = kind, results: int = results, flip: str = flip
                     ) -> tuple[Array, ...]:  # fmt: skip
                other = np.zeros(len(a), bool) if c is None else (c != 0) ^ bool(flip)
                each = [compared(op, element(kind), bool(ftz), x, y)
                        for x, y in zip(parts(kind, a), parts(kind, b), strict=True)]  # fmt: skip
                if len(each) == 1 and results == 2:
                    each.append(~each[0])
                return tuple(combined(how, e, other) for e in each)

            predicate = ("pred",) if how else ()
            yield Case(
                spell("setp", op, how, ftz, kind),
                ("pred",) * results,
                (kind, kind, *predicate),
                want,
                "|".join(["{}"] * results) + ", {}, {}" + (f", {flip}{{}}" if how else ""),
            )


def set_() -> Iterator[Case]:
    one = {"f32": 0x3F800000, "f16": 0x3C00, "bf16": 0x3F80, "f16x2": 0x3C00, "bf16x2": 0x3F80}
    results = ("u32", "s32", "f32", "u16", "s16", "f16", "bf16", "f16x2", "bf16x2")
    for op, how, ftz, out, kind in grammar(("eq", "lo", "ge", "neu", "nan"), COMBINE, ("", "ftz"),
                                           results, TYPES):  # fmt: skip
        bits = f"b{bits_of(out)}"
        value = one.get(out, (1 << bits_of(out)) - 1)

        def want(
            a: Array,
            b: Array,
            c: Array | None = None,
            op: str = op,
            how: str = how,
            ftz: str = ftz,
            kind: str = kind,
            out: str = out,
            value: int = value,
        ) -> Array:
            other = np.zeros(len(a), bool) if c is None else c != 0
            each = [combined(how, compared(op, element(kind), bool(ftz), x, y), other)
                    for x, y in zip(parts(kind, a), parts(kind, b), strict=True)]  # fmt: skip
            if len(each) == 2 and out in ("u32", "s32"):
                value = 0xFFFF
            wide = [np.where(e, value, 0).astype(np.uint64) for e in each]
            whole = wide[0] | wide[1] << 16 if len(wide) == 2 else wide[0]
            return whole.astype(f"u{bits_of(out) // 8}")

        yield Case(spell("set", op, how, ftz, out, kind), (bits,),
                   (kind, kind, *(("pred",) if how else ())), want)  # fmt: skip


def selections() -> Iterator[Case]:
    for kind in TYPES:
        bits = f"b{bits_of(kind)}"
        for flip in ("", "!"):
            yield Case(
                f"selp.{kind}",
                (bits,),
                (bits, bits, "pred"),
                lambda a, b, c, f=flip: np.where((c != 0) ^ bool(f), a, b),
                f"{{}}, {{}}, {{}}, {flip}{{}}",
            )
        for ftz, by in grammar(("", "ftz"), ("s32", "f32")):

            def want(a: Array, b: Array, c: Array, ftz: str = ftz) -> Array:
                return np.where((flush(c, "f32") if ftz else c) >= 0, a, b)

            yield Case(spell("slct", ftz, kind, by), (bits,), (bits, bits, by), want)


CASES = [*setp(), *set_(), *selections()]


def test_values() -> None:
    check(accepted(CASES))


def test_the_simulator_takes_what_ptxas_takes() -> None:
    agree_with_ptxas(CASES)
