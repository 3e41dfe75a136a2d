# SPDX-License-Identifier: Apache-2.0
"""atom and red: every operation, type, vector, space, order and scope: PTX ISA 9.7.13.5 and .6."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from ptxsim.driver import aligned, simulator
from ptxsim.tests.opcodes.assembler import ptxas_accepts, refusal
from ptxsim.tests.opcodes.numbers import FLOATS, Array, bits_of, dtype, element, values, wrap
from ptxsim.tests.opcodes.table import DEVICE, HEAD, grammar, spell

OPERATIONS = ("exch", "cas", "add", "inc", "dec", "min", "max", "and", "or", "xor")
TYPES = ("b16", "b32", "u32", "s32", "b64", "u64", "s64", "b128", "f16", "f16x2", "bf16", "bf16x2",
         "f32", "f64")  # fmt: skip
SPACES = ("", "global", "shared", "shared::cta", "shared::cluster")
ORDERS = ("", "relaxed", "acquire", "release", "acq_rel")
SCOPES = ("", "cta", "cluster", "gpu", "sys")
N = 128


@dataclass(frozen=True)
class Atomic:
    form: str
    operation: str
    kind: str
    count: int
    in_shared: bool

    @property
    def size(self) -> int:
        return bits_of(self.kind) // 8

    def instruction(self, address: str = "") -> str:
        letter = {2: "h", 4: "r", 8: "d", 16: "q"}[self.size]
        address = address or ("a1" if ".shared" not in self.form else "s0")

        def vector(first: int) -> str:
            names = [f"{letter}{first + i}" for i in range(self.count)]
            return f"{{{', '.join(names)}}}" if self.count > 1 else names[0]

        operands = [f"[{address}]", vector(8)]
        if self.operation == "cas":
            operands.append(vector(16))
        if self.form.startswith("atom"):
            operands.insert(0, vector(0))
        if "cache_hint" in self.form:
            operands.append("a0")
        return f"{self.form} {', '.join(operands)};"


def atomics() -> Iterator[Atomic]:
    rows = [("", "", s, o, n, v, t) for s, o, n, v, t in grammar(
        SPACES, OPERATIONS, ("", "noftz"), ("", "v2", "v4", "v8"), TYPES)]  # fmt: skip
    rows += [(o, c, s, "add", h, "", "u32") for o, c, s, h in grammar(
        ORDERS, SCOPES, SPACES, ("", "L2::cache_hint"))]  # fmt: skip
    # cooperative_groups has the order behind the operation.
    rows += [("", "", s, "add", f"{o}.gpu", "", "u32") for o, s in grammar(ORDERS[1:], SPACES)]
    for opcode, (order, scope, space, operation, extra, vector, kind) in grammar(
        ("atom", "red"), rows
    ):
        form = spell(opcode, order, scope, space, operation, extra, vector, kind)
        for in_shared in (False, True) if not space else ("shared" in space,):
            yield Atomic(form, operation, kind, int(vector[1:] or 1), in_shared)


def expected(a: Atomic, old: Array, b: Array, c: Array) -> Array:
    """On arrays of the element type."""
    kind = element(a.kind)
    if kind in FLOATS:
        f = {"add": np.add, "min": np.fmin, "max": np.fmax}[a.operation]
        with np.errstate(over="ignore"):  # sums are rounded once: doubles hold those of others
            return f(old.astype(np.float64), b.astype(np.float64)).astype(FLOATS[kind])
    if a.operation in ("exch", "cas"):
        return b if a.operation == "exch" else np.where(old == b, c, old)
    x, y = old.astype(object), b.astype(object)
    rows = {
        "add": lambda p, q: p + q, "min": min, "max": max, "and": lambda p, q: p & q,
        "or": lambda p, q: p | q, "xor": lambda p, q: p ^ q,
        "inc": lambda p, q: 0 if p >= q else p + 1,
        "dec": lambda p, q: q if p == 0 or p > q else p - 1,
    }[a.operation]  # fmt: skip
    return wrap(np.array([rows(p, q) for p, q in zip(x, y, strict=True)], object), kind)


def operand(a: Atomic, position: int) -> Array:
    """The vectors of all lanes, as bytes; without NaN, whose bits are the hardware's own."""
    kind = a.kind
    flat = np.concatenate([values(kind, position + 5 * i) for i in range(a.count)])
    raw = flat[: N * a.count].copy()
    if element(kind) in FLOATS:
        each = raw.view(FLOATS[element(kind)])
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(each) & (each != 0)
        each[~finite] = FLOATS[element(kind)](0.75)
    if a.operation == "cas" and position == 1:  # half of them hit
        raw[::2] = operand(a, 0).view(raw.dtype)[::2]
    return raw.view(np.uint8)


BEFORE = (
    HEAD
    + f""".visible .entry run(.param .u64 base) {{
.reg .b16 h<24>; .reg .b32 r<24>, i, s0; .reg .b64 d<24>, a<4>; .reg .b128 q<24>;
.shared .align 128 .b8 tile[{N * 32}];
ld.param.u64 a0, [base]; mov.u32 i, %tid.x;
"""
)


def body(a: Atomic, at: int) -> list[str]:
    """Old values, operands b and c, results and returned values lie behind each other."""
    each = a.size * a.count
    width, letter = 8 * a.size, {2: "h", 4: "r", 8: "d", 16: "q"}[a.size]
    # Another case's lanes use the tile otherwise.
    lines = ["bar.sync 0;"] if a.in_shared else []
    lines += [f"mad.wide.u32 a2, i, {each}, a0; mov.u32 s0, tile; mad.lo.u32 s0, i, {each}, s0;"]

    def places(k: int) -> list[str]:
        return [f"[a2+{at + k * N * each + a.size * e}]" for e in range(a.count)]

    for first, k in ((0, 0), (8, 1), (16, 2)):
        lines += [f"ld.global.b{width} {letter}{first + e}, {p};" for e, p in enumerate(places(k))]
    inside = [f"[s0+{a.size * e}]" for e in range(a.count)]
    here = inside if a.in_shared else places(3)
    space = "shared" if a.in_shared else "global"
    lines += [f"st.{space}.b{width} {p}, {letter}{e};" for e, p in enumerate(here)]
    lines += [f"st.global.b{width} {p}, {letter}8;" for p in places(4)]
    if a.in_shared and ".shared" not in a.form:
        lines.append("cvt.u64.u32 a1, s0; cvta.shared.u64 a1, a1;")
        lines.append(a.instruction("a1"))
    elif a.in_shared:
        lines.append(a.instruction("s0"))
    else:
        lines.append(a.instruction(places(3)[0][1:-1]))
    if a.form.startswith("atom"):
        lines += [f"st.global.b{width} {p}, {letter}{e};" for e, p in enumerate(places(4))]
    if a.in_shared:
        for e, p in enumerate(inside):
            lines.append(f"ld.shared.b{width} {letter}0, {p}; "
                         f"st.global.b{width} {places(3)[e]}, {letter}0;")  # fmt: skip
    return lines


def taken() -> list[Atomic]:
    simulator().reset(DEVICE)
    return [a for a in atomics() if not refusal(a.instruction(), BEFORE)]


def test_values() -> None:
    sim = simulator()
    every = taken()
    assert len(every) > 300
    lines, at, places, arrays = [], 0, [], []
    for a in every:
        lines += body(a, at)
        places.append(at)
        arrays.append([operand(a, k) for k in range(3)])
        at += 5 * N * a.size * a.count
        at = -(-at // 128) * 128
    memory = aligned(np.zeros(at, np.uint8))
    for start, three in zip(places, arrays, strict=True):
        memory[start : start + sum(x.nbytes for x in three)] = np.concatenate(three)
    with sim.exposed({}, {"memory": memory}):
        module = sim.load(BEFORE + "\n".join(lines) + "\nret; }")
        sim.launch(module, "run", memory.ctypes.data.to_bytes(8, "little"), block=N)
        assert not sim.reports()
    wrong = []
    for a, start, three in zip(every, places, arrays, strict=True):
        each = N * a.size * a.count
        kind = dtype(element(a.kind))
        old, b, c = [x.view(kind) for x in three]
        after = memory[start + 3 * each : start + 4 * each]
        if not (after == np.ascontiguousarray(expected(a, old, b, c)).view(np.uint8)).all():
            wrong.append(f"{a.form} in {'shared' if a.in_shared else 'global'} memory")
        if a.form.startswith("atom"):
            returned = memory[start + 4 * each : start + 5 * each]
            if not (returned == three[0]).all():
                wrong.append(f"{a.form} returns something else than the old value")
    assert not wrong, "\n".join(wrong)


def test_the_simulator_takes_what_ptxas_takes() -> None:
    simulator().reset(DEVICE)
    lines = sorted({a.instruction() for a in atomics()})
    found = ptxas_accepts(lines, head=BEFORE)
    wrong = [f"{line} {refusal(line, BEFORE) or 'taken'}, ptxas: {exists}"
             for line, exists in zip(lines, found, strict=True)
             if (not refusal(line, BEFORE)) != exists]  # fmt: skip
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("space", ["global", "shared"])
def test_lanes_of_all_warps_count_one_word(space: str) -> None:
    """Every thread gets its own ticket."""
    sim = simulator()
    memory = aligned(np.zeros(513, np.uint32))
    address = "a0" if space == "global" else "s0"
    text = (
        BEFORE
        + f"""mov.u32 s0, tile; mov.u32 r1, 0; st.shared.u32 [s0], r1; bar.sync 0;
atom.{space}.add.u32 r0, [{address}], 1; mad.wide.u32 a1, i, 4, a0; st.global.u32 [a1+4], r0; ret;
}}
"""
    )
    text = text.replace("st.shared.u32 [s0], r1;", "atom.shared.exch.b32 r1, [s0], 0;") if (
        space == "global") else text.replace("st.shared.u32", "st.volatile.shared.u32")  # fmt: skip
    for seed in range(4):
        memory[:] = 0
        sim.reset(DEVICE, seed=seed)
        with sim.exposed({}, {"memory": memory}):
            module = sim.load(text)
            sim.launch(module, "run", memory.ctypes.data.to_bytes(8, "little"), block=512)
        assert sorted(memory[1:].tolist()) == list(range(512))
