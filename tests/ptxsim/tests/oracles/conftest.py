# SPDX-License-Identifier: Apache-2.0
"""Compiles the oracles that the chosen tests need while other tests run."""

from __future__ import annotations

import os

import pytest

from ptxsim import build
from ptxsim.tests.oracles import built
from ptxsim.tests.oracles.cases import Oracle

ALL = "PTXSIM_ALL_ORACLES"
TABLE = pytest.StashKey[list[str]]()


def _oracle(item: pytest.Item) -> Oracle | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("oracle") if callspec else None


def _place(item: pytest.Item) -> int:
    """Oracles come last, for until then they compile, and in the order of that."""
    oracle = _oracle(item)
    return 1 + built.ORDER.index(oracle.library) if oracle else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)
    for item in items:
        oracle = _oracle(item)
        if oracle and oracle.is_extra and not os.environ.get(ALL):
            item.add_marker(pytest.mark.skip(reason=f"takes a minute to compile; {ALL}=1 runs it"))


def pytest_collection_finish(session: pytest.Session) -> None:
    oracles = [_oracle(item) for item in session.items if not item.get_closest_marker("skip")]
    if not session.config.option.collectonly:
        built.start({oracle.library for oracle in oracles if oracle})


def pytest_sessionfinish() -> None:
    built.stop()


@pytest.fixture(autouse=True)
def _compiled(request: pytest.FixtureRequest) -> None:
    oracle = _oracle(request.node)
    if oracle:
        try:
            built.load(oracle.library)
        except (build.Missing, ModuleNotFoundError) as reason:
            pytest.skip(f"the oracle cannot be built: {reason}")


@pytest.fixture
def mutation_table(request: pytest.FixtureRequest) -> list[str]:
    """Lines that are printed at the end."""
    return request.config.stash.setdefault(TABLE, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if table := config.stash.get(TABLE, None):
        terminalreporter.section("faults planted into CUTLASS's kernels: what finds them, by seed")
        terminalreporter.line("\n".join(table))
        terminalreporter.line(
            "R race, P race through the async proxy, H hazard within a warp,\n"
            "A asynchronous operation in flight, U read of memory nothing wrote, O out of bounds,\n"
            "D deadlock, M barrier misuse, w wrong result, - nothing"
        )
