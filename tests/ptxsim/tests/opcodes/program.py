# SPDX-License-Identifier: Apache-2.0
"""Small kernels whose threads each write some words, for what is more than one instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ptxsim.driver import Dims, aligned, simulator
from ptxsim.tests.opcodes.numbers import Array
from ptxsim.tests.opcodes.table import DECLARED, DEVICE, HEAD

SEEDS = range(6)


@dataclass(frozen=True)
class Program:
    """`body` starts with its thread's number in tid and in the grid in all, its block's rank in the
    cluster in rank, and the address of its words in mine; it stores those."""

    body: str
    want: Sequence[object] | Array  # words of all threads, thread after thread
    block: int = 32
    grid: int = 1
    cluster: Dims = 1
    inputs: Array = field(default_factory=lambda: np.zeros(1, np.uint32))  # at `in`
    declarations: str = ""  # of the module
    words: int = 1

    def ptx(self) -> str:
        return f"""{HEAD}{self.declarations}
.visible .entry run(.param .u64 to, .param .u64 from) {{
{DECLARED} .reg .b64 out, in, mine; .reg .b32 tid, all, rank;
.shared .align 128 .b8 tile[8192];
ld.param.u64 out, [to]; ld.param.u64 in, [from];
mov.u32 tid, %tid.x; mov.u32 all, %ctaid.x; mov.u32 rank, %ntid.x; mad.lo.u32 all, all, rank, tid;
mov.u32 rank, %cluster_ctarank; mad.wide.u32 mine, all, {4 * self.words}, out;
{self.body}
ret; }}
"""

    def run(self, seed: int) -> Array:
        sim = simulator()
        out = aligned(np.zeros(self.block * self.grid * self.words, np.uint32))
        inputs = aligned(self.inputs)
        sim.reset(DEVICE, seed=seed)
        with sim.exposed({}, {"out": out, "in": inputs}):
            module = sim.load(self.ptx())
            parameters = np.array([out.ctypes.data, inputs.ctypes.data], np.uint64).tobytes()
            sim.launch(module, "run", parameters, self.grid, self.block, self.cluster)
            assert not [r["text"] for r in sim.reports()]
        return out

    def check(self) -> None:
        wanted = np.array(self.want).astype(np.uint32)
        for seed in SEEDS:
            np.testing.assert_array_equal(self.run(seed), wanted, f"seed {seed}")
