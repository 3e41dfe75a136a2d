# SPDX-License-Identifier: Apache-2.0
"""Integer arithmetic against Python's integers: PTX ISA 9.7.1 and 9.7.2."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ptxsim.tests.opcodes.assembler import accepted, agree_with_ptxas
from ptxsim.tests.opcodes.numbers import Array, bits_of, lanes, values, wrap
from ptxsim.tests.opcodes.table import Case, Function, check, grammar, spell

TYPES = ("u16", "s16", "u32", "s32", "u64", "s64")
BITS = ("b16", "b32", "b64")
PACKED = ("u16x2", "s16x2")
WIDE = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64", "u64": "u128", "s64": "s128"}


def quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def nonzero(kind: str) -> Array:
    """Divisors: what a division by zero gives is not specified."""
    x = values(kind, 1).copy()
    x[x == 0] = 3
    return x


def arithmetic() -> Iterator[Case]:
    add = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b}
    for op, sat, kind in grammar(("add", "sub"), ("", "sat"), (*TYPES, *PACKED)):
        f = add[op]
        if sat:
            f = clamped(f)
        yield Case(spell(op, sat, kind), (kind,), (kind,) * 2, lanes(kind, f))
    for op, part, sat, kind in grammar(("mul", "mad"), ("lo", "hi", "wide"), ("", "sat"), TYPES):
        out = WIDE[kind] if part == "wide" else kind
        shift = bits_of(kind) if part == "hi" else 0
        f = product(shift)
        ins = (kind, kind) if op == "mul" else (kind, kind, out)
        yield Case(spell(op, part, sat, kind), (out,), ins, lanes(out, clamped(f) if sat else f))
    for op, part, sat, kind in grammar(("mul24", "mad24"), ("lo", "hi"), ("", "sat"),
                                          ("u32", "s32")):  # fmt: skip
        f = product24(16 if part == "hi" else 0, kind)
        yield Case(spell(op, part, sat, kind), (kind,), (kind,) * (2 if op == "mul24" else 3),
                   lanes(kind, clamped(f) if sat else f))  # fmt: skip
    for kind in TYPES:
        both = {1: nonzero(kind)}
        yield Case(f"div.{kind}", (kind,), (kind,) * 2, lanes(kind, quotient), inputs=both)
        yield Case(f"rem.{kind}", (kind,), (kind,) * 2,
                   lanes(kind, lambda a, b: a - quotient(a, b) * b), inputs=both)  # fmt: skip
        yield Case(f"sad.{kind}", (kind,), (kind,) * 3, lanes(kind, lambda a, b, c: c + abs(a - b)))
        yield Case(f"abs.{kind}", (kind,), (kind,), lanes(kind, abs))
        yield Case(f"neg.{kind}", (kind,), (kind,), lanes(kind, lambda a: -a))
    for op, relu, kind in grammar(("min", "max"), ("", "relu"), (*TYPES, *PACKED)):
        pick = min if op == "min" else max
        f = (lambda a, b, pick=pick: max(0, pick(a, b))) if relu else pick
        yield Case(spell(op, relu, kind), (kind,), (kind,) * 2, lanes(kind, f))


def product(shift: int) -> Function:
    return lambda a, b, c=0: (a * b >> shift) + c


def product24(shift: int, kind: str) -> Function:
    def low(a: int) -> int:
        a &= 0xFFFFFF
        return a - (1 << 24) if kind == "s32" and a >> 23 else a

    return lambda a, b, c=0: (low(a) * low(b) >> shift) + c


def clamped(f: Function) -> Function:
    return lambda *x: min(max(f(*x), -(1 << 31)), (1 << 31) - 1)


# Extended precision: the carry goes from one instruction to the next, and into c and d here.


def carries() -> Iterator[Case]:
    """A first instruction sets the carry that the one under test reads; a last one shows it."""
    sums = [("", op) for op in ("add", "addc", "sub", "subc")]
    products = grammar(("lo", "hi"), ("mad", "madc"))
    for (part, op), cc, kind in grammar([*sums, *products], ("", "cc"), TYPES[2:]):
        if not op.endswith("c") and not cc:
            continue
        bits, reads = bits_of(kind), op.endswith("c")

        def want(
            a: Array,
            b: Array,
            c: Array,
            op: str = op,
            part: str = part,
            bits: int = bits,
            kind: str = kind,
            cc: str = cc,
            reads: bool = reads,
        ) -> tuple[Array, Array]:
            ones = (1 << bits) - 1
            out, carries = [], []
            for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True):
                before = (z & ones) >> (bits - 1)
                if part:
                    product = (x * y >> (bits if part == "hi" else 0)) & ones
                    total = product + (z & ones) + reads * before
                elif op.startswith("sub"):
                    total = (x & ones) - (y & ones) - reads * before
                else:
                    total = (x & ones) + (y & ones) + reads * before
                out.append(total)
                carries.append(int(not 0 <= total <= ones) if cc else before)
            return wrap(np.array(out, object), kind), np.array(carries, np.uint32)

        # c + c carries where its highest bit is set.
        spare = "r18" if bits == 32 else "d18"
        operands = "{0}, {2}, {3}" + (", {4}" if part else "")
        yield Case(f"add.cc.u{bits}", (kind, "u32"), (kind,) * 3, want,
                   f"{spare}, {{4}}, {{4}}; @on {spell(op, part, cc, kind)} {operands}; "
                   "@on addc.u32 {1}, 0, 0")  # fmt: skip


def dots() -> Iterator[Case]:
    for a_kind, b_kind in grammar(("u32", "s32"), ("u32", "s32")):
        for op, part in (("dp4a", ""), ("dp2a", "lo"), ("dp2a", "hi")):
            yield Case(spell(op, part, a_kind, b_kind), (dot_kind(a_kind, b_kind),),
                       (a_kind, b_kind, dot_kind(a_kind, b_kind)),
                       dot(op, part, a_kind, b_kind))  # fmt: skip


def dot_kind(a: str, b: str) -> str:
    return "s32" if "s32" in (a, b) else "u32"


def dot(op: str, part: str, a_kind: str, b_kind: str) -> Function:
    def f(a: Array, b: Array, c: Array) -> Array:
        left = a.view("i1" if a_kind == "s32" else "u1") if op == "dp4a" else (
            a.view("i2" if a_kind == "s32" else "u2"))  # fmt: skip
        left = left.reshape(len(a), -1).astype(object)
        right = b.view("i1" if b_kind == "s32" else "u1").reshape(-1, 4).astype(object)
        if op == "dp2a":
            right = right[:, 2:] if part == "hi" else right[:, :2]
        return wrap((left * right).sum(1) + c.astype(object), dot_kind(a_kind, b_kind))

    return f


# --- Bits ---


def highest(a: int, bits: int) -> int:
    a = ~a if a < 0 else a
    return a.bit_length() - 1 if a else 0xFFFFFFFF


def field(a: int, pos: int, length: int, bits: int, signed: bool) -> int:
    pos, length = pos & 255, length & 255
    if length == 0:
        return 0
    a &= (1 << bits) - 1
    sign = a >> min(pos + length - 1, bits - 1) & 1 if signed else 0
    return sum((a >> (pos + i) & 1 if i < length and pos + i < bits else sign) << i
               for i in range(bits))  # fmt: skip


def insert(a: int, b: int, pos: int, length: int, bits: int) -> int:
    pos, length = pos & 255, length & 255
    for i in range(length):
        if pos + i < bits:
            b = b & ~(1 << (pos + i)) | (a >> i & 1) << (pos + i)
    return b


def nth(mask: int, base: int, n: int) -> int:
    if n == 0:
        return base if mask >> base & 1 else 0xFFFFFFFF
    places = range(base, 32) if n > 0 else range(base, -1, -1)
    found = [i for i in places if mask >> i & 1]
    return found[abs(n) - 1] if abs(n) <= len(found) else 0xFFFFFFFF


def extend(a: int, n: int, wraps: bool, signed: bool) -> int:
    n = n & 31 if wraps else min(n, 32)
    a &= (1 << n) - 1
    return a - (1 << n) if signed and n and a >> (n - 1) else a


def small(kind: str, position: int, limit: int) -> dict[int, Array]:
    return {position: values(kind, position) % limit}


def bits() -> Iterator[Case]:
    for kind in (*BITS, *TYPES):
        n = bits_of(kind)
        signed = kind[0] == "s"
        yield Case(f"popc.{kind}", ("u32",), (kind,), lanes("u32", lambda a: a.bit_count()))
        yield Case(
            f"clz.{kind}", ("u32",), (kind,), lanes("u32", lambda a, n=n: n - a.bit_length())
        )
        yield Case(f"brev.{kind}", (kind,), (kind,),
                   lanes(kind, lambda a, n=n: int(f"{a:0{n}b}"[::-1], 2)))  # fmt: skip
        yield Case(f"bfind.{kind}", ("u32",), (kind,), lanes("u32", lambda a, n=n: highest(a, n)))
        yield Case(f"bfind.shiftamt.{kind}", ("u32",), (kind,), lanes(
            "u32", lambda a, n=n: n - 1 - highest(a, n) if a not in (0, -1) or (a == -1 and n == 0)
            else 0xFFFFFFFF))  # fmt: skip
        yield Case(f"bfe.{kind}", (kind,), (kind, "u32", "u32"), lanes(
            kind, lambda a, p, c, n=n, signed=signed: field(a, p, c, n, signed)))  # fmt: skip
        yield Case(f"bfi.{kind}", (kind,), (kind, kind, "u32", "u32"), lanes(
            kind, lambda a, b, p, c, n=n: insert(a, b, p, c, n)))  # fmt: skip
    yield Case(
        "fns.b32",
        ("u32",),
        ("b32", "u32", "s32"),
        lanes("u32", nth),
        inputs=small("u32", 1, 32) | {2: (values("s32", 2) % 11 - 5).astype(np.int32)},
    )
    for mode, kind in grammar(("clamp", "wrap"), ("b32", "u32", "s32")):
        wraps = mode == "wrap"
        yield Case(f"bmsk.{mode}.{kind}", (kind,), ("u32", "u32"), lanes(
            kind, lambda p, c, wraps=wraps: ((1 << (c & 31 if wraps else min(c, 32))) - 1)
            << (p & 31 if wraps else min(p, 32))))  # fmt: skip
        yield Case(
            f"szext.{mode}.{kind}",
            (kind,),
            (kind, "u32"),
            lanes(kind, lambda a, c, wraps=wraps, kind=kind: extend(a, c, wraps, kind == "s32")),
        )


CASES = [*arithmetic(), *dots(), *bits()]


def test_values() -> None:
    check(accepted(CASES))


def test_carries() -> None:
    check(carries())


def test_the_simulator_takes_what_ptxas_takes() -> None:
    agree_with_ptxas([*CASES, *carries()])
