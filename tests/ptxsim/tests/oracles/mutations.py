# SPDX-License-Identifier: Apache-2.0
"""Faults planted into the PTX of CUTLASS's kernels, each where nothing else covers it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    name: str
    entry: str  # the oracle
    why_there: str
    edit: Callable[[str], str]  # of one kernel

    def planted(self, ptx: str) -> str:
        """The PTX with the fault in every kernel that has the place."""
        parts = re.split(r"^(?=(?:\.visible )?\.entry)", ptx, flags=re.MULTILINE)
        return "".join(map(self.edit, parts))

    def apply(self, ptx: str) -> str:
        """The same, where there has to be a place."""
        mutated = self.planted(ptx)
        if mutated == ptx:
            raise ValueError(f"{self.entry} has no place for: {self.name}")
        return mutated


def put(pattern: str, replacement: str = "", nth: int | None = 0) -> Callable[[str], str]:
    """Puts `replacement` in the place of the nth match in a kernel, or of all."""

    def edit(kernel: str) -> str:
        matches = list(re.finditer(pattern, kernel))
        if nth is not None:
            matches = matches[nth:][:1]
        for match in reversed(matches):
            kernel = kernel[: match.start()] + match.expand(replacement) + kernel[match.end() :]
        return kernel

    return edit


def loosen_row_bound(kernel: str) -> str:
    first = re.search(r"setp\.lt\.s32 %p\d+, %r\d+, (%r\d+);", kernel)
    return (
        put(rf"setp\.lt\.s32 (.*, {first[1]};)", r"setp.le.s32 \1", None)(kernel)
        if first
        else kernel
    )


TRUE = r"setp.eq.u32 \1, 0, 0;"
WAIT = r"mbarrier\.try_wait\.parity\.shared::cta\.b64 (P1), \[%r\d+\], %r\d+"
EXPECT = r"mbarrier\.arrive\.expect_tx\.shared::cta\.b64 _, (\[%r\d+\]), (%r\d+);"


def before(next_is: str, other: str) -> str:
    """Of what a pattern finds, that which `next_is` comes after without `other` between them."""
    return rf"(?=(?:(?!{other})[\s\S])*?{next_is})"


def expect(change: int) -> Callable[[str], str]:
    more = rf".reg .b32 more; add.s32 more, \2, {change}; "
    return put(EXPECT, more + r"mbarrier.arrive.expect_tx.shared::cta.b64 _, \1, more;")


FULL = WAIT + ", %r\\d+;" + before("ldmatrix", "try_wait")
EMPTY = WAIT + ", %r\\d+;" + before("expect_tx", "try_wait")
FENCE = r"fence\.proxy\.async[^;]*;" + before(r"bulk\.tensor\.\dd\.global", "fence")
# fault, reason for the place, edit
SM80 = (
    ("drop bar.sync", "k loop, behind the wait for copies: the next stage is of all warps",
     put(r"bar\.sync 0;", nth=1)),
    ("drop cp.async.wait_group", "k loop: the next stage may still be on its way",
     put(r"cp\.async\.wait_group 1;", nth=1)),
    ("drop one cp.async", "the first of the first stage: its bytes stay unwritten",
     put(r"cp\.async\.cg[^;]*;")),
    ("row < m becomes row <= m", "all comparisons with the first bound of the loader, m",
     loosen_row_bound),
)  # fmt: skip
SPLIT = (
    ("release becomes relaxed", "semaphore: the next slice adds to what this one stored",
     put(r"st\.global\.release", "st.global.relaxed")),
    ("acquire becomes relaxed", "semaphore: the same, on the side that waits",
     put(r"ld\.global\.acquire", "ld.global.relaxed", nth=None)),
)  # fmt: skip
TMA = (
    ("skip the empty barrier", "producer: the wait before it expects", put(EMPTY, TRUE)),
    ("expect 16 bytes too many", "producer", expect(16)),
    ("expect 16 bytes too few", "producer", expect(-16)),
    ("drop fence.proxy.async", "epilogue, first part: st.shared, then a TMA store", put(FENCE)),
    ("drop the barrier before the store", "epilogue, first part: one warp stores for all",
     put(r"bar\.sync %[^;]*;" + before(r"bulk\.tensor\.\dd\.global", r"bar\.sync"))),
)  # fmt: skip
SM90 = (
    *TMA,
    ("skip the full barrier", "consumer, all of k: those waits have no time limit",
     put(WAIT + ";", TRUE, None)),
    ("drop the arrival at the empty barrier", "consumer, k loop",
     put(r"mbarrier\.arrive\.shared::cluster[^;]*;")),
    ("drop wgmma.wait_group", "k loop: it gives the stage before back",
     put(r"wgmma\.wait_group[^;]*;")),
    ("drop the last wgmma.wait_group", "end of a tile: it gives the last stage back",
     put(r"wgmma\.wait_group\.sync\.aligned 0;")),
    ("drop cp.async.bulk.wait_group", "epilogue: the next c is loaded to where d still is",
     put(r"cp\.async\.bulk\.wait_group\.read 1;", nth=None)),
    ("wrong descriptor swizzle", "64 B instead of 128 B, in all wgmma",
     put(r"(or\.b64 %rd\d+, %rd\d+), 46116862\d+;", r"\1, -9223371761976803328;", None)),
)  # fmt: skip
GROUPED = (
    ("drop the publication of a tensor map", "producer: that of a for the next group",
     put(r"tensormap\.cp_fenceproxy[^;]*;", nth=-2)),
    ("drop tensormap.replace of an extent", "producer: the rows of a in the next group",
     put(r"tensormap\.replace\.tile\.global_dim[^;]*, 1, [^;]*;", nth=-2)),
    ("drop the acquire of a tensor map", "epilogue: that of d",
     put(r"fence\.proxy\.tensormap[^;]*;")),
    ("drop the acquire of a tensor map", "producer: that of a",
     put(r"fence\.proxy\.tensormap[^;]*;", nth=1)),
)  # fmt: skip
SM120 = (
    *TMA,
    ("skip the full barrier", "consumer: the wait before the first ldmatrix", put(FULL, TRUE)),
)
PLACES = {
    "sm80_bf16": SM80,
    "sm80_bf16_split": SPLIT,
    "sm90_pingpong": SM90,
    "sm90_cooperative": SM90,
    "sm90_grouped_bf16": GROUPED,
    "sm120_nvfp4": SM120,
}
MUTATIONS = tuple(
    Mutation(name, entry, why, edit)
    for entry, mutations in PLACES.items()
    for name, why, edit in mutations
)
