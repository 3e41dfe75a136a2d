# SPDX-License-Identifier: Apache-2.0
"""cp.async, cp.async.bulk, st.async and red.async: PTX ISA 9.7.9.12, .25 and 9.7.13.7."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ptxsim.driver import simulator
from ptxsim.tests.opcodes.assembler import ptxas_accepts, refusal
from ptxsim.tests.opcodes.numbers import FLOATS, Array, bits_of, dtype, values
from ptxsim.tests.opcodes.program import Program
from ptxsim.tests.opcodes.table import DEVICE, grammar, spell
from ptxsim.tests.opcodes.test_atomic import Atomic, expected

WORDS = np.arange(1, 1025, dtype=np.uint32) * 0x01010101
LANES = np.arange(32)
# Each lane copies `size` bytes from in + 16 tid to tile + 16 tid, which held 0xff.
COPY = """.reg .b32 s; mov.u32 s, tile; mad.lo.u32 s, tid, 16, s; mad.wide.u32 d0, tid, 16, in;
mov.u32 r1, -1; st.shared.v4.u32 [s], {{r1, r1, r1, r1}}; setp.lt.u32 p0, tid, 20;
and.b32 r2, tid, 3; mul.lo.u32 r2, r2, {part}; createpolicy.fractional.L2::evict_first.b64 d9;
{copy} {wait}
ld.shared.v4.u32 {{r3, r4, r5, r6}}, [s]; st.global.u32 [mine], r3; st.global.u32 [mine+4], r4;
st.global.u32 [mine+8], r5; st.global.u32 [mine+12], r6;"""
GROUP = "cp.async.commit_group; cp.async.wait_group 0;"


def copied(size: int, live: Array) -> Array:
    """Words of all lanes after copies of which `live` bytes are no zeros."""
    out = np.full((32, 16), 0xFF, np.uint8)
    out[:, :size] = np.where(np.arange(size) < live[:, None],
                             WORDS[:128].view(np.uint8).reshape(32, 16)[:, :size], 0)  # fmt: skip
    return out.view(np.uint32).reshape(-1)


def copies() -> Iterator[tuple[str, Program]]:
    for size, hint in grammar((4, 8, 16), ("", ".L2::128B", ".L2::64B", ".L2::256B")):
        for cache in ("ca", "cg") if size == 16 else ("ca",):
            form = f"cp.async.{cache}.shared.global{hint}"
            whole = np.full(32, size)
            some = (LANES & 3) * (size // 4)
            for operands, live in (
                ("", whole), (", r2", some), (", p0", np.where(LANES < 20, 0, size)),
                (", !p0", np.where(LANES < 20, size, 0)),
            ):  # fmt: skip
                copy = f"{form} [s], [d0], {size}{operands};"
                yield copy, Program(COPY.format(part=size // 4, copy=copy, wait=GROUP),
                                    copied(size, live), inputs=WORDS, words=4)  # fmt: skip
    for copy in ("cp.async.ca.shared::cta.global.L2::cache_hint [s], [d0], 16, d9;",
                 "cp.async.cg.shared::cta.global.L2::cache_hint.L2::128B [s], [d0], 16, d9;",
                 "cp.async.cg.shared.global [s], [d0], 16, 16;"):  # fmt: skip
        yield copy, Program(COPY.format(part=4, copy=copy, wait="cp.async.wait_all;"),
                            copied(16, np.full(32, 16)), inputs=WORDS, words=4)  # fmt: skip


TWO_GROUPS = """cp.async.ca.shared.global [s], [d0], 4; cp.async.commit_group;
cp.async.ca.shared.global [s+4], [d0+4], 4; cp.async.commit_group; cp.async.wait_group 1;
ld.shared.u32 r7, [s]; st.global.u32 [mine], r7; cp.async.wait_group 0;"""
BY_MBARRIER = """.reg .b32 b; mov.u32 b, tile; setp.eq.u32 p8, tid, 0;
@p8 mbarrier.init.shared.b64 [b+4096], {count}; bar.warp.sync -1;
cp.async.cg.shared.global [s], [d0], 16; cp.async.mbarrier.arrive{noinc}.shared{cta}.b64 [b+4096];
{own} W: mbarrier.try_wait.parity.shared.b64 p1, [b+4096], 0; @!p1 bra W;"""

# --- Bulk copies: thread 0 of a block starts them ---

BULK = """.reg .b32 b, s; .reg .b16 mask; mov.u32 b, tile; mov.u32 s, tile; setp.eq.u32 p0, tid, 0;
mad.wide.u32 d0, rank, 512, in; mad.lo.u32 s, tid, 4, s; mov.u16 mask, 5;
@p0 mbarrier.init.shared.b64 [b+4096], 1; fence.mbarrier_init.release.cluster;
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
createpolicy.fractional.L2::evict_first.b64 d9;
@p0 mbarrier.arrive.expect_tx.shared.b64 d1, [b+4096], {bytes};
{start}
{wait} mov.u32 r9, 0; ld.shared.u32 r3, [s]; st.global.u32 [mine], r3;
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"""
WAIT = "W: mbarrier.try_wait.parity.shared.b64 p1, [b+4096], 0; @!p1 bra W;"
STORE = """.reg .b32 s; mov.u32 s, tile; mad.lo.u32 s, tid, 4, s; mul.lo.u32 r1, all, 3;
st.shared.u32 [s], r1; fence.proxy.async.shared::cta; bar.sync 0; setp.eq.u32 p0, tid, 0;
@!p0 ret; mov.u32 s, tile; createpolicy.fractional.L2::evict_first.b64 d9;
{copy} cp.async.bulk.commit_group; cp.async.bulk.wait_group{read} 0;"""


def bulk() -> Iterator[tuple[str, Program]]:
    own = np.concatenate([WORDS[128 * r : 128 * r + 32] for r in range(4)])
    for dst, hint in grammar(("shared::cluster", "shared::cta"), ("", ".L2::cache_hint")):
        line = (f"cp.async.bulk.{dst}.global.mbarrier::complete_tx::bytes{hint} "
                f"[b], [d0], 128, [b+4096]{', d9' if hint else ''};")  # fmt: skip
        yield line, Program(BULK.format(bytes=128, start="@p0 " + line, wait=WAIT), own, grid=4,
                            cluster=4, inputs=WORDS)  # fmt: skip
    for hint in ("", ".L2::cache_hint"):
        line = (
            f"cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
            f".multicast::cluster{hint} [b], [d0], 128, [b+4096], mask{', d9' if hint else ''};"
        )
        start = "setp.eq.and.u32 p1, rank, 2, p0; @p1 " + line
        wait = (
            f"setp.eq.u32 p2, rank, 1; setp.eq.or.u32 p2, rank, 3, p2; @p2 bra IDLE; {WAIT} IDLE:"
        )
        text = BULK.format(bytes=128, start=start, wait=wait).replace(
            "ld.shared.u32 r3", "mov.u32 r3, 0; @!p2 ld.shared.u32 r3")  # fmt: skip
        two = WORDS[256:288]
        zero = np.zeros(32, np.uint32)
        yield line, Program(text, np.concatenate([two, zero, two, zero]), grid=4, cluster=4,
                            inputs=WORDS)  # fmt: skip
    line = ("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes "
            "[r4], [b+2048], 128, [r5];")  # fmt: skip
    start = f"""mad.lo.u32 r1, rank, 100, tid; st.shared.u32 [s+2048], r1;
fence.proxy.async.shared::cta; bar.sync 0; xor.b32 r2, rank, 1; mapa.shared::cluster.u32 r4, b, r2;
add.u32 r5, b, 4096; mapa.shared::cluster.u32 r5, r5, r2; @p0 {line}"""
    yield line, Program(BULK.format(bytes=128, start=start, wait=WAIT),
                        np.concatenate([100 * (r ^ 1) + LANES for r in range(4)]), grid=4,
                        cluster=4)  # fmt: skip
    for hint, read in grammar(("", ".L2::cache_hint"), ("", ".read")):
        line = (f"cp.async.bulk.global.shared::cta.bulk_group{hint} [mine], [s], 256"
                f"{', d9' if hint else ''};")  # fmt: skip
        yield f"{line} {read}", Program(STORE.format(copy=line, read=read), 3 * np.arange(128),
                                        block=64, grid=2)  # fmt: skip


REDUCED = (("add", ("u32", "s32", "u64", "s64", "f32", "f64")), ("add.noftz", ("f16", "bf16")),
           ("min", ("u32", "s32", "u64", "s64", "f16", "bf16")),
           ("max", ("u32", "s32", "u64", "s64", "f16", "bf16")),
           ("inc", ("u32",)), ("dec", ("u32",)), ("and", ("b32", "b64", "u32")),
           ("or", ("b32", "b64")), ("xor", ("b32", "b64")))  # fmt: skip


def reductions() -> Iterator[tuple[str, Program]]:
    """Into shared memory of the block beside, and into global memory behind the inputs."""
    for operation, kinds in REDUCED:
        for kind in kinds:
            count = 256 // (bits_of(kind) // 8)
            old, new = values(kind, 0)[:count].copy(), values(kind, 1)[:count].copy()
            for x in (old, new):
                if kind in FLOATS:
                    with np.errstate(invalid="ignore"):
                        wide = x.astype(np.float64)
                    x[~np.isfinite(wide) | (wide == 0) | (np.abs(wide) > 1e4)] = x.dtype.type(0.75)
            atom = Atomic("", operation.removesuffix(".noftz"), kind, 1, False)
            done = np.ascontiguousarray(expected(atom, old, new, new).astype(dtype(kind)))
            inputs = np.concatenate([new.view(np.uint32), old.view(np.uint32)])
            for hint in ("", ".L2::cache_hint"):
                form = (
                    f"cp.reduce.async.bulk.global.shared::cta.bulk_group{hint}.{operation}.{kind}"
                )
                line = (f"{form} [in+256], [s], 256{', d9' if hint else ''};")  # fmt: skip
                text = STORE.format(copy=line, read="").replace(
                    "mul.lo.u32 r1, all, 3;", "mad.wide.u32 d2, tid, 4, in; ld.global.u32 r1, [d2];"
                )
                text = text.replace("@!p0 ret;", "@!p0 bra OUT;")
                show = "OUT: bar.sync 0; ld.global.u32 r3, [d2+256]; st.global.u32 [mine], r3;"
                yield line, Program(text + show, done.view(np.uint32), block=64, inputs=inputs)
            line = (f"cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes"
                    f".{operation}.{kind} [r4], [b+2048], 256, [r5];")  # fmt: skip
            start = f"""mad.wide.u32 d2, tid, 4, in; ld.global.u32 r1, [d2];
st.shared.u32 [s+2048], r1;
ld.global.u32 r1, [d2+256]; st.shared.u32 [s], r1; fence.proxy.async.shared::cta;
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; xor.b32 r2, rank, 1;
mapa.shared::cluster.u32 r4, b, r2; add.u32 r5, b, 4096; mapa.shared::cluster.u32 r5, r5, r2;
@p0 {line}"""
            yield line, Program(BULK.format(bytes=256, start=start, wait=WAIT),
                                np.tile(done.view(np.uint32), 2), block=64, grid=2, cluster=2,
                                inputs=inputs)  # fmt: skip


# --- st.async, red.async: every thread to the block beside ---

STORES = """.reg .b32 b, s, r, there; mov.u32 b, tile; mul.lo.u32 r1, tid, {bytes};
setp.eq.u32 p0, tid, 0; @p0 mbarrier.init.shared.b64 [b+4096], 1; xor.b32 r2, rank, 1;
@p0 mbarrier.arrive.expect_tx.shared.b64 d1, [b+4096], {all_bytes}; add.u32 s, b, r1;
mov.u32 r3, 1000; {old} fence.mbarrier_init.release.cluster;
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
mapa.shared::cluster.u32 there, s, r2; add.u32 r, b, 4096; mapa.shared::cluster.u32 r, r, r2;
mad.lo.u32 r4, rank, 500, tid; add.u32 r5, r4, 7; mov.u32 r6, 8; mov.u32 r7, 9;
mov.b64 d4, {{r4, r5}}; mov.b64 d5, {{r6, r7}};
{store} {wait} {show} barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"""


def stores() -> Iterator[tuple[str, Program]]:
    kinds = ("b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64")
    for weak, space, vector, kind in grammar(
        ("", "weak"), ("", "shared::cluster"), ("", "v2", "v4"), kinds
    ):
        count, size = int(vector[1:] or 1), bits_of(kind) // 8
        names = ["r4", "r5", "r6", "r7"] if size == 4 else ["d4", "d5", "d4", "d5"]
        value = f"{{{', '.join(names[:count])}}}" if count > 1 else names[0]
        line = (f"{spell('st.async', weak, space, 'mbarrier::complete_tx::bytes', vector, kind)} "
                f"[there], {value}, [r];")  # fmt: skip
        words = count * size // 4
        show = "".join(f"ld.shared.u32 r8, [s+{4 * i}]; st.global.u32 [mine+{4 * i}], r8;"
                       for i in range(words))  # fmt: skip
        text = STORES.format(bytes=count * size, all_bytes=32 * count * size, old="", store=line,
                             wait=WAIT, show=show)  # fmt: skip
        rows = [[500 * (1 - r) + t, 500 * (1 - r) + t + 7, 8, 9] * 2 for r in (0, 1) for t in LANES]
        yield line, Program(text, np.array(rows)[:, :words].reshape(-1), grid=2, cluster=2,
                            words=words)  # fmt: skip
    for order, space, operation, kind in grammar(
        ("", "relaxed.cluster"), ("", "shared::cluster"),
        ("add", "min", "max", "inc", "dec", "and", "or", "xor"),
        ("u32", "s32", "u64", "b32", "s64"),
    ):  # fmt: skip
        size = bits_of(kind) // 8
        form = spell("red.async", order, space, "mbarrier::complete_tx::bytes", operation, kind)
        line = (f"{form} [there], {'r4' if size == 4 else 'd4'}, [r];")  # fmt: skip
        old = (
            "cvt.u64.u32 d3, r3; st.shared.u64 [s], d3;" if size == 8 else "st.shared.u32 [s], r3;"
        )
        show = "ld.shared.u32 r8, [s]; st.global.u32 [mine], r8;"
        text = STORES.format(
            bytes=size, all_bytes=32 * size, old=old, store=line, wait=WAIT, show=show
        )
        b = np.array([500 * (1 - r) + t for r in (0, 1) for t in LANES])
        if size == 8:
            b = b + ((b + 7) << 32)
        was = np.full(64, 1000).astype(dtype(kind))
        atom = Atomic("", operation, kind, 1, False)
        done = expected(atom, was, b.astype(dtype(kind)), was)
        yield line, Program(text, done.astype(np.uint64).astype(np.uint32), grid=2, cluster=2)


OWN = {"": "mbarrier.arrive.shared.b64 d2, [b+4096];", ".noinc": ""}
PROGRAMS = {
    **dict(copies()), **dict(bulk()), **dict(reductions()), **dict(stores()),
    "two groups": Program(COPY.format(part=1, copy=TWO_GROUPS, wait=""),
                          copied(8, np.full(32, 8)), inputs=WORDS, words=4),
    **{f"mbarrier{noinc}{cta}": Program(COPY.format(part=1, copy=BY_MBARRIER.format(
        noinc=noinc, cta=cta, count=32, own=OWN[noinc]),
        wait=""), copied(16, np.full(32, 16)), inputs=WORDS, words=4)
       for noinc in ("", ".noinc") for cta in ("", "::cta")},
    "prefetch": Program("""cp.async.bulk.prefetch.L2.global [in], 64;
createpolicy.fractional.L2::evict_first.b64 d9;
cp.async.bulk.prefetch.L2.global.L2::cache_hint [in], 64, d9; st.global.u32 [mine], tid;""", LANES),
}  # fmt: skip


def taken(program: Program) -> bool:
    simulator().reset(DEVICE)
    try:
        simulator().load(program.ptx())
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    if taken(PROGRAMS[name]):  # which is what ptxas says, below
        PROGRAMS[name].check()


def test_the_simulator_takes_what_ptxas_takes() -> None:
    head = Program(".reg .b32 b, s, r, there; .reg .b16 mask;", []).ptx().rsplit("ret; }", 1)[0]
    lines = [name.removesuffix(" .read").strip() for name in PROGRAMS if name.endswith((";", "; "))
             or ".read" in name]  # fmt: skip
    lines = sorted(set(lines))
    found = ptxas_accepts(lines, head)
    simulator().reset(DEVICE)
    wrong = [f"{line} {refusal(line, head) or 'taken'}, ptxas: {exists}"
             for line, exists in zip(lines, found, strict=True)
             if (not refusal(line, head)) != exists]  # fmt: skip
    assert not wrong, "\n".join(wrong)
