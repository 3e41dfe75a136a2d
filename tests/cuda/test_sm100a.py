# SPDX-License-Identifier: Apache-2.0
"""The kernels of sm_100a, which the simulator does not run: their text and what ptxas makes of it.

Only of a build that has it: WARPWEAVE_SIMULATION=ON and WARPWEAVE_CUDA_ARCHS with 100-virtual."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable

import pytest
from test_budgets import Row

import targets
from ptxsim import build
from ptxsim.driver import simulator

PRODUCT = "sm_100a, nvfp4 x nvfp4, 128 x 256"
REGISTERS = {
    PRODUCT: 128,
    f"{PRODUCT}, to float32": 184,
    "sm_100a, describe groups": 40,
    "sm_100a, order scales": 40,
}
# Both operands and the scales of both by TMA, the scales from there to tensor memory, products of
# them with blocks of 16, sums back, results by TMA; one group's tensor maps after another's.
NEEDS = (
    r"cp\.async\.bulk\.tensor\.2d\.shared::cluster\.global\.\S*mbarrier",
    r"cp\.async\.bulk\.tensor\.4d\.shared::cluster\.global\.\S*mbarrier",
    r"tcgen05\.cp\.\S*32x128b\.warpx4",
    r"tcgen05\.mma\.cta_group::1\.kind::mxf4nvf4\.block_scale\.block16",
    r"tcgen05\.ld\.sync\.aligned",
    r"cp\.async\.bulk\.tensor\.2d\.global\.shared::cta",
    r"tensormap\.replace\.tile\.global_address",
)


@pytest.fixture(scope="module")
def texts() -> dict[str, tuple[str, str]]:
    """Symbol and PTX by variant."""
    if missing := targets.missing("sim:sm_80"):
        pytest.skip(missing)
    ptx: Callable[[bytes], bytes] = simulator().c.ptxsim_ptx
    with targets.simulated("B200"):
        library = ctypes.CDLL(str(build.warpweave()))
        rows = (Row * library.ww_kernels(None, 0))()
        library.ww_kernels(rows, len(rows))
        found = {
            r.variant.decode(): (r.symbol.decode(), ptx(r.symbol).decode())
            for r in rows
            if r.arch and r.variant.startswith(b"sm_100a")
        }
    if not found:
        pytest.skip("this build has no PTX of sm_100a")
    return found


def test_every_kernel_is_there(texts: dict[str, tuple[str, str]]) -> None:
    """Under the name by which the host launches it, too."""
    assert set(texts) == set(REGISTERS)
    for symbol, text in texts.values():
        assert f".entry {symbol}(" in text
        assert ".target sm_100a" in text


def test_what_ptxas_gives_them(texts: dict[str, tuple[str, str]]) -> None:
    for variant, (symbol, text) in texts.items():
        found = build.resources(text, "sm_100a")[symbol]
        print(f"{variant:40} {found}")
        assert (found.spilled, found.stack) == (0, 0), variant
        assert found.registers <= REGISTERS[variant], variant


def test_instructions_are_there(texts: dict[str, tuple[str, str]]) -> None:
    for variant in (PRODUCT, f"{PRODUCT}, to float32"):
        symbol, text = texts[variant]
        body = re.split(r"\.entry\s+", text.partition(f".entry {symbol}(")[2])[0]
        missing = [pattern for pattern in NEEDS if not re.search(pattern, body)]
        assert not missing, variant
