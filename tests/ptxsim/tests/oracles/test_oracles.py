# SPDX-License-Identifier: Apache-2.0
"""Unmodified CUTLASS kernels come out exact in every schedule, and only their known faults are
reported."""

from __future__ import annotations

import os

import pytest

from ptxsim.tests.oracles.cases import ORACLES, Oracle

SEEDS = int(os.environ.get("PTXSIM_SEEDS", 8))


@pytest.mark.parametrize("problem", [0, 1])
@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.entry)
def test_exact_without_report(oracle: Oracle, problem: int) -> None:
    for seed in range(SEEDS):
        outcome = oracle.run(problem, seed)
        assert outcome.clean, (seed, outcome)
        assert bool(outcome.known) == bool(oracle.known), seed
