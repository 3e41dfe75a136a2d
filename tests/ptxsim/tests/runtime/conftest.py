# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from ptxsim.tests.runtime.cuda import Cuda


@pytest.fixture
def cuda() -> Cuda:
    return Cuda("H100")


@pytest.fixture
def ampere() -> Cuda:
    return Cuda("A100")
