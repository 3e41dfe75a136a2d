# SPDX-License-Identifier: Apache-2.0
"""Instructions of tensor cores and cvt in the engine: operands reach the functions that
tests/tensor checks, and nothing else."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from ptxsim.tests.opcodes.numbers import Array
from ptxsim.tests.opcodes.program import Program
from ptxsim.tests.opcodes.table import Case, check

LANES = np.arange(32)
RNG = np.random.default_rng(11)
ROWS = RNG.integers(0, 1 << 16, (32, 8)).astype(np.uint16)  # of 16 bytes each
STAGE = """.reg .b32 s, b; mov.u32 b, tile; mad.lo.u32 s, tid, 16, b; mad.wide.u32 d0, tid, 16, in;
ld.global.v4.u32 {r1, r2, r3, r4}, [d0]; st.shared.v4.u32 [s], {r1, r2, r3, r4}; bar.warp.sync -1;
"""


def show(registers: list[str]) -> str:
    return "".join(f"st.global.b32 [mine+{4 * i}], {r};" for i, r in enumerate(registers))


def fragments(count: int, transposed: bool) -> Array:
    """ISA: lane l has elements 2 (l % 4) and the next of row l / 4 of each 8x8 matrix."""
    out = np.zeros((32, count), np.uint32)
    for lane, k in itertools.product(range(32), range(count)):
        matrix = ROWS[8 * k : 8 * k + 8]
        matrix = matrix.T if transposed else matrix
        low, high = matrix[lane // 4, lane % 4 * 2 : lane % 4 * 2 + 2]
        out[lane, k] = int(low) | int(high) << 16
    return out.reshape(-1)


def ldmatrix(form: str, count: int, transposed: bool) -> Program:
    names = [f"r{i}" for i in range(5, 5 + count)]
    address = "s" if "shared" in form else "d1"
    text = f"""{STAGE} cvt.u64.u32 d1, s; cvta.shared.u64 d1, d1;
{form} {{{", ".join(names)}}}, [{address}];"""
    return Program(text + show(names), fragments(count, transposed), inputs=ROWS.view(np.uint32),
                   words=count)  # fmt: skip


def stmatrix(form: str, count: int, transposed: bool) -> Program:
    """Fragments of the rows, stored, are the rows."""
    flip = ".trans" if transposed else ""
    names = [f"r{i}" for i in range(5, 5 + count)]
    rows = f"{{{', '.join(names)}}}"
    text = f"""{STAGE} ldmatrix.sync.aligned.m8n8.x{count}{flip}.shared.b16 {rows}, [s];
add.u32 s, s, 1024; {form} [s], {rows}; bar.warp.sync -1; mov.u32 r9, 0;
setp.lt.u32 p0, tid, {8 * count}; @p0 ld.shared.u32 r9, [s]; @p0 ld.shared.u32 r10, [s+12];
@p0 xor.b32 r9, r9, r10; st.global.u32 [mine], r9;"""
    words = ROWS.view(np.uint32)
    return Program(text, np.where(8 * count > LANES, words[:, 0] ^ words[:, 3], 0),
                   inputs=words.reshape(-1))  # fmt: skip


COUNTS = ((1, "x1"), (2, "x2"), (4, "x4"))
PROGRAMS = {
    **{form: ldmatrix(form, count, bool(trans))
       for (count, x), trans, space in itertools.product(
           COUNTS, ("", ".trans"), ("", ".shared", ".shared::cta"))
       for form in (f"ldmatrix.sync.aligned.m8n8.{x}{trans}{space}.b16",
                    f"ldmatrix.sync.aligned.{x}{trans}.m8n8{space}.b16")},
    **{form: stmatrix(form, count, bool(trans))
       for (count, x), trans in itertools.product(COUNTS, ("", ".trans"))
       for form in (f"stmatrix.sync.aligned.m8n8.{x}{trans}.shared.b16",
                    f"stmatrix.sync.aligned.{x}{trans}.m8n8.shared::cta.b16")},
    "movmatrix": Program(f"""{STAGE} ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{r5}}, [s];
movmatrix.sync.aligned.m8n8.trans.b16 r6, r5; st.global.u32 [mine], r6;""", fragments(1, True),
                         inputs=ROWS.view(np.uint32)),
}  # fmt: skip

# Small integers: every product and sum is exact in every type.
A, B, C = (RNG.integers(-3, 4, shape) for shape in ((16, 16), (16, 16), (16, 16)))
D = A @ B + C


def bits(x: Array, kind: type | np.dtype) -> Array:
    return np.ascontiguousarray(x.astype(kind)).view(np.uint32).reshape(-1)


def wmma(kind: str, result: str, a_layout: str, b_layout: str) -> Program:
    """D = A B + C of 16x16 matrices that lie behind each other."""
    types = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "s8": np.int8, "f32": np.float32,
             "s32": np.int32}  # fmt: skip
    a = A if a_layout == "row" else A.T
    b = B if b_layout == "row" else B.T
    parts = [bits(a, types[kind]), bits(b, types[kind]), bits(C, types[result])]
    count = {"f16": 8, "bf16": 4, "s8": 2}[kind]
    sums = 4 if result == "f16" else 8
    at = [0, parts[0].nbytes, parts[0].nbytes + parts[1].nbytes]
    words = bits(D, types[result])
    fa, fb, fc = ("{" + ", ".join(f"r{first + i}" for i in range(n)) + "}"
                  for first, n in ((0, count), (8, count), (16, sums)))  # fmt: skip
    mma = f"wmma.mma.sync.aligned.{a_layout}.{b_layout}.m16n16k16." + (
        f"{result}.{result}" if kind == "f16" else f"{result}.{kind}.{kind}.{result}")  # fmt: skip
    text = f""".reg .b32 r<24>; .reg .b64 base; mov.u32 r23, 16; setp.eq.u32 p0, tid, 0;
mov.u64 base, in;
wmma.load.a.sync.aligned.{a_layout}.m16n16k16.global.{kind} {fa}, [in+{at[0]}], 16;
wmma.load.b.sync.aligned.{b_layout}.m16n16k16.{kind} {fb}, [base+{at[1]}];
wmma.load.c.sync.aligned.row.m16n16k16.global.{result} {fc}, [in+{at[2]}], r23;
{mma} {fc}, {fa}, {fb}, {fc};
wmma.store.d.sync.aligned.col.m16n16k16.shared.{result} [tile], {fc}, 16; bar.warp.sync -1;
wmma.load.c.sync.aligned.col.m16n16k16.shared.{result} {fc}, [tile];
wmma.store.d.sync.aligned.row.m16n16k16.global.{result} [out], {fc}, 16;"""
    text = text.replace(".reg .b32 r<24>; ", ".reg .b32 r20, r21, r22, r23; ")
    return Program(text, words, inputs=np.concatenate(parts), words=len(words) // 32)


def mma(kind: str, a: Array, b: Array, c: Array) -> Program:
    """From fragments of C++'s layout: lane l has rows l / 4 and l / 4 + 8, columns 2 (l % 4)..."""
    into = np.float16 if kind == "f16" else ml_dtypes.bfloat16
    fa, fb = np.zeros((32, 4), np.uint32), np.zeros((32, 2), np.uint32)
    fc, fd = np.zeros((32, 4), np.float32), np.zeros((32, 4), np.float32)
    d = a @ b + c
    for lane in range(32):
        row, pair = lane // 4, lane % 4 * 2
        for i in range(4):
            at = a[row + 8 * (i % 2), pair + 8 * (i // 2) :][:2]
            fa[lane, i] = bits(at, into)[0]
        for i in range(2):
            fb[lane, i] = bits(b[pair + 8 * i :, row][:2], into)[0]
        for i in range(4):
            fc[lane, i] = c[row + 8 * (i // 2), pair + i % 2]
            fd[lane, i] = d[row + 8 * (i // 2), pair + i % 2]
    inputs = np.concatenate([fa, fb, fc.view(np.uint32)], 1).reshape(-1)
    text = f"""mad.wide.u32 d0, tid, 40, in; ld.global.v2.u32 {{r0, r1}}, [d0];
ld.global.v2.u32 {{r2, r3}}, [d0+8]; ld.global.v2.u32 {{r4, r5}}, [d0+16];
ld.global.v2.u32 {{r6, r7}}, [d0+24]; ld.global.v2.u32 {{r8, r9}}, [d0+32];
mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 {{r10, r11, r12, r13}}, {{r0, r1, r2, r3}},
{{r4, r5}}, {{r6, r7, r8, r9}};"""
    return Program(text + show(["r10", "r11", "r12", "r13"]), fd.view(np.uint32).reshape(-1),
                   inputs=inputs, words=4)  # fmt: skip


PROGRAMS |= {
    **{f"wmma {kind} {result} {a} {b}": wmma(kind, result, a, b)
       for kind, result in (("f16", "f32"), ("f16", "f16"), ("bf16", "f32"), ("s8", "s32"))
       for a, b in itertools.product(("row", "col"), ("row", "col"))},
    **{f"mma {kind}": mma(kind, A, B[:, :8], C[:, :8]) for kind in ("f16", "bf16")},
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    PROGRAMS[name].check()


def packed(a: Array, b: Array, kind: type) -> Array:
    """The first source is the upper half."""
    return a.astype(kind).view(np.uint16).astype(np.uint32) << 16 | b.astype(kind).view(np.uint16)


SMALL = {0: RNG.normal(size=512).astype(np.float32), 1: RNG.normal(size=512).astype(np.float32)}
WHOLE = {0: np.trunc(RNG.normal(size=512) * 900).astype(np.float32)}
CASES = [
    Case("cvt.u16.u32", ("u16",), ("u32",), lambda x: x.astype(np.uint16)),
    Case("cvt.u32.u16", ("u32",), ("u16",), lambda x: x.astype(np.uint32)),
    Case("cvt.s64.s32", ("s64",), ("s32",), lambda x: x.astype(np.int64)),
    Case("cvt.u64.u32", ("u64",), ("u32",), lambda x: x.astype(np.uint64)),
    Case("cvt.u32.u64", ("u32",), ("u64",), lambda x: x.astype(np.uint32)),
    Case("cvt.u64.u16", ("u64",), ("u16",), lambda x: x.astype(np.uint64)),
    Case("cvt.s32.s8", ("s32",), ("u16",), lambda x: x.astype(np.int8).astype(np.int32)),
    Case("cvt.rn.f32.s32", ("f32",), ("s32",), lambda x: x.astype(np.float32)),
    Case("cvt.rn.f16.s32", ("f16",), ("s32",), lambda x: x.astype(np.float16),
         inputs={0: RNG.integers(-60000, 60000, 512).astype(np.int32)}),
    Case("cvt.rn.f64.s64", ("f64",), ("s64",), lambda x: x.astype(np.float64)),
    Case("cvt.rzi.s32.f32", ("s32",), ("f32",), lambda x: x.astype(np.int32), inputs=WHOLE),
    Case("cvt.f64.f32", ("f64",), ("f32",), lambda x: x.astype(np.float64), inputs=SMALL),
    Case("cvt.f32.f16", ("f32",), ("f16",), lambda x: x.astype(np.float32)),
    Case("cvt.f32.bf16", ("f32",), ("bf16",), lambda x: x.astype(np.float32),
         inputs={0: SMALL[0].astype(ml_dtypes.bfloat16)}),
    Case("cvt.rn.f16.f32", ("f16",), ("f32",), lambda x: x.astype(np.float16), inputs=SMALL),
    Case("cvt.rn.bf16.f32", ("bf16",), ("f32",), lambda x: x.astype(ml_dtypes.bfloat16),
         inputs=SMALL),
    Case("cvt.rn.f16x2.f32", ("b32",), ("f32", "f32"), lambda a, b: packed(a, b, np.float16),
         inputs=SMALL),
    Case("cvt.rn.bf16x2.f32", ("b32",), ("f32", "f32"), lambda a, b:
         packed(a, b, ml_dtypes.bfloat16), inputs=SMALL),
    Case("cvt.sat.f32.f32", ("f32",), ("f32",), lambda x:
         np.where(x > 0, np.minimum(x, 1), 0).astype("f4")),
    Case("cvt.rni.f32.f32", ("f32",), ("f32",), np.rint, inputs=SMALL),
    Case("cvt.rn.satfinite.e4m3x2.f32", ("u16",), ("f32", "f32"), lambda a, b:
         a.astype(ml_dtypes.float8_e4m3fn).view(np.uint8).astype(np.uint16) << 8
         | b.astype(ml_dtypes.float8_e4m3fn).view(np.uint8), inputs=SMALL),
    Case("cvt.rn.f16x2.e4m3x2", ("b32",), ("u16",), lambda x:
         x.view(ml_dtypes.float8_e4m3fn).astype(np.float16).view(np.uint32),
         inputs={0: RNG.integers(0, 0x7E, (512, 2)).astype(np.uint8).view(np.uint16).reshape(-1)}),
]  # fmt: skip


def test_conversions() -> None:
    check(CASES)
