# SPDX-License-Identifier: Apache-2.0
"""Builds the simulator before its tests, or says why they are skipped."""

import pytest

from ptxsim import build


@pytest.fixture(scope="session", autouse=True)
def _simulator() -> None:
    try:
        build.simulator()
    except build.Missing as reason:
        pytest.skip(f"the simulator cannot be built: {reason}")
