# SPDX-License-Identifier: Apache-2.0
"""What reports say: the kernel by its name, who races, and how much more was found."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from ptxsim import build
from ptxsim.driver import aligned, simulator


def run(which: int, seed: int, **options: int) -> tuple[list[dict[str, Any]], list[str]]:
    sim = simulator()
    sim.reset("H100", seed=seed, **options)
    library = ctypes.CDLL(str(build.kernels("reports", "90a")))
    library.run.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    source, result = (aligned(np.zeros(256, np.int32)) for _ in range(2))
    with sim.exposed({"in": source}, {"out": result}):
        library.run(which, source.ctypes.data, result.ctypes.data)
        return sim.reports(), sim.report_texts()


@pytest.mark.parametrize(
    ("which", "who"),
    [
        (0, "the cp.async of warp"),
        (1, "the bulk copy that warp 1 issued"),
        (2, "the wgmma of warpgroup 1"),
    ],
)
def test_asynchronous_work_is_named(which: int, who: str) -> None:
    """Work that is done before a thread collides with it, as in some of the schedules."""
    texts = [text for seed in range(9) for text in run(which, seed)[1]]
    assert any(who in text and "of block (0,0,0) are not ordered" in text for text in texts), texts


def test_names_and_numbers() -> None:
    reports, texts = run(3, 0, max_reports=2)
    assert [r["kernel"] for r in reports] == ["overwritten<7>"] * 3
    assert [(r["kind"], r["repeated"]) for r in reports] == [("race", 2), ("race", 2), ("limit", 0)]
    assert texts[0].startswith("race in overwritten<7>, block (1,0,0), thread (0,0,0), PTX line ")
    assert texts[0].endswith("(and 2 more of this instruction)")
    assert "and 3 more findings at other instructions" in texts[2]
