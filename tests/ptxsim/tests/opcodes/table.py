# SPDX-License-Identifier: Apache-2.0
"""Opcode forms as tables: one kernel runs all of a table's forms on values of every kind.

A case is one instruction with its operand types and the function that it must compute. All lanes
have different operands; the last two warps run it under a mask, where destinations keep what they
held.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptxsim.driver import aligned, simulator
from ptxsim.tests.opcodes.numbers import (
    CANONICAL_NAN,
    FLOATS,
    Array,
    N,
    bits_of,
    element,
    halves,
    values,
)

TARGET, DEVICE = "sm_100a", "B200"
SENTINEL = 0x5A
MASK = 0x3C5A_F00D_6996_A5C3  # of the last two warps
ACTIVE = np.array([t < N - 64 or MASK >> (t % 64) & 1 == 1 for t in range(N)])
REGISTERS = {8: "h", 16: "h", 32: "r", 64: "d", 128: "q"}
HEAD = f".version 9.0\n.target {TARGET}\n.address_size 64\n"
DECLARED = (".reg .b16 h<20>; .reg .b32 r<20>; .reg .b64 d<20>; .reg .b128 q<20>; "
            ".reg .pred p<20>, on; .reg .b64 t<5>;")  # fmt: skip

Function = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    form: str  # "add.s32"
    outs: tuple[str, ...]  # types of the results
    ins: tuple[str, ...]  # and of the operands
    want: Function  # arrays to the array of the result, or to a tuple of them
    # The operands: {0}, {1} are results and then sources; by default all of them in order.
    operands: str = ""
    inputs: dict[int, Array] = field(default_factory=dict)  # instead of values()
    ulp: int = 0  # how far floats may be away

    def source(self, i: int) -> Array:
        given = self.inputs.get(i)
        return values(self.ins[i], i) if given is None else given

    def instruction(self) -> str:
        names = [register(kind, i) for i, kind in enumerate((*self.outs, *self.ins))]
        return f"{self.form} {(self.operands or ', '.join(['{}'] * len(names))).format(*names)};"

    def expected(self) -> tuple[Array, ...]:
        sources = [self.source(i) for i in range(len(self.ins))]
        packed = self.outs[0] if self.outs and "x" in self.outs[0] else ""
        if packed and all(kind == packed for kind in (*self.outs, *self.ins)):
            return (halves(packed, self.want, *sources),)  # type: ignore[arg-type]
        wanted = self.want(*sources)
        return wanted if isinstance(wanted, tuple) else (wanted,)


def register(kind: str, i: int) -> str:
    return f"p{i}" if kind == "pred" else f"{REGISTERS[bits_of(kind)]}{i}"


def grammar(*slots: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """All ways to fill the slots of an instruction with words; "" leaves one out."""
    return itertools.product(*slots)


def spell(*words: str) -> str:
    return ".".join(w for w in words if w)


def kernel(cases: Sequence[Case]) -> tuple[str, list[Array], list[int], int]:
    """The PTX, the arrays that it reads behind each other, offsets of the results, all bytes."""
    arrays: list[Array] = []
    known: dict[tuple[str, int], int] = {}
    used = 0

    def place(size: int) -> int:
        nonlocal used
        used += size * N
        return used - size * N

    lines = []
    inputs: list[list[int]] = []
    for case in cases:
        offsets = []
        for i, kind in enumerate(case.ins):
            key = kind, i
            if i in case.inputs or key not in known:
                arrays.append(case.source(i))
                at = place(bits_of(kind) // 8)
                if i not in case.inputs:
                    known[key] = at
            else:
                at = known[key]
            offsets.append(at)
        inputs.append(offsets)
    results = []
    for case, offsets in zip(cases, inputs, strict=True):
        first = len(case.outs)
        for i, (kind, at) in enumerate(zip(case.ins, offsets, strict=True)):
            lines += _load(kind, i + first, at)
        for i, kind in enumerate(case.outs):
            name = register(kind, i)
            if kind == "pred":
                lines.append(f"setp.ne.b32 {name}, 0, {SENTINEL};")
            elif bits_of(kind) == 128:
                lines.append(f"mov.b64 d19, {_sentinel(64)}; mov.b128 {name}, {{d19, d19}};")
            else:
                lines.append(f"mov.b{max(16, bits_of(kind))} {name}, {_sentinel(bits_of(kind))};")
        lines.append(f"@on {case.instruction()}")
        for i, kind in enumerate(case.outs):
            results.append(place(bits_of(kind) // 8))
            lines += _store(kind, i, results[-1])
    body = "\n".join(lines)
    text = f"""{HEAD}.visible .entry run(.param .u64 base) {{
{DECLARED}
ld.param.u64 t0, [base];
mov.u32 r0, %tid.x;
mad.wide.u32 t1, r0, 2, t0; mad.wide.u32 t2, r0, 4, t0; mad.wide.u32 t3, r0, 8, t0;
mad.wide.u32 t4, r0, 16, t0;
and.b32 r1, r0, 63; mov.u64 d0, {MASK}; shr.u64 d0, d0, r1; cvt.u32.u64 r2, d0; and.b32 r2, r2, 1;
setp.lt.u32 p0, r0, {N - 64}; setp.ne.or.u32 on, r2, 0, p0;
{body}
ret; }}
"""
    return text, arrays, results, used


def _sentinel(bits: int) -> int:
    return SENTINEL * (((1 << bits) - 1) // 255)


def _load(kind: str, i: int, at: int) -> list[str]:
    if kind == "pred":
        return [f"ld.global.u32 r19, [t2+{at}]; setp.ne.u32 p{i}, r19, 0;"]
    bits = bits_of(kind)
    return [f"ld.global.b{bits} {register(kind, i)}, [t{(bits // 16).bit_length()}+{at}];"]


def _store(kind: str, i: int, at: int) -> list[str]:
    if kind == "pred":
        return [f"selp.b32 r19, 1, 0, p{i}; st.global.b32 [t2+{at}], r19;"]
    bits = bits_of(kind)
    return [f"st.global.b{bits} [t{(bits // 16).bit_length()}+{at}], {register(kind, i)};"]


def run(cases: Sequence[Case]) -> list[str]:
    """Runs a table and says what came out wrong, one line a case."""
    text, arrays, offsets, used = kernel(cases)
    memory = aligned(np.zeros(used, np.uint8))
    at = 0
    for array in arrays:
        memory[at : at + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
        at += array.nbytes
    sim = simulator()
    sim.reset(DEVICE)
    with sim.exposed({}, {"memory": memory}):
        module = sim.load(text)
        sim.launch(module, "run", memory.ctypes.data.to_bytes(8, "little"), block=N)
        wrong = [f"report: {r['text']}" for r in sim.reports()]
    results = iter(offsets)
    with np.errstate(all="ignore"):
        for case in cases:
            for kind, wanted in zip(case.outs, case.expected(), strict=True):
                start = next(results)
                got = memory[start : start + N * bits_of(kind) // 8]
                if problem := _compare(case, kind, got, wanted):
                    wrong.append(problem)
    return wrong


def _compare(case: Case, kind: str, raw: Array, wanted: Array) -> str:
    size = bits_of(kind) // 8
    if kind == "pred":
        before = np.ones(N, np.uint32)
        wanted = wanted.astype(np.uint32)
    else:
        before = np.frombuffer(bytes([SENTINEL]) * (size * N), np.uint8).view(f"V{size}")
    got = raw.view(f"V{size}") if kind != "pred" else raw.view(np.uint32)
    kept = got == before
    if kind == "pred":
        ok = got == wanted
    elif element(kind) in FLOATS:
        each = FLOATS[element(kind)]
        ok = _floats_equal(raw.view(each), wanted.view(each), element(kind), case.ulp)
        ok = ok.reshape(N, -1).all(-1)
    else:
        ok = got == np.ascontiguousarray(wanted).view(f"V{size}").reshape(N)
    bad = np.flatnonzero(~np.where(ACTIVE, ok, kept))
    if not len(bad):
        return ""
    i = int(bad[0])
    state = "" if ACTIVE[i] else ", a lane that is off"
    sources = [case.source(k)[i] for k in range(len(case.ins))]
    return (
        f"{case.form}: {len(bad)} of {N}, lane {i}{state}: of {sources} came "
        f"{raw.view(f'u{min(size, 8)}')[i * max(1, size // 8)]:#x}, not {wanted[i]!r}"
    )


def _floats_equal(got: Array, wanted: Array, kind: str, ulp: int) -> Array:
    unsigned = f"u{got.dtype.itemsize}"
    bits, right = got.view(unsigned), np.ascontiguousarray(wanted).view(unsigned)
    nan = np.isnan(wanted)
    same_nan = bits == CANONICAL_NAN[kind] if kind in CANONICAL_NAN else np.isnan(got)
    near = np.abs(bits.astype(object) - right.astype(object)) <= ulp
    return np.where(nan, same_nan, near.astype(bool))


def check(cases: Iterable[Case]) -> None:
    wrong = run(list(cases))
    assert not wrong, "\n".join(wrong)
