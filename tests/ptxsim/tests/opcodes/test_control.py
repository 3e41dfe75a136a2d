# SPDX-License-Identifier: Apache-2.0
"""Branches, calls, stacks, special registers, variables, output: PTX ISA 9.7.12, .18, .19, 10."""

from __future__ import annotations

import numpy as np
import pytest

from ptxsim.driver import simulator
from ptxsim.tests.opcodes.assembler import ptxas_accepts, refusal
from ptxsim.tests.opcodes.program import Program
from ptxsim.tests.opcodes.table import DEVICE, grammar, spell

LANES = np.arange(32)
FACTORIAL = """.func (.param .b32 result) factorial(.param .b32 n) {
.reg .b32 r<4>; .reg .pred p;
ld.param.b32 r0, [n]; mov.b32 r1, 1; setp.lt.u32 p, r0, 2; @p bra DONE;
{ .param .b32 to; .param .b32 back; sub.u32 r2, r0, 1; st.param.b32 [to], r2;
call.uni (back), factorial, (to); ld.param.b32 r1, [back]; mul.lo.u32 r1, r1, r0; }
DONE: st.param.b32 [result], r1; ret; }
.func (.param .b32 result) twice(.param .b32 n) {
.reg .b32 r; ld.param::func.b32 r, [n]; shl.b32 r, r, 1; st.param::func.b32 [result], r; ret.uni; }
"""
CALL = """{ .param .b32 to; .param .b32 back; st.param.b32 [to], r1;
call (back), factorial, (to); ld.param.b32 r2, [back]; st.global.u32 [mine], r2; }"""
INDIRECT = """and.b32 r1, tid, 7; and.b32 r2, tid, 1; setp.eq.u32 p0, r2, 0;
mov.u64 d0, factorial; mov.u64 d1, twice; selp.b64 d2, d0, d1, p0;
{ .param .b32 to; .param .b32 back; st.param.b32 [to], r1;
call (back), d2, (to), proto; ld.param.b32 r2, [back]; st.global.u32 [mine], r2; }
proto: .callprototype (.param .b32 _) _ (.param .b32 _);"""
SPECIAL = (
    "%tid.x",
    "%ntid.x",
    "%ctaid.x",
    "%nctaid.x",
    "%laneid",
    "%warpid",
    "%lanemask_eq",
    "%lanemask_lt",
    "%lanemask_le",
    "%lanemask_gt",
    "%lanemask_ge",
    "%cluster_ctarank",
    "%cluster_nctarank",
    "%clusterid.x",
    "%nclusterid.x",
    "%cluster_ctaid.x",
    "WARP_SZ",
    "%cluster_nctaid.x",
    "%total_smem_size",
    "%dynamic_smem_size",
    "%tid.y",
    "%ntid.z",
)


def special_values() -> np.ndarray:
    rows = []
    for block in range(4):
        for t in range(64):
            bit = 1 << (t % 32)
            rows.append([t, 64, block, 4, t % 32, t // 32, bit, bit - 1, 2 * bit - 1,
                         0xFFFFFFFF & ~(2 * bit - 1), 0xFFFFFFFF & ~(bit - 1), block % 2, 2,
                         block // 2, 2, block % 2, 32, 2, 8192, 0, 0, 1])  # fmt: skip
    return np.array(rows).reshape(-1)


def factorial(n: int) -> int:
    return 1 if n < 2 else n * factorial(n - 1)


PROGRAMS = {
    "recursion": Program("and.b32 r1, tid, 7;" + CALL, [factorial(t & 7) for t in LANES],
                         declarations=FACTORIAL),
    "guarded call": Program("and.b32 r1, tid, 7; mov.u32 r2, 5; setp.lt.u32 p0, tid, 9;" +
                            CALL.replace("call (back)", "st.param.b32 [back], r2; @p0 call (back)"),
                            [factorial(t & 7) if t < 9 else 5 for t in LANES],
                            declarations=FACTORIAL),
    "indirect call": Program(INDIRECT, [2 * (t & 7) if t & 1 else factorial(t & 7) for t in LANES],
                             declarations=FACTORIAL),
    "brx.idx": Program("""and.b32 r1, tid, 3; mov.u32 r2, 9; brx.idx r1, ways;
ways: .branchtargets A, B, A, C; A: add.u32 r2, r1, 100; bra OUT; B: mov.u32 r2, 7; bra.uni OUT;
C: mov.u32 r2, 8; OUT: st.global.u32 [mine], r2;""",
                       [{0: 100, 1: 7, 2: 102, 3: 8}[t & 3] for t in LANES]),
    "loops of different lengths": Program("""mov.u32 r1, 0; mov.u32 r2, 0;
L: add.u32 r2, r2, r1; add.u32 r1, r1, 1; setp.le.u32 p0, r1, tid; @p0 bra L;
st.global.u32 [mine], r2;""", [t * (t + 1) // 2 for t in LANES]),
    "exit": Program("st.global.u32 [mine], tid; setp.gt.u32 p0, tid, 4; @p0 exit; "
                    "mov.u32 r1, 77; st.global.u32 [mine], r1;", [77] * 5 + list(range(5, 32))),
    "alloca": Program("""stacksave.u64 d0; mov.u64 d1, 16; alloca.u64 d2, d1, 16; alloca.u64 d3, 8;
st.local.u32 [d2+12], tid; add.u32 r1, tid, 5; st.local.u32 [d3], r1; stackrestore.u64 d0;
alloca.u64 d4, d1; setp.eq.u64 p0, d4, d2; selp.u32 r4, 1000, 0, p0;
ld.local.u32 r2, [d2+12]; ld.local.u32 r3, [d3]; mad.lo.u32 r2, r2, r3, r4;
stacksave.u32 r5; alloca.u32 r6, r1; stackrestore.u32 r5; st.global.u32 [mine], r2;""",
                      [t * (t + 5) + 1000 for t in LANES]),
    "special registers": Program("mov.u32 r1, tile;" + "".join(
        f"mov.u32 r1, {name}; st.global.u32 [mine+{4 * i}], r1;"
                                         for i, name in enumerate(SPECIAL)),
                                 special_values(), block=64, grid=4, cluster=2, words=len(SPECIAL)),
    "clocks": Program("""mov.u64 d0, %clock64; mov.u32 r0, %clock; mov.u32 r9, %clock_hi;
nanosleep.u32 100; mov.u64 d1, %clock64; mov.u64 d3, %globaltimer; mov.u32 r1, %globaltimer_lo;
mov.u32 r9, %globaltimer_hi; setp.gt.u64 p0, d1, d0; setp.ge.and.u32 p0, r1, r0, p0;
mov.pred p1, %is_explicit_cluster; selp.u32 r2, 1, 0, p0; selp.u32 r3, 2, 0, p1;
add.u32 r2, r2, r3; st.global.u32 [mine], r2;""", [3] * 64, grid=2, cluster=2),
    "variables": Program("""mov.u64 d0, table; mad.wide.u32 d1, tid, 4, d0;
ld.const.u32 r1, [d1]; ld.global.u32 r2, [number]; ld.global.u64 d2, [pointers+8];
ld.u32 r3, [d2]; add.u32 r1, r1, r2; add.u32 r1, r1, r3; st.global.u32 [mine], r1;""",
                         [t * t + 40 + 5 for t in LANES],
                         declarations=".const .u32 table[32] = {"
                         f"{', '.join(map(str, LANES * LANES))}}};"
                         " .global .u32 number = 40; .global .u32 five = 5;"
                         " .global .u64 pointers[2] = {0, generic(five)};"),
    "address spaces": Program(""".local .align 8 .b8 stack[8]; mov.u64 d0, stack;
cvta.local.u64 d1, d0;
cvta.to.local.u64 d2, d1; mov.u32 r0, tile; cvt.u64.u32 d3, r0; cvta.shared.u64 d4, d3;
cvta.to.shared.u64 d5, d4; cvta.global.u64 d6, out; cvta.to.global.u64 d6, d6; cvta.param.u64 d7, 0;
mov.u64 d8, number; cvta.const.u64 d8, d8; ld.u32 r9, [d8]; cvta.to.const.u64 d8, d8;
mov.u32 r1, 0;
isspacep.local p0, d1; @p0 or.b32 r1, r1, 1; isspacep.local p0, d4; @p0 or.b32 r1, r1, 2;
isspacep.shared p0, d4; @p0 or.b32 r1, r1, 4; isspacep.shared p0, d6; @p0 or.b32 r1, r1, 8;
isspacep.global p0, d6; @p0 or.b32 r1, r1, 16; isspacep.global p0, d1; @p0 or.b32 r1, r1, 32;
isspacep.param p0, d7; @p0 or.b32 r1, r1, 64; setp.eq.u64 p0, d0, d2; @p0 or.b32 r1, r1, 128;
setp.eq.u64 p0, d3, d5; @p0 or.b32 r1, r1, 256; xor.b32 r2, rank, 1;
mapa.shared::cluster.u32 r3, r0, r2; mapa.u64 d9, d4, r2; mapa.shared::cluster.u32 r9, tile, r2;
getctarank.shared::cluster.u32 r4, r3; getctarank.u64 r5, d9; shl.b32 r4, r4, 9; shl.b32 r5, r5, 10;
or.b32 r1, r1, r4; or.b32 r1, r1, r5; cvt.u64.u32 d10, r3; cvta.shared::cluster.u64 d10, d10;
isspacep.shared::cta p0, d10; @p0 or.b32 r1, r1, 2048; isspacep.shared::cluster p0, d10;
@p0 or.b32 r1, r1, 4096; isspacep.shared::cta p0, d4; @p0 or.b32 r1, r1, 8192;
getctarank.shared::cluster.u32 r5, r0; setp.eq.u32 p0, r5, rank; @p0 or.b32 r1, r1, 16384;
st.global.u32 [mine], r1;""",
                              [1 + 4 + 16 + 64 + 128 + 256 + 4096 + 8192 + 16384 + (1 - b) * 1536
                               for b in range(2) for _ in LANES], grid=2, cluster=2,
                              declarations=".const .u32 number = 40;"),
    "hints": Program("""prefetch.global.L1 [out]; prefetch.global.L2 [out]; prefetch.L1 [out];
prefetch.global.L2::evict_last [out]; prefetch.global.L2::evict_normal [out]; prefetchu.L1 [out];
applypriority.global.L2::evict_normal [out], 128; discard.global.L2 [in], 128;
createpolicy.fractional.L2::evict_last.L2::evict_unchanged.b64 d0, 0.5;
createpolicy.range.global.L2::evict_last.L2::evict_first.b64 d0, [in], 128, 256;
createpolicy.cvt.L2.b64 d0, 5; griddepcontrol.launch_dependents; griddepcontrol.wait;
setmaxnreg.inc.sync.aligned.u32 64; setmaxnreg.dec.sync.aligned.u32 40;
st.global.u32 [mine], tid;""", LANES),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    PROGRAMS[name].check()


PRINT = Program(
    """setp.eq.u32 p0, tid, 3; mov.u64 d0, text; cvta.global.u64 d0, d0;
.local .align 8 .b8 list[24]; mov.u64 d1, list; cvta.local.u64 d2, d1;
st.local.u32 [list], tid; st.local.f64 [list+8], 0d3FF8000000000000; mov.u64 d3, 0x123456789;
st.local.u64 [list+16], d3;
{ .param .b64 format; .param .b64 values; .param .b32 back; st.param.b64 [format], d0;
st.param.b64 [values], d2; @p0 call.uni (back), vprintf, (format, values); }""",
    [0] * 32,
    declarations=".extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);\n"
    f".global .b8 text[16] = {{{', '.join(str(b) for b in b'%d %.2f %llx%%' + bytes(2))}}};",
)


def test_print() -> None:
    PRINT.check()
    assert simulator().c.ptxsim_printed().decode() == "3 1.50 123456789%"


FAULTS = {  # kernel, what the fault says
    "trap": ("setp.eq.u32 p0, tid, 9; @p0 trap;", "stops itself"),
    "brkpt": ("brkpt;", "stops itself"),
    "no target": ("mov.u32 r1, 5; brx.idx r1, ways; ways: .branchtargets A, A; A: ret;",
                  "index 5 of 2 targets"),
    "no function": ("mov.u64 d0, 8; call d0, (), proto; proto: .callprototype _ ();",
                    "an address that is no function"),
    "stack": ("mov.u64 d0, 0x100000; alloca.u64 d1, d0;", "leaves the thread's local memory"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str) -> None:
    body, part = FAULTS[name]
    with pytest.raises(RuntimeError, match=part):
        Program(body, []).run(0)


SPACES = ("", "global", "shared", "shared::cta", "shared::cluster", "local", "const", "param")
LEVELS = ("L1", "L2", "L2::evict_last", "L2::evict_normal", "tensormap")
POLICIES = ("L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::evict_unchanged")
MISCELLANY = [  # instruction, operands
    *((f, "d0, d1") for f in grammar(("cvta",), ("", "to"), SPACES, ("u64",))),
    *((f, "p0, d1") for f in grammar(("isspacep",), SPACES)),
    *((f, "r0, r1, r2") for f in grammar(("mapa",), SPACES, ("u32",))),
    *((f, "d0, d1, r2") for f in grammar(("mapa",), SPACES, ("u64",))),
    *((f, "r0, r1") for f in grammar(("getctarank",), SPACES, ("u32",))),
    *((f, "r0, d1") for f in grammar(("getctarank",), SPACES, ("u64",))),
    *((f, "[d0]") for f in grammar(("prefetch", "prefetchu"), SPACES, LEVELS)),
    *((f, "[d0], 128") for f in grammar(("applypriority", "discard"), SPACES,
                                        ("L2", "L2::evict_normal"))),
    *((f, "d0, 1.0") for f in grammar(("createpolicy.fractional",), POLICIES,
                                      ("", "L2::evict_unchanged", "L2::evict_first"), ("b64",))),
    *((f, "d0, [d1], 128, 256") for f in grammar(
        ("createpolicy.range",), ("", "global"), POLICIES[:2], POLICIES[3:], ("b64",))),
    *((f, "d0, d1") for f in grammar(("alloca",), ("u64", "b64"))),
    *((f, "d0") for f in grammar(("stacksave", "stackrestore"), ("u64", "b64"))),
    *((("nanosleep", t), "5") for t in ("u32", "u64")),
    *((("setmaxnreg", way, "sync.aligned.u32"), n) for way in ("inc", "dec")
      for n in ("16", "24", "63", "64", "256", "264")),
    *((("mov", t), f"{r}0, {name}") for t, r in (("u32", "r"), ("u64", "d"))
      for name in ("%tid.x", "%laneid", "%clock", "%clock64", "%smid", "%globaltimer", "%gridid")),
    (("mov", "pred"), "p0, %is_explicit_cluster"),
]  # fmt: skip
# Constants are global variables here: an address does not tell them apart.
REFUSED = ("isspacep.const",)


def test_the_simulator_takes_what_ptxas_takes() -> None:
    simulator().reset(DEVICE)
    lines = [f"{spell(*words)} {operands};" for words, operands in MISCELLANY]
    wrong = [f"{line} {refusal(line) or 'taken'}, ptxas: {exists}"
             for line, exists in zip(lines, ptxas_accepts(lines), strict=True)
             if (not refusal(line)) != (exists and not line.startswith(REFUSED))]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_launch_is_checked() -> None:
    sim = simulator()
    sim.reset(DEVICE)
    module = sim.load(Program("", []).ptx())
    for arguments, part in (
        (("walk", b""), "no kernel 'walk'"), (("run", b"12"), "takes 16 bytes of parameters"),
        (("run", bytes(16), 1, 1025), "block .1025,1,1."),
        (("run", bytes(16), 3, 32, 2), "no multiple"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=part):
            sim.launch(module, *arguments)  # type: ignore[arg-type]
