# SPDX-License-Identifier: Apache-2.0
"""Exchange between lanes: PTX ISA 9.7.9.6 and 9.7.13, against loops over the lanes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ptxsim.driver import aligned, simulator
from ptxsim.tests.opcodes.assembler import accepted, agree_with_ptxas
from ptxsim.tests.opcodes.numbers import Array, bits_of, values
from ptxsim.tests.opcodes.table import DECLARED, DEVICE, HEAD, Case, register

LANES = np.arange(32)
MEMBERS = (0xFFFFFFFF, 0x0F0F3C71, 0x80000001, 0x00010000)
# Of a lane: its number, those of the members, all operands -> the results.
Exchange = Callable[[int, list[int], list[Array]], tuple[Any, ...]]


def exchanged(mode: str) -> Exchange:
    def f(lane: int, members: list[int], ins: list[Array]) -> tuple[Any, ...]:
        a, b, c = ins
        by, segment, limit = int(b[lane]) & 31, int(c[lane]) >> 8 & 31, int(c[lane]) & 31
        low, high = lane & segment, (lane & segment) | (limit & ~segment)
        source, inside = {
            "up": (lane - by, lane - by >= high), "down": (lane + by, lane + by <= high),
            "bfly": (lane ^ by, (lane ^ by) <= high),
            "idx": (low | by & ~segment, (low | by & ~segment) <= high),
        }[mode]  # fmt: skip
        source = source if inside else lane
        return a[source] if source in members else None, inside

    return f


def reduced(op: str, absolute: bool = False, nan: bool = False) -> Exchange:
    def f(lane: int, members: list[int], ins: list[Array]) -> tuple[Any, ...]:
        x = ins[0][members]
        if x.dtype == np.float32:
            x = np.abs(x) if absolute else x
            known = x[~np.isnan(x)]
            if (nan and len(known) < len(x)) or not len(known):
                return (np.uint32(0x7FFFFFFF).view(np.float32),)
            best = known.min() if op == "min" else known.max()
            zeros = known[known == 0]  # -0 is below +0
            if best == 0 and len(zeros):
                best = zeros[np.argsort(~np.signbit(zeros))][0 if op == "min" else -1]
            return (best,)
        out = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and,
               "or": np.bitwise_or, "xor": np.bitwise_xor}[op].reduce(x, dtype=x.dtype)  # fmt: skip
        return (out,)

    return f


def cases() -> Iterator[Case]:
    clamps = np.array([0x1F, 0x1C1F, 0x181F, 0x1C03, 0x0, 0x101F, 0x1807], np.uint32)
    c = np.resize(clamps.repeat(32), 512)
    for mode in ("up", "down", "bfly", "idx"):
        c_of = c & np.uint32(0x1F00) if mode == "up" else c
        for text in ("{}|{}, {}, {}, {}, {mask}",):
            yield Case(
                f"shfl.sync.{mode}.b32",
                ("b32", "pred"),
                ("b32", "u32", "u32"),
                exchanged(mode),
                text,
                inputs={1: values("u32", 1) & 63, 2: c_of},
            )
    votes: dict[str, Exchange] = {
        "all": lambda lane, members, ins: (all(ins[0][members]),),
        "any": lambda lane, members, ins: (any(ins[0][members]),),
        "uni": lambda lane, members, ins: (len(set(ins[0][members])) == 1,),
    }
    for mode, f in votes.items():
        yield Case(f"vote.sync.{mode}.pred", ("pred",), ("pred",), f, "{}, {}, {mask}")
        yield Case(f"vote.sync.{mode}.pred", ("pred",), ("pred",), inverted(f), "{}, !{}, {mask}")
    yield Case("vote.sync.ballot.b32", ("b32",), ("pred",), lambda lane, members, ins: (
        sum(1 << m for m in members if ins[0][m]),), "{}, {}, {mask}")  # fmt: skip
    for kind in ("b32", "b64"):
        few = {0: values(kind, 0) % 3}
        yield Case(f"match.any.sync.{kind}", ("b32",), (kind,), lambda lane, members, ins: (
            sum(1 << m for m in members if ins[0][m] == ins[0][lane]),), "{}, {}, {mask}",
            inputs=few)  # fmt: skip
        same = {0: values(kind, 0) * (np.arange(512) // 32 % 2).astype(f"u{bits_of(kind) // 8}")}

        def match_all(lane: int, members: list[int], ins: list[Array]) -> tuple[Any, ...]:
            ok = len(set(ins[0][members])) == 1
            return sum(1 << m for m in members) if ok else 0, ok

        yield Case(f"match.all.sync.{kind}", ("b32", "pred"), (kind,), match_all,
                   "{}|{}, {}, {mask}", inputs=same)  # fmt: skip
        yield Case(f"match.all.sync.{kind}", ("b32",), (kind,),
                   lambda *x: match_all(*x)[:1], "{}, {}, {mask}", inputs=same)  # fmt: skip
    for op, kind in itertools.product(("add", "min", "max", "and", "or", "xor"),
                                      ("u32", "s32", "b32")):  # fmt: skip
        yield Case(f"redux.sync.{op}.{kind}", (kind,), (kind,), reduced(op), "{}, {}, {mask}")
    for op, absolute, nan in itertools.product(("min", "max"), ("", ".abs"), ("", ".NaN")):
        yield Case(f"redux.sync.{op}{absolute}{nan}.f32", ("f32",), ("f32",),
                   reduced(op, bool(absolute), bool(nan)), "{}, {}, {mask}")  # fmt: skip
    yield Case("elect.sync", ("b32", "pred"), (), lambda lane, members, ins: (
        members[0], lane == members[0]), "{}|{}, {mask}")  # fmt: skip
    yield Case("activemask.b32", ("b32",), (), lambda lane, members, ins: (
        sum(1 << m for m in members),), "{}")  # fmt: skip


def inverted(f: Exchange) -> Exchange:
    return lambda lane, members, ins: f(lane, members, [1 - ins[0]])


def text_of(case: Case, mask: str) -> str:
    names = [register(kind, i) for i, kind in enumerate((*case.outs, *case.ins))]
    return f"{case.form} {case.operands.format(*names, mask=mask)};"


def with_mask(cases: Iterable[Case]) -> list[Case]:
    return [replace(case, operands=case.operands.replace("{mask}", "-1")) for case in cases]


def kernel(cases: list[Case], members: int) -> tuple[str, list[int]]:
    """Every case by the lanes of `members`, which branch off; the others keep the sentinel."""
    lines, at, results = [], 0, []
    for case in cases:
        for i, kind in enumerate(case.ins):
            name = register(kind, i + len(case.outs))
            size = bits_of(kind) // 8
            into = name if kind != "pred" else "r18"
            load = f"ld.global.b{8 * size} {into}, [t{size // 4 + 1}+{at}];"
            lines.append(load + (f" setp.ne.u32 {name}, r18, 0;" if kind == "pred" else ""))
            at += 32 * size
        lines.append(text_of(case, str(members)))
        for i, kind in enumerate(case.outs):
            name = register(kind, i)
            lines.append(
                (f"selp.b32 r18, 1, 0, {name}; " if kind == "pred" else "")
                + f"st.global.b32 [t2+{at}], {'r18' if kind == 'pred' else name};"
            )
            results.append(at)
            at += 128
    return (
        f"""{HEAD}.visible .entry run(.param .u64 base) {{
{DECLARED}
ld.param.u64 t0, [base]; mov.u32 r0, %tid.x;
mad.wide.u32 t2, r0, 4, t0; mad.wide.u32 t3, r0, 8, t0;
shr.u32 r1, {members}, r0; and.b32 r1, r1, 1; setp.eq.u32 p0, r1, 0;
@p0 bra OUT;
{chr(10).join(lines)}
OUT: ret; }}
""",
        [*results, at],
    )


@pytest.mark.parametrize("members", MEMBERS)
def test_values(members: int) -> None:
    every = list(cases())
    taken = {c.form for c in accepted(with_mask(every))}
    all_cases = [c for c in every if c.form in taken]
    text, places = kernel(all_cases, members)
    lanes = [i for i in range(32) if members >> i & 1]
    sim = simulator()
    wrong = []
    for part in range(3):
        memory = aligned(np.full(places[-1], 0x5A, np.uint8))
        at = 0
        inputs = []
        results = iter(places)
        for case in all_cases:
            sources = [case.source(i)[32 * part : 32 * part + 32] for i in range(len(case.ins))]
            for x in sources:
                memory[at : at + x.nbytes] = x.view(np.uint8)
                at += x.nbytes
            inputs.append(sources)
            at += 128 * len(case.outs)
        sim.reset(DEVICE, seed=part)
        with sim.exposed({}, {"memory": memory}):
            sim.launch(sim.load(text), "run", memory.ctypes.data.to_bytes(8, "little"))
        assert not [r for r in sim.reports() if r["kind"] != "hazard within a warp"]
        for case, sources in zip(all_cases, inputs, strict=True):
            got = [
                memory[at : at + 128].view(np.uint32)
                for at in itertools.islice(results, len(case.outs))
            ]
            for lane in range(32):
                wanted: tuple[Any, ...] = (0x5A5A5A5A,) * len(got)
                if lane in lanes:
                    wanted = case.want(lane, lanes, sources)
                    if wanted[0] is None:
                        continue  # the value of a lane that is elsewhere
                same = [int(g[lane]) == int(np.asarray(v, np.float32).view(np.uint32)
                                            if isinstance(v, np.floating) else int(v) & 0xFFFFFFFF)
                        for g, v in zip(got, wanted, strict=True)]  # fmt: skip
                if not all(same):
                    wrong.append(
                        f"{case.form}, lane {lane}: {[hex(g[lane]) for g in got]}, not {wanted}"
                    )
    assert not wrong, "\n".join(wrong[:20])


def test_the_simulator_takes_what_ptxas_takes() -> None:
    agree_with_ptxas(with_mask(cases()))


@pytest.mark.parametrize(("text", "part"), [
    ("shfl.sync.idx.b32 r1, r0, 0, 31, 0xff;", "without being in its member mask"),
    ("vote.sync.any.pred p1, p0, r0;", "without being in its member mask"),
    ("or.b32 r1, r0, -2; shfl.sync.idx.b32 r1, r0, 0, 31, r1;", "in its member mask"),
    ("@p0 elect.sync r1|p1, -1;", "their guard is off"),
    ("bar.warp.sync 0xff;", "not in its member mask"),
])  # fmt: skip
def test_misuse_is_a_fault(text: str, part: str) -> None:
    sim = simulator()
    sim.reset(DEVICE)
    module = sim.load(f"{HEAD}.visible .entry run() {{ {DECLARED} mov.u32 r0, %tid.x; "
                      f"setp.lt.u32 p0, r0, 5; {text} ret; }}")  # fmt: skip
    with pytest.raises(RuntimeError, match=part):
        sim.launch(module, "run")
