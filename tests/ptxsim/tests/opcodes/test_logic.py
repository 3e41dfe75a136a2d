# SPDX-License-Identifier: Apache-2.0
"""Bits, shifts, permutation and moves: PTX ISA 9.7.8 and 9.7.9."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ptxsim.tests.opcodes.assembler import accepted, agree_with_ptxas
from ptxsim.tests.opcodes.numbers import Array, bits_of, lanes, values
from ptxsim.tests.opcodes.table import Case, check, grammar, spell

BITS = ("b16", "b32", "b64")
TYPES = ("u16", "s16", "u32", "s32", "u64", "s64")
FLOATS = ("f16", "bf16", "f16x2", "bf16x2", "f32", "f64")


def bitwise() -> Iterator[Case]:
    two = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
    for op, kind in grammar(tuple(two), (*BITS, *TYPES, "pred")):
        for text in ("{}, {}, {}", *(("{}, !{}, {}", "{}, {}, !{}") if kind == "pred" else ())):

            def want(a: Array, b: Array, op: str = op, text: str = text) -> Array:
                flips = [int(part.strip().startswith("!")) for part in text.split(",")[1:]]
                return two[op](a ^ a.dtype.type(flips[0]), b ^ b.dtype.type(flips[1]))

            yield Case(f"{op}.{kind}", (kind,), (kind,) * 2, want, text)
    for kind in (*BITS, *TYPES, "pred"):
        yield Case(f"not.{kind}", (kind,), (kind,), lambda a, k=kind: a ^ 1 if k == "pred" else ~a)
        yield Case(f"cnot.{kind}", (kind,), (kind,), lambda a: (a == 0).astype(a.dtype))


def lookup(a: Array, b: Array, c: Array, table: int) -> Array:
    out = np.zeros_like(a)
    for i in range(8):
        if table >> i & 1:
            out |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return out


def lookups() -> Iterator[Case]:
    for table in range(256):
        yield Case(
            "lop3.b32",
            ("b32",),
            ("b32",) * 3,
            lambda a, b, c, t=table: lookup(a, b, c, t),
            f"{{}}, {{}}, {{}}, {{}}, {table}",
        )
    for op, flip in grammar(("and", "or"), ("", "!")):

        def want(a: Array, b: Array, c: Array, q: Array, op: str = op, flip: str = flip
                 ) -> tuple[Array, Array]:  # fmt: skip
            out = lookup(a, b, c, 0x68)
            other = q ^ bool(flip)
            return out, (out != 0) & other if op == "and" else (out != 0) | other

        yield Case(f"lop3.{op}.b32", ("b32", "pred"), ("b32", "b32", "b32", "pred"), want,
                   f"{{}}|{{}}, {{}}, {{}}, {{}}, 0x68, {flip}{{}}")  # fmt: skip


def shifts() -> Iterator[Case]:
    for op, kind in grammar(("shl", "shr"), (*BITS, *TYPES)):
        f = (lambda a, n: a << min(n, 64)) if op == "shl" else (lambda a, n: a >> n)
        yield Case(f"{op}.{kind}", (kind,), (kind, "u32"), lanes(kind, f))
    for side, mode, kind in grammar("lr", ("clamp", "wrap"), ("b32", "u32")):

        def funnel(a: int, b: int, n: int, side: str = side, mode: str = mode) -> int:
            n = n & 31 if mode == "wrap" else min(n, 32)
            both = b << 32 | a
            return both << n >> 32 if side == "l" else both >> n

        yield Case(
            spell("shf", side, mode, kind), (kind,), (kind, kind, "u32"), lanes(kind, funnel)
        )


PICKS = {  # which byte comes to place i, for selector s: ISA table of prmt
    "f4e": lambda s, i: s + i, "b4e": lambda s, i: (s - i) % 8, "rc8": lambda s, i: s,
    "ecl": lambda s, i: max(s, i), "ecr": lambda s, i: min(s, i),
    "rc16": lambda s, i: 2 * (s % 2) + i % 2,
}  # fmt: skip


def permutations() -> Iterator[Case]:
    for mode in ("", *PICKS):

        def permute(a: int, b: int, c: int, mode: str = mode) -> int:
            source = (b << 32 | a).to_bytes(8, "little")
            out = 0
            for i in range(4):
                if mode:
                    byte = source[PICKS[mode](c & 3, i)]
                else:
                    select = c >> (4 * i) & 15
                    byte = source[select & 7]
                    byte = (255 if byte & 128 else 0) if select & 8 else byte
                out |= byte << (8 * i)
            return out

        yield Case(spell("prmt", "b32", mode), ("b32",), ("b32",) * 3, lanes("b32", permute),
                   inputs={2: values("b64", 2).astype(np.uint32)})  # fmt: skip


def moves() -> Iterator[Case]:
    for kind in (*BITS, *TYPES, *FLOATS, "b128"):
        bits = f"b{bits_of(kind)}"
        yield Case(f"mov.{kind}", (bits,), (bits,), lambda a: a)
    for flip in ("", "!"):
        yield Case(
            "mov.pred", ("pred",), ("pred",), lambda a, f=flip: a ^ bool(f), f"{{}}, {flip}{{}}"
        )
    for whole, part in (("b32", "b16"), ("b64", "b32"), ("b64", "b16"), ("b128", "b64"),
                        ("b128", "b32")):  # fmt: skip
        count = bits_of(whole) // bits_of(part)
        items = ", ".join(["{}"] * count)

        def pack(*x: Array) -> Array:
            return np.stack(x, -1).copy()

        def unpack(x: Array, part: str = part, count: int = count) -> tuple[Array, ...]:
            each = x.view(f"u{bits_of(part) // 8}").reshape(-1, count)
            return tuple(each[:, i].copy() for i in range(count))

        yield Case(f"mov.{whole}", (whole,), (part,) * count, pack, f"{{}}, {{{{{items}}}}}")
        yield Case(f"mov.{whole}", (part,) * count, (whole,), unpack, f"{{{{{items}}}}}, {{}}")
        yield Case(f"mov.{whole}", (part,), (whole,), lambda x, f=unpack: f(x)[-1],
                   f"{{{{{'_, ' * (count - 1)}{{}}}}}}, {{}}")  # fmt: skip


CASES = [*bitwise(), *lookups(), *shifts(), *permutations(), *moves()]


def test_values() -> None:
    check(accepted(CASES))


def test_the_simulator_takes_what_ptxas_takes() -> None:
    agree_with_ptxas(CASES)
