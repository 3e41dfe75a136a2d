# SPDX-License-Identifier: Apache-2.0
"""Faults planted into the PTX of the CUDA kernels are caught when the op runs on shapes of its own
tests: by reports of the checkers or by the op's own check of results. Prints by which."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import faults
import faults_products
import faults_scan
import pytest
from planted import Fault, planted, without
from test_budgets import DEVICES, kernels

import targets
from ptxsim.driver import simulator
from ptxsim.tests.oracles.mutations import Mutation
from warpweave import _native, ops

ARCHS = {device: arch for arch, device in DEVICES.items()}
MOST = 5_000_000  # warp instructions of a launch: for loops that a fault keeps from ending

TABLES = (faults, faults_scan, faults_products)
PROBES = {name: probe for table in TABLES for name, probe in table.PROBES.items()}
FAULTS: dict[str, list[Fault | Mutation]] = {
    probe: [Fault(source, *row) for source, rows in places.items() for row in rows]
    for table in TABLES
    for probe, places in table.TABLE.items()
}
for name, mutations in faults_products.CUTLASS.items():
    FAULTS.setdefault(name, []).extend(mutations)

pytestmark = pytest.mark.skipif(
    bool(targets.missing("sim:sm_80")), reason=targets.missing("sim:sm_80") or "never"
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread: None) -> None:
    """The simulator's own threads are enough."""


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    rows: list[str] = []
    yield rows
    print("\n" + "\n".join(rows))


def outcome(probe: str, modules: dict[str, str], **options: int) -> str:
    """The kinds of the reports, or else "wrong result"; empty if the probe passes. `modules`: PTX
    in place of what holds a kernel."""
    op, device, check, check_races = PROBES[probe]
    sim = simulator()
    options = {"check_races": check_races, "max_reports": 1000, "max_instructions": MOST} | options
    sim.reset(device, **options)
    sim.serve(_native)
    for symbol, ptx in modules.items():
        sim.replace_ptx(symbol, ptx)
    wrong = ""
    try:
        check(getattr(ops, op))
    except AssertionError:
        wrong = "wrong result"
    except (RuntimeError, ValueError) as error:  # the launch failed
        wrong = "" if sim.reports() else f"broken: {error}"
    finally:
        _native.simulate_cuda("")
    return ", ".join(sorted({report["kind"] for report in sim.reports()})) or wrong


@cache
def modules_of(probe: str) -> dict[str, str]:
    """PTX of what the probe launches and nothing else, by the symbol of a kernel in it."""
    device = PROBES[probe].device
    known = kernels(ARCHS[device])
    assert not outcome(probe, {}, check_races=0), f"{probe} fails without a fault"
    launched = {launch["symbol"] for launch in simulator().counters()}
    by_module: dict[str, set[str]] = {}
    for symbol in sorted(launched):
        by_module.setdefault(known[symbol].text, set()).add(symbol)
    return {min(s): without(text, frozenset(s)) for text, s in by_module.items()}


@pytest.mark.parametrize("probe", PROBES)
def test_without_a_fault_all_is_well(probe: str) -> None:
    assert not outcome(probe, modules_of(probe))


@pytest.mark.parametrize(
    ("probe", "fault"),
    [pytest.param(p, f, id=f"{p}: {f.name}") for p, faults in FAULTS.items() for f in faults],
)
def test_is_caught(probe: str, fault: Fault | Mutation, table: list[str]) -> None:
    modules = modules_of(probe)
    plant = fault.planted if isinstance(fault, Mutation) else partial(planted, fault=fault)
    faulty = {s: plant(ptx) for s, ptx in modules.items()}
    assert faulty != modules, f"no place for: {fault.name}"
    caught = outcome(probe, faulty)
    table.append(f"{probe:26}{fault.name:52}{caught or 'NOTHING'}")
    assert caught, "the op's own tests do not see it"
    assert not caught.startswith("broken"), caught


def test_a_place_that_is_not_there_is_refused() -> None:
    probe, (fault, *_) = next(iter(FAULTS.items()))
    (ptx, *_) = modules_of(probe).values()
    with pytest.raises(ValueError, match="has 0 places that read"):
        planted(ptx, fault._replace(at="no such line"))
    assert planted(ptx, fault._replace(find="no such instruction")) == ptx
