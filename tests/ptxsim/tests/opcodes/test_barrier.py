# SPDX-License-Identifier: Apache-2.0
"""Barriers of blocks and clusters, fences and mbarriers: PTX ISA 9.7.13."""

from __future__ import annotations

import numpy as np
import pytest

from ptxsim.driver import simulator
from ptxsim.tests.opcodes.assembler import ptxas_accepts, refusal
from ptxsim.tests.opcodes.program import Program
from ptxsim.tests.opcodes.table import DEVICE

T = np.arange(128)
# Every thread shows its word to the one across, behind the barrier under test.
PUT = "mov.u32 s, tile; mad.lo.u32 s, tid, 4, s; mul.lo.u32 r1, tid, 3; st.shared.u32 [s], r1;"
GET = """sub.u32 r2, 127, tid; mov.u32 s, tile; mad.lo.u32 s, r2, 4, s; ld.shared.u32 r3, [s];
st.global.u32 [mine], r3;"""
ACROSS = 3 * (127 - T)
BARRIERS = (
    "bar.sync 0;", "bar.sync 3, 128;", "bar.cta.sync 0;", "barrier.sync 1;", "barrier.sync 2, 128;",
    "barrier.cta.sync 5;", "barrier.sync.aligned 1;", "barrier.cta.sync.aligned 15, 128;",
    "mov.u32 r9, 7; barrier.sync r9;", "bar.red.popc.u32 r9, 0, on;", "bar.red.and.pred p9, 0, on;",
    "barrier.cluster.arrive; barrier.cluster.wait;",
    "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;",
    "barrier.cluster.arrive.release; barrier.cluster.wait.acquire;",
    "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;",
)  # fmt: skip
ODD = "and.b32 r2, tid, 1; setp.eq.u32 p0, r2, 1; setp.lt.u32 p1, tid, 200;"
HALF = "setp.lt.u32 p0, tid, 64;"
BY_LOCK = "fence.{0}; atom.relaxed.gpu.global.exch.b32 r2, [in], 1;"
FENCES = ("fence.acq_rel.gpu", "fence.sc.gpu", "fence.acq_rel.sys", "fence.sc.sys", "membar.gl",
          "membar.sys", "fence.acq_rel.cluster", "fence.sc.cluster")  # fmt: skip


def passed_on(fence: str) -> Program:
    """Block 0 of a cluster writes, fences and raises a flag that block 1 waits for."""
    return Program(f"""setp.ne.u32 p0, tid, 0; @p0 ret; setp.ne.u32 p0, rank, 0; @p0 bra READ;
mov.u32 r1, 77; st.global.u32 [in+128], r1; {fence}; st.relaxed.sys.global.u32 [in], r1; ret;
READ: ld.relaxed.sys.global.u32 r2, [in]; setp.eq.u32 p0, r2, 0; @p0 bra READ; {fence};
ld.global.u32 r3, [in+128]; st.global.u32 [mine], r3;""", [0] * 32 + [77] + [0] * 31,
                   grid=2, cluster=2, inputs=np.zeros(64, np.uint32))  # fmt: skip


# --- mbarriers: thread 0 initialises one for all ---

START = """mov.u32 b, tile; setp.eq.u32 p8, tid, 0; @p8 mbarrier.init.shared::cta.b64 [b], {count};
@p8 mbarrier.init.shared.b64 [b+8], 1; bar.sync 0; mov.u32 s, tile; mad.lo.u32 s, tid, 4, s;
cvt.u64.u32 g, b; cvta.shared.u64 g, g; mov.u32 r8, 0;
"""
SHOW = """mul.lo.u32 r1, tid, 3; st.shared.u32 [s+64], r1; {arrive}
W: {wait} @!p0 bra W; sub.u32 r2, 127, tid; mov.u32 s, tile; mad.lo.u32 s, r2, 4, s;
ld.shared.u32 r3, [s+64]; st.global.u32 [mine], r3; bar.sync 0;
@p8 mbarrier.inval.shared.b64 [b]; @p8 mbarrier.inval.b64 [g+8];"""
ARRIVALS = [  # arrivals that the barrier expects, and how each thread does its own
    (128, "mbarrier.arrive.shared.b64 d0, [b];"),
    (128, "mbarrier.arrive.shared::cta.b64 d0, [b];"),
    (128, "mbarrier.arrive.b64 d0, [g];"),
    (128, "mbarrier.arrive.release.cta.shared::cta.b64 d0, [b];"),
    (128, "mbarrier.arrive.release.cluster.shared::cta.b64 d0, [b];"),
    (256, "mbarrier.arrive.shared.b64 d0, [b], 2;"),
    (128, "mbarrier.arrive.shared::cluster.b64 _, [b];"),
    (384, "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [b], 3;"),
    (128, "mbarrier.arrive_drop.shared.b64 d0, [b];"),
    (256, "mbarrier.arrive_drop.release.cta.shared::cta.b64 d0, [b], 2;"),
    (128, "mbarrier.arrive_drop.shared::cluster.b64 _, [b];"),
    (129, "mbarrier.arrive.noComplete.shared.b64 d0, [b], 1; "
          "@p8 mbarrier.arrive.shared.b64 d0, [b];"),
    (129, "mbarrier.arrive_drop.noComplete.shared.b64 d0, [b], 1; "
          "@p8 mbarrier.arrive.shared.b64 d0, [b];"),
    (128, "mbarrier.arrive.expect_tx.shared.b64 d0, [b], 4; "
          "mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [b], 4;"),
    (128, "mbarrier.arrive.expect_tx.shared::cta.b64 d0, [b], 4; "
          "mbarrier.complete_tx.shared::cta.b64 [b], 4;"),
    (128, "mbarrier.expect_tx.shared::cta.b64 [b], 4; mbarrier.complete_tx.shared::cta.b64 [b], 4; "
          "mbarrier.arrive.shared.b64 d0, [b];"),
    (128, "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 d0, [b], 8; "
          "mbarrier.complete_tx.shared.b64 [b], 8;"),
    (128, "mbarrier.arrive.expect_tx.shared::cluster.b64 _, [b], 4; "
          "mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [b], 4;"),
    (128, "mbarrier.arrive_drop.expect_tx.shared.b64 d0, [b], 4; "
          "mbarrier.complete_tx.shared::cta.b64 [b], 4;"),
    (128, "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [b], 16; "
          "mbarrier.complete_tx.shared::cluster.relaxed.cluster.b64 [b], 16; "
          "mbarrier.arrive.shared.b64 d0, [b];"),
    (128, "mbarrier.expect_tx.relaxed.cluster.shared::cluster.b64 [b], 4; "
          "mbarrier.complete_tx.shared::cta.b64 [b], 4; mbarrier.arrive.shared.b64 d0, [b];"),
]  # fmt: skip
PARITY, TOKEN = ARRIVALS[6], ARRIVALS[0]
WAITS = [
    (TOKEN, "mbarrier.try_wait.shared.b64 p0, [b], d0;"),
    (TOKEN, "mbarrier.test_wait.shared.b64 p0, [b], d0;"),
    (TOKEN, "mbarrier.test_wait.acquire.cta.shared::cta.b64 p0, [b], d0;"),
    (TOKEN, "mbarrier.try_wait.b64 p0, [g], d0;"),
    (PARITY, "mbarrier.try_wait.parity.shared.b64 p0, [b], 0;"),
    (PARITY, "mbarrier.try_wait.parity.shared::cta.b64 p0, [b], r8;"),
    (PARITY, "mbarrier.try_wait.parity.shared::cta.b64 p0, [b], r8, 1000;"),
    (PARITY, "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p0, [b], r8;"),
    (PARITY, "mbarrier.test_wait.parity.shared::cta.b64 p0, [b], r8;"),
    (PARITY, "mbarrier.test_wait.parity.acquire.cluster.shared::cta.b64 p0, [b], r8;"),
]


def mbarrier(count: int, arrive: str, wait: str) -> Program:
    body = ".reg .b32 b, s; .reg .b64 g;" + START.format(count=count)
    return Program(body + SHOW.format(arrive=arrive, wait=wait), ACROSS, block=128)


FENCES_ALL = (  # and what is none
    "fence.proxy.async;", "fence.proxy.async.global;", "fence.proxy.async.shared::cta;",
    "fence.proxy.async.shared::cluster;", "fence.proxy.alias;", "membar.proxy.alias;",
    "membar.cta;",
    "fence.acq_rel.cta;", "fence.sc.cta;", "fence.mbarrier_init.release.cluster;",
    "fence.acquire.sync_restrict::shared::cluster.cluster;",
    "fence.release.sync_restrict::shared::cta.cluster;",
    "fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster;",
    "fence.proxy.async::generic.release.sync_restrict::shared::cta.cluster;",
    *(f"fence.proxy.tensormap::generic.release.{s};" for s in ("cta", "cluster", "gpu", "sys")),
    *(f"fence.proxy.tensormap::generic.acquire.{s} [in], 128;" for s in ("cta", "gpu", "sys")),
    "fence.acquire.gpu;", "fence.sc;", "fence.proxy.tensormap::generic.acquire.gpu [in], 64;",
    "fence.sc.sync_restrict::shared::cta.cluster;",
    "fence.acquire.sync_restrict::shared::cta.cluster;",
)  # fmt: skip
NO_FENCES = (
    "fence.sc;",
    "fence.proxy.tensormap::generic.acquire.gpu [in], 64;",
    "fence.sc.sync_restrict::shared::cta.cluster;",
    "fence.acquire.sync_restrict::shared::cta.cluster;",
)

PROGRAMS = {
    **{text: Program(f".reg .b32 s; setp.lt.u32 on, tid, 60; {PUT} {text} {GET}", ACROSS, block=128)
       for text in BARRIERS},
    "results": Program(f"""{ODD} bar.red.popc.u32 r3, 0, p0; bar.red.and.pred p2, 1, 128, p0;
bar.red.or.pred p3, 2, !p0; barrier.red.popc.u32 r4, 0, p1; barrier.red.and.pred p4, 3, p1;
barrier.cta.red.or.pred p5, 3, 128, !p1; barrier.red.popc.aligned.u32 r5, 4, 128, !p0;
barrier.red.and.aligned.pred p6, 0, p1; bar.cta.red.or.pred p7, 0, p0;
barrier.cta.red.popc.u32 r6, 0, p0; bar.cta.red.popc.u32 r7, 0, p0; bar.cta.red.and.pred p8, 0, p0;
st.global.u32 [mine], r3; st.global.u32 [mine+4], r4; st.global.u32 [mine+8], r5;
selp.u32 r8, 1, 0, p2; @p3 add.u32 r8, r8, 2; @p4 add.u32 r8, r8, 4; @p5 add.u32 r8, r8, 8;
@p6 add.u32 r8, r8, 16; @p7 add.u32 r8, r8, 32; @p8 add.u32 r8, r8, 64; st.global.u32 [mine+12], r8;
st.global.u32 [mine+16], r6;""",
                       [64, 128, 64, 2 + 4 + 16 + 32, 64] * 128, block=128, words=5),
    "producers arrive": Program(f""".reg .b32 s; {HALF} @!p0 bra TAKE; {PUT} bar.arrive 1, 128;
ret; TAKE: bar.sync 1, 128; {GET}""", [*([0] * 64), *ACROSS[64:]], block=128),
    "barrier.arrive": Program(f""".reg .b32 s; {HALF} @!p0 bra TAKE;
{PUT} barrier.cta.arrive 1, 128;
ret; TAKE: barrier.sync 1, 128; {GET}""", [*([0] * 64), *ACROSS[64:]], block=128),
    "halves apart": Program(f"""{HALF} @p0 bra A; bar.red.popc.u32 r1, 2, 64, p0; bra OUT;
A: bar.red.popc.u32 r1, 1, 64, p0; OUT: st.global.u32 [mine], r1;""",
                            [64] * 64 + [0] * 64, block=128),
    "bar.warp.sync": Program(""".reg .b32 s; mov.u32 s, tile; mad.lo.u32 s, tid, 4, s;
setp.lt.u32 p0, tid, 16; @p0 bra A; bar.warp.sync 0xffff0000; st.shared.u32 [s], tid;
bar.warp.sync -1; bra OUT; A: st.shared.u32 [s], tid; bar.warp.sync 0xffff; bar.warp.sync -1;
OUT: xor.b32 r1, tid, 21; mov.u32 s, tile; mad.lo.u32 s, r1, 4, s; ld.shared.u32 r2, [s];
st.global.u32 [mine], r2;""", np.arange(32) ^ 21),
    "cluster": Program(""".reg .b32 s; mov.u32 s, tile; add.u32 r1, rank, 10; st.shared.u32 [s], r1;
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; xor.b32 r2, rank, 3;
mapa.shared::cluster.u32 s, s, r2; ld.shared::cluster.u32 r3, [s]; st.global.u32 [mine], r3;
barrier.cluster.arrive.relaxed; barrier.cluster.wait;
barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;""".replace(
        "add.u32 r1", "setp.eq.u32 p0, tid, 0; add.u32 r1").replace("st.shared", "@p0 st.shared"),
                       np.repeat([13, 12, 11, 10], 32), grid=4, cluster=4),
    **{fence: passed_on(fence) for fence in FENCES},
    **{arrive: mbarrier(count, arrive, WAITS[5][1]) for count, arrive in ARRIVALS},
    **{wait: mbarrier(*arrival, wait) for arrival, wait in WAITS},
    "all fences": Program("".join(f for f in FENCES_ALL if f not in NO_FENCES)
                          + "st.global.u32 [mine], tid;", np.arange(32)),
    "phases": Program(""".reg .b32 b; mov.u32 b, tile; setp.eq.u32 p8, tid, 0;
@p8 mbarrier.init.shared.b64 [b], 64; bar.sync 0; mov.u32 r1, 0; mov.u32 r2, 0;
L: and.b32 r3, r1, 1; mbarrier.arrive.shared.b64 d0, [b];
mbarrier.pending_count.b64 r4, d0; setp.gt.u32 p1, r4, 64; setp.lt.or.u32 p1, r4, 1, p1;
@p1 add.u32 r2, r2, 1000; W: mbarrier.try_wait.parity.shared.b64 p0, [b], r3; @!p0 bra W;
add.u32 r2, r2, 1; add.u32 r1, r1, 1; setp.lt.u32 p0, r1, 9; @p0 bra L;
st.global.u32 [mine], r2;""", [9] * 64, block=64),
    "pending counts": Program(""".reg .b32 b; mov.u32 b, tile; mbarrier.init.shared.b64 [b], 32;
bar.warp.sync -1; mbarrier.arrive.shared.b64 d0, [b]; mbarrier.pending_count.b64 r4, d0;
st.global.u32 [mine], r4;""".replace("mbarrier.init", "setp.eq.u32 p0, tid, 0; @p0 mbarrier.init"),
                              32 - np.arange(32)),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    PROGRAMS[name].check()


def test_fences_are_those_of_ptxas() -> None:
    simulator().reset(DEVICE)
    head = Program("", []).ptx().rsplit("ret; }", 1)[0]
    found = ptxas_accepts(FENCES_ALL, head)
    assert [f for f, exists in zip(FENCES_ALL, found, strict=True)
            if (not refusal(f, head)) != exists] == []  # fmt: skip
    assert {f for f, exists in zip(FENCES_ALL, found, strict=True) if not exists} == set(NO_FENCES)


FAULTS = {
    "bar.sync 16;": "there are 16",
    "bar.sync 0, 48;": "a multiple of 32",
    "setp.lt.u32 p0, tid, 32; @p0 bra A; bar.sync 1, 64; A: bar.sync 1, 96;": "while others wait",
    "barrier.cluster.wait;": "without an arrive",
    "barrier.cluster.arrive; barrier.cluster.arrive;": "twice",
    "mov.u32 r0, tile; mbarrier.arrive.shared.b64 d0, [r0];": "not initialised",
    "mov.u32 r0, tile; mbarrier.init.shared.b64 [r0], 0;": "a count of 0",
    "mov.u32 r0, tile; mbarrier.init.shared.b64 [r0+4], 1;": "aligned to 8",
    "mov.u64 d1, 5; mbarrier.pending_count.b64 r0, d1;": "the token of an mbarrier",
    "setp.lt.u32 p0, tid, 32; @p0 bar.sync 1, 64;": "waits",
}


@pytest.mark.parametrize("body", FAULTS)
def test_misuse_is_a_fault(body: str) -> None:
    with pytest.raises(RuntimeError, match=FAULTS[body]):
        Program(body, [], block=128).run(0)
