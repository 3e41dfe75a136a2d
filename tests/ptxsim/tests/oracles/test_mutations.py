# SPDX-License-Identifier: Apache-2.0
"""Every fault planted into CUTLASS's kernels is caught in every schedule; prints the table."""

from __future__ import annotations

import pytest

from ptxsim.tests.oracles import built
from ptxsim.tests.oracles.cases import NAMED, Oracle
from ptxsim.tests.oracles.mutations import MUTATIONS, Mutation

SEEDS = range(8)
LETTERS = {  # the table's, for a kind of report
    "race": "R",
    "race through the async proxy": "P",
    "hazard within a warp": "H",
    "asynchronous operation in flight": "A",
    "read of memory nothing wrote": "U",
    "out of bounds": "O",
    "deadlock": "D",
    "barrier misuse": "M",
}


@pytest.mark.parametrize(
    ("oracle", "mutation"),
    [(NAMED[mutation.entry], mutation) for mutation in MUTATIONS],
    ids=[f"{mutation.entry}: {mutation.name}" for mutation in MUTATIONS],
)
def test_is_caught(oracle: Oracle, mutation: Mutation, mutation_table: list[str]) -> None:
    ptx = mutation.apply(built.ptx(oracle.library))
    found = []
    for seed in SEEDS:
        outcome = oracle.run(0, seed, ptx)
        kinds = sorted({LETTERS[report["kind"]] for report in outcome.reports})
        found.append("".join(kinds) or ("-" if outcome.clean else "w"))
    mutation_table.append(
        f"{mutation.entry:18}{mutation.name:38}" + "".join(f"{x:5}" for x in found)
    )
    assert "-" not in found
