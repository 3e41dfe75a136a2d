# SPDX-License-Identifier: Apache-2.0
"""ld, ldu and st of every type, vector and space, with orders and cache hints: 9.7.9.8 to .12.

Bytes are put into a space and taken out of it by b32 accesses;
between is the instruction under test.
Half of the lanes are off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ptxsim.driver import aligned, simulator
from ptxsim.tests.opcodes.assembler import TARGET, ptxas_accepts, refusal
from ptxsim.tests.opcodes.numbers import Array, bits_of
from ptxsim.tests.opcodes.table import DEVICE, SENTINEL, grammar, spell

TYPES = ("b8", "u8", "s8", "b16", "u16", "s16", "b32", "u32", "s32", "b64", "u64", "s64",
         "f32", "f64", "b128")  # fmt: skip
VECTORS = ("", "v2", "v4", "v8")
SPACES = ("", "global", "shared", "shared::cta", "shared::cluster", "local", "const")
SCOPES = ("cta", "cluster", "gpu", "sys")
ORDERS = ("", "weak", "volatile", "mmio.relaxed.sys",
          *(f"{o}.{s}" for o in ("relaxed", "acquire", "release") for s in SCOPES))  # fmt: skip
HINTS = ("", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "L1::evict_normal", "L1::evict_unchanged",
         "L1::evict_first", "L1::evict_last", "L1::no_allocate", "L2::64B", "L2::128B", "L2::256B",
         "L2::cache_hint", "L1::no_allocate.L2::cache_hint.L2::128B", "nc", "nc.L1::no_allocate",
         "nc.L1::evict_last.L2::256B", "L2::evict_first", "L2::evict_last.L2::256B")  # fmt: skip
BYTES = 32  # of a lane
LANES = np.arange(32)
ON = np.array([0x6996A5C3 >> i & 1 == 1 for i in LANES])
CONSTANTS = np.random.default_rng(7).integers(0, 256, 32 * BYTES, np.uint8)
# Where a lane's bytes are; generic addresses of three windows.
ADDRESSES = {"global": "a0", "shared": "s0", "shared::cta": "s0", "shared::cluster": "s0",
             "local": "l0", "const": "c0"}  # fmt: skip
GENERIC = {"global": "g0", "shared": "g1", "local": "g2", "const": "g3"}


@dataclass(frozen=True)
class Access:
    form: str
    space: str  # of the bytes, also where the instruction says none
    address: str
    kind: str
    count: int

    @property
    def is_load(self) -> bool:
        return self.form.startswith("ld")

    def instruction(self) -> str:
        wide = bits_of(self.kind) == 128
        names = [f"{'q' if wide else 'd'}{i}" for i in range(self.count)]
        values = f"{{{', '.join(names)}}}" if self.count > 1 else names[0]
        policy = ", policy" if "cache_hint" in self.form else ""
        if self.is_load:
            return f"{self.form} {values}, [{self.address}]{policy};"
        return f"{self.form} [{self.address}], {values}{policy};"


def accesses() -> Iterator[Access]:
    """Types by vectors by spaces; orders and hints by spaces."""
    words = [
        *(("", s, "", v, t) for s, v, t in grammar(SPACES, VECTORS, TYPES)),
        *((o, s, "", "", t) for o, s, t in grammar(ORDERS, SPACES, ("b32", "u64"))),
        *(("", s, h, v, "b32") for s, h, v in grammar(SPACES, HINTS, ("", "v4"))),
        *(("", "global", h, "v8", "b32") for h in HINTS),
        *(("", "global", h, "v4", "b64") for h in HINTS),
    ]
    words += [("", s, o, "", "b32") for s, o in grammar(("global", "shared"), ORDERS[4:])]
    for op, (order, space, hint, vector, kind) in grammar(("ld", "st", "ldu"), words):
        form = spell(op, order, space, hint, vector, kind)
        if op == "ldu" and (order or hint or space not in ("", "global")):
            continue
        if op == "st" and space == "const":
            continue
        for at in (space,) if space else ("global", "shared", "local", "const"):
            if (op != "ld" and at == "const") or (op == "ldu" and at != "global"):
                continue
            address = ADDRESSES[at] if space else GENERIC[at]
            yield Access(form, at, address, kind, int(vector[1:] or 1))


def in_registers(access: Access, data: Array) -> Array:
    """What a load leaves in registers of 64 bits, or of the type's if that is wider."""
    size = bits_of(access.kind) // 8
    raw = data.reshape(32, BYTES)[:, : size * access.count].copy()
    if size == 16:
        return raw
    narrow = raw.view(f"{'i' if access.kind[0] == 's' else 'u'}{size}").astype(np.int64)
    return narrow.view(np.uint8).reshape(32, -1)


HEAD = f""".version 9.0
.target {TARGET}
.address_size 64
.const .align 32 .b8 constants[{len(CONSTANTS)}] = {{{", ".join(map(str, CONSTANTS))}}};
"""
BEFORE = f""".visible .entry run(.param .u64 base) {{
.reg .b64 d<9>, a<9>, l0, c0, g<4>, policy; .reg .b128 q<3>; .reg .b32 r<3>, s0; .reg .pred on;
.local .align 32 .b8 stack[{BYTES}]; .shared .align 32 .b8 tile[{32 * BYTES}];
ld.param.u64 a0, [base]; mov.u32 r0, %tid.x;
mad.wide.u32 a1, r0, {BYTES}, a0; mov.u64 a0, a1; mad.wide.u32 a4, r0, {2 * BYTES}, a0;
mov.u32 s0, tile; mad.lo.u32 s0, r0, {BYTES}, s0;
mov.u64 l0, stack; mov.u64 c0, constants; mad.wide.u32 c0, r0, {BYTES}, c0;
mov.u64 g0, a0; cvt.u64.u32 g1, s0; cvta.shared.u64 g1, g1; cvta.local.u64 g2, l0;
cvta.const.u64 g3, c0; createpolicy.fractional.L2::evict_last.b64 policy, 1.0;
shr.u32 r1, {0x6996A5C3}, r0; and.b32 r1, r1, 1; setp.ne.u32 on, r1, 0;
"""


def body(access: Access, source: int, result: int) -> list[str]:
    """Lane i's bytes are at source + 32 i, its results at result + 64 i (a4: of results)."""
    lines = []
    copy = ADDRESSES[access.space]
    name = access.space
    if access.space == "global" and access.is_load:
        address = f"{access.address}+{source}"
    elif access.space == "global":
        address = f"{access.address}+{result}"
    else:
        address = access.address
    for i in range(0, BYTES, 4):
        if access.is_load and access.space not in ("global", "const"):
            lines.append(f"ld.global.b32 r2, [a0+{source + i}]; st.{name}.b32 [{copy}+{i}], r2;")
        elif not access.is_load:
            at = f"{copy}+{result + i}" if access.space == "global" else f"{copy}+{i}"
            lines.append(f"mov.b32 r2, {SENTINEL * 0x1010101}; st.{name}.b32 [{at}], r2;")
    line = access.instruction().replace(f"[{access.address}]", f"[{address}]")
    wide = bits_of(access.kind) == 128
    if access.is_load:
        size = 16 if wide else 8
        for i in range(access.count):
            lines.append("mov.b64 d8, 0x5a5a5a5a5a5a5a5a;")
            lines.append(f"mov.b128 q{i}, {{d8, d8}};" if wide else f"mov.b64 d{i}, d8;")
        lines.append("@on " + line)
        lines += [f"st.global.b{8 * size} [a4+{result + size * i}], {'q' if wide else 'd'}{i};"
                  for i in range(access.count)]  # fmt: skip
        return lines
    size = bits_of(access.kind) // 8
    for i in range(access.count):
        at = f"[a0+{source + size * i}]"
        lines.append(f"ld.global.b{8 * size} {'q' if wide else 'd'}{i}, {at};")
    lines.append("@on " + line)
    if access.space != "global":
        lines += [f"ld.{name}.b32 r2, [{copy}+{i}]; st.global.b32 [a0+{result + i}], r2;"
                  for i in range(0, BYTES, 4)]  # fmt: skip
    return lines


def taken(every: list[Access]) -> list[Access]:
    simulator().reset(DEVICE)
    return [a for a in every if not refusal(a.instruction(), HEAD + BEFORE)]


# Kernel parameters: bytes 0 to 31 of `data` by every type, vectors where they are aligned.
PARAMETER_LOADS = [(spell("ld", "param", vector, kind), int(vector[1:] or 1),
                    bits_of(kind) // 8, kind)
                   for vector, kind in grammar(VECTORS[:3], TYPES)
                   if int(vector[1:] or 1) * bits_of(kind) <= 128]  # fmt: skip
PARAMETERS = f""".version 9.0
.target {TARGET}
.address_size 64
.visible .entry run(.param .align 16 .b8 data[32], .param .u64 base) {{
.reg .b64 d<9>, a; .reg .b128 q<2>; .reg .b32 r; ld.param.u64 a, [base];
{
    "".join(
        f"{form} {vector}, [data+16]; "
        + "".join(
            f"st.global.b{max(64, 8 * size)} [a+{64 * i + 16 * k}], {name};"
            for k, name in enumerate(names)
        )
        for i, (form, count, size, _) in enumerate(PARAMETER_LOADS)
        for names in [[f"{'q' if size == 16 else 'd'}{k}" for k in range(count)]]
        for vector in ["{" + ", ".join(names) + "}" if count > 1 else names[0]]
    )
}
ld.param::entry.u32 r, [data+16]; st.global.u32 [a+{64 * len(PARAMETER_LOADS)}], r;
ret; }}
"""


def test_parameters() -> None:
    data = np.random.default_rng(5).integers(0, 256, 32, np.uint8)
    out = aligned(np.zeros(64 * len(PARAMETER_LOADS) + 16, np.uint8))
    sim = simulator()
    sim.reset(DEVICE)
    with sim.exposed({}, {"out": out}):
        parameters = data.tobytes() + out.ctypes.data.to_bytes(8, "little")
        sim.launch(sim.load(PARAMETERS), "run", parameters, block=1)
    wrong = []
    for i, (form, count, size, kind) in enumerate(PARAMETER_LOADS):
        each = out[64 * i : 64 * i + 16 * count].reshape(count, 16)
        raw = data[16 : 16 + size * count]
        if size == 16:
            ok = (each.reshape(-1) == raw).all()
        else:
            wide = raw.view(f"{'i' if kind[0] == 's' else 'u'}{size}").astype(np.int64)
            ok = (each[:, :8].copy().view(np.int64).reshape(-1) == wide).all()
        if not ok:
            wrong.append(form)
    assert wrong == []
    assert (out[-16:-12] == data[16:20]).all()


def test_values() -> None:
    every = taken(list(accesses()))
    assert len(every) > 700
    rng = np.random.default_rng(3)
    source, results = 0, 32 * BYTES
    data = rng.integers(0, 256, 32 * BYTES, np.uint8)
    lines, places, at = [], [], results
    for access in every:
        lines += body(access, source, at)
        places.append(at)
        at += (4 if access.is_load else 1) * 32 * BYTES
    memory = aligned(np.zeros(at + 4096, np.uint8))
    memory[:results] = data
    sim = simulator()
    sim.reset(DEVICE)
    with sim.exposed({}, {"memory": memory}):
        module = sim.load(HEAD + BEFORE.replace("a4, r0, 64, a0", "a4, r0, 64, a0") +
                          "\n".join(lines) + "\nret; }")  # fmt: skip
        sim.launch(module, "run", memory.ctypes.data.to_bytes(8, "little"))
        assert not sim.reports()
    wrong = []
    for access, place in zip(every, places, strict=True):
        if access.is_load:
            wanted = in_registers(access, CONSTANTS if access.space == "const" else data)
            wanted = np.where(ON[:, None], wanted, SENTINEL)
            # Results of lane i are at a4 = base + (32 + 64) i, for a0 moves with the lane, too.
            size = wanted.shape[1]
            got = np.stack([memory[place + 96 * i :][:size] for i in LANES])
        else:
            size = bits_of(access.kind) // 8 * access.count
            wanted = np.full((32, BYTES), SENTINEL, np.uint8)
            wanted[:, :size] = np.where(ON[:, None], data.reshape(32, BYTES)[:, :size], SENTINEL)
            got = memory[place : place + 32 * BYTES].reshape(32, BYTES)
        if not (got == wanted).all():
            lane = int(np.flatnonzero((got != wanted).any(1))[0])
            wrong.append(f"{access.form} of {access.space}, lane {lane}: "
                         f"{bytes(got[lane]).hex()}, not {bytes(wanted[lane]).hex()}")  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_the_simulator_takes_what_ptxas_takes() -> None:
    simulator().reset(DEVICE)
    lines = sorted({a.instruction() for a in accesses()})
    found = ptxas_accepts(lines, head=HEAD + BEFORE)
    wrong = [f"{line} {refusal(line, HEAD + BEFORE) or 'taken'}, ptxas: {exists}"
             for line, exists in zip(lines, found, strict=True)
             if (not refusal(line, HEAD + BEFORE)) != exists]  # fmt: skip
    assert not wrong, "\n".join(wrong)
