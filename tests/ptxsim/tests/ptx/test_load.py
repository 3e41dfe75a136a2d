# SPDX-License-Identifier: Apache-2.0
"""What is loaded is understood to its last modifier, or refused with the opcode and its line."""

from __future__ import annotations

import pytest

from ptxsim.driver import simulator
from ptxsim.tests.ptx.test_refused import BODY, HEAD

UNKNOWN = [  # instruction, what the error says
    ("frobnicate.b32 %r1, %r2;", "unknown instruction 'frobnicate.b32'"),
    ("add.frob.s32 %r1, %r2, %r3;", "'add.frob.s32'"),
    ("add.s32.frob %r1, %r2, %r3;", "'add.s32.frob'"),
    ("add.s128 %r1, %r2, %r3;", "'add.s128'"),
    ("ld.global.L1::frob.u32 %r1, [%rd1];", "'ld.global.L1::frob.u32'"),
    ("cvt.rn.frob.f32 %r1, %r2;", "cvt.rn.frob.f32"),
    ("mma.sync.aligned.m16n8k99.row.col.f32.f16.f16.f32 {%r1}, {%r1}, {%r1}, {%r1};",
     "mma.sync.aligned.m16n8k99"),
    ("add.s32 %r1, %r2;", "'add.s32'"),
    ("add.s64 %rd1, %rd2, %r1;", "64-bit registers, but %r1"),
    ("mov.u32 %r1, %frob;", "'%frob'"),
    ("mov.u32 %r1, %tid.w;", "unknown special register '%tid.w'"),
    (".frob 1;", "unknown directive '.frob'"),
    ("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 "
     "{%r1,%r1,%r1,%r1}, {%r1,%r1,%r1,%r1}, {%r1,%r1,%r1,%r1}, {%r1,%r1,%r1,%r1}, %r1, 0;",
     "sparse matrices are not simulated"),
    ("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 32;",
     "tensor memory, which is not simulated"),
    ("multimem.ld_reduce.relaxed.sys.global.add.u32 %r1, [%rd1];", "one is simulated"),
    ("cp.async.bulk.tensor.3d.shared::cta.global.im2col.mbarrier::complete_tx::bytes "
     "[%r1], [%rd1, {%r1, %r1, %r1}], [%r1], {%r1};", ".im2col, which is not simulated"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "part"), UNKNOWN)
def test_unknown_instruction_is_refused_with_its_line(text: str, part: str) -> None:
    simulator().reset("H100")
    with pytest.raises(RuntimeError) as error:
        simulator().load(f"{BODY}\n\n{text}\nret;\n}}\n")
    assert part in str(error.value)
    assert str(error.value).endswith(" at PTX line 11")


@pytest.mark.parametrize(("arch", "device"), [
    ("sm_90a", "A100"), ("sm_90", "A100"), ("sm_90a", "B200"), ("sm_100a", "H100"),
    ("sm_120a", "B200"), ("sm_100f", "RTXPRO6000"),
])  # fmt: skip
def test_target_of_another_card_is_refused(arch: str, device: str) -> None:
    simulator().reset(device)
    with pytest.raises(RuntimeError, match=f"is compiled for {arch}"):
        simulator().load(HEAD.replace("sm_90a", arch) + ".entry k() { ret; }")
