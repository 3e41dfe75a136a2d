# SPDX-License-Identifier: Apache-2.0
"""Printed text parses to the same module, and ptxas makes the same machine code of it."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest

from ptxsim import build
from ptxsim.driver import simulator
from ptxsim.tests.ptx.sources import own, texts
from ptxsim.tests.ptx.test_refused import BODY, FULL, HEAD

SYNTAX = (
    HEAD
    + """.extern .global .b32 x; .visible .global .align 4 .b32 x = 3;
.weak .const .f32 c[2][2] = {{1.0}, {0f40000000, -2.0}}; .common .global .u16 cm[3];
.global .v4 .f32 q = {0f3F800000, 1.0}; .global .s8 n = -1;
.global .u64 arr[] = {x, generic(k)-8, -1};
.extern .shared .align 128 .b8 dyn[]; .global .u64 self = self;
.visible .entry k(.param .u64 .ptr .global .align 16 a, .param .align 64 .b8 b[128])
.reqntid 3, 2 .explicitcluster .reqnctapercluster 2 .maxclusterrank 8
{ .reg .b32 %r<4>; .reg .b64 %rd<3>; .reg .pred %p<2>;
{ .reg .v4 .f32 t; mov.f32 t.x, 0f3F800000; st.global.v4.f32 [%rd1+-16], t; mov.b32 %r0, WARP_SZ;
L: bra L;
{ bra L; L: } } { .reg .b32 r<2>; mov.b32 r1, 0xFFFFFFFFU; L: bra L; mov.b32 r0, 0b101; }
mov.b64 %rd1, -9223372036854775808; mov.b64 %rd1, 18446744073709551615;
vote.sync.any.pred %p1, !%p0, -1; shfl.sync.idx.b32 %r1|%p1, %r2, 0, 31, -1;
elect.sync _|%p1, -1; ld.global.b32 %r1, [16+4]; mov.f64 %rd1, -0d3FF0000000000000;
mov.f32 %r1, -1.0e-3;
mov.u32 %r1, dyn;
pr: .callprototype (.param .b32 _) _ (.param .align 8 .b8 _[16]) .noreturn;
call (%r1), %rd1, (%r2), pr;
mov.u64 %rd1, a; ; mov.u64 %rd1, k; .shared .align 8 .b8 s[8]; mov.u64 %rd1, s+4; ret; }
"""
)


PRINTED = """.weak .const .f32 c[4] = {0f3F800000, 0f00000000, 0f40000000, 0fC0000000};
.weak .global .u16 cm[3];
.global .align 16 .f32 q[4] = {0f3F800000, 0f3F800000};
.global .s8 n = 255;
.global .u64 arr[3] = {x, generic(k)+-8, 18446744073709551615};
.reqntid 3, 2, 1
st.global.v4.f32 [%rd1+-16], {t$x, t$y, t$z, t$w};
bra L$1;
bra L$2;
mov.b32 r1, 4294967295;
mov.b32 r0, 5;
mov.b64 %rd1, -1;
vote.sync.any.pred %p1, !%p0, -1;

elect.sync _|%p1, -1;
ld.global.b32 %r1, [20];
mov.f64 %rd1, 0dBFF0000000000000;
call (%r1), %rd1, (%r2), pr;
mov.u64 %rd1, s+4;"""


def sections(cubin: bytes) -> dict[str, bytes]:
    """Code and data of an ELF file."""
    (at,) = struct.unpack_from("<Q", cubin, 0x28)
    count, names = struct.unpack_from("<HH", cubin, 0x3C)
    headers = [struct.unpack_from("<IIQQQQ", cubin, at + 64 * i) for i in range(count)]
    found = {}
    for name_at, kind, _, _, offset, size in headers:
        start = headers[names][4] + name_at
        name = cubin[start : cubin.index(b"\0", start)].decode()
        if name.startswith((".text", ".nv.global", ".nv.constant", ".nv.shared")):
            found[name] = b"" if kind == 8 else cubin[offset : offset + size]
    return found


def without_debug(ptx: str) -> str:
    ptx = re.sub(r"(?m)^\s*\.(loc|file)\s.*$", "", ptx)
    return re.sub(r"(?s)\.section.*", "", ptx)


def assemble(ptx: str, target: str, folder: Path) -> dict[str, bytes]:
    source, cubin = folder / "a.ptx", folder / "a.cubin"
    source.write_text(ptx)
    ptxas = Path(build.nvcc()).resolve().parent / "ptxas"
    subprocess.run((ptxas, "-O0", f"-arch=sm_{target}", source, "-o", cubin), check=True)
    return sections(cubin.read_bytes())


@pytest.mark.parametrize("ptx", [SYNTAX, FULL, BODY + "ret; }"])
def test_syntax(ptx: str) -> None:
    printed = simulator().parse(ptx)
    assert simulator().parse(printed) == printed
    assert simulator().forms(printed) == simulator().forms(ptx)


def test_meaning() -> None:
    """Scopes, literals, vectors and initial values are resolved."""
    printed = {line.strip() for line in simulator().parse(SYNTAX).splitlines()}
    assert set(PRINTED.splitlines()) <= printed


def test_kernels() -> None:
    for name, ptx in texts():
        printed = simulator().parse(ptx)
        assert simulator().parse(printed) == printed, name


def test_machine_code(tmp_path: Path) -> None:
    (ptx,) = own("checkers")
    before = assemble(without_debug(ptx), "80", tmp_path)
    assert any(before.values())
    assert assemble(without_debug(simulator().parse(ptx)), "80", tmp_path) == before
