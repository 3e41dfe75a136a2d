# SPDX-License-Identifier: Apache-2.0
"""Fixtures of every test. The compiled module is loaded only by tests that ask for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings

# The gate draws the same examples every time; `pytest --hypothesis-profile=explore` draws new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("repeatable")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Hash of the test's id: the same data in any order and on any number of workers."""
    return int.from_bytes(hashlib.sha256(request.node.nodeid.encode()).digest()[:4], "little")


@pytest.fixture(autouse=True)
def _seeded(seed: int) -> None:
    torch.manual_seed(seed)


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" in metafunc.fixturenames:
        import targets

        metafunc.parametrize("target", targets.parameters(metafunc.module.OP), indirect=True)
    if "cpu_isa" in metafunc.fixturenames:
        from warpweave import _native

        metafunc.parametrize("cpu_isa", _native.cpu_isas(), indirect=True)


@pytest.fixture
def cpu_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once for each instruction set of this machine."""
    import targets

    with targets.use(f"cpu:{request.param}"):
        yield request.param


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once for each target of the module's OP."""
    import targets

    with targets.use(request.param):
        yield request.param


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts torch's number of threads back after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tests on tiny tensors, which threads that wait for each other only slow down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
