# SPDX-License-Identifier: Apache-2.0
"""The kernels of sm_100a, which the simulator does not run: their text and what ptxas makes of it.

Only of a build that has it: WARPWEAVE_SIMULATION=ON and WARPWEAVE_CUDA_ARCHS with 100-virtual."""

from __future__ import annotations

import re
import subprocess

import pytest

from ptxsim import build

# Both operands and the scales of both by TMA, the scales from there to tensor memory, products of
# them with blocks of 16, sums back, results by TMA; one group's tensor maps after another's.
NEEDS = (
    r"cp\.async\.bulk\.tensor\.2d\.shared::cluster\.global\.mbarrier",
    r"cp\.async\.bulk\.tensor\.4d\.shared::cluster\.global\.mbarrier",
    r"tcgen05\.cp\.cta_group::1\.32x128b\.warpx4",
    r"tcgen05\.mma\.cta_group::1\.kind::mxf4nvf4\.block_scale\.block16",
    r"tcgen05\.ld\.sync\.aligned",
    r"cp\.async\.bulk\.tensor\.2d\.global\.shared::cta",
    r"tensormap\.replace\.tile\.global_address",
)
REGISTERS = {"product": 184, "describe": 40, "order": 40}


@pytest.fixture(scope="module")
def ptx() -> str:
    library = build.warpweave()
    texts = re.findall(rb"\.version [^\0]*", library.read_bytes()) if library.is_file() else []
    for text in texts:
        if b".target sm_100a" in text:
            return text.decode()
    pytest.skip("this build has no PTX of sm_100a")


def kind(symbol: str) -> str:
    return next((k for k in REGISTERS if re.search(rf"\d{k}ENS", symbol)), "product")


def test_every_kernel_is_there_once(ptx: str) -> None:
    symbols = re.findall(r"\.entry (\w+)", ptx)
    assert sorted(map(kind, symbols)) == ["describe", "order", "product", "product"]


def test_the_host_launches_what_was_compiled(ptx: str) -> None:
    """g++ and nvcc may disagree about a type, and so about the name of a kernel."""
    listing = subprocess.run(["nm", build.warpweave()], check=True, capture_output=True, text=True)
    host = {
        line.split()[-1].replace("_ZN7cutlassL", "_ZN7cutlass")
        for line in listing.stdout.splitlines()
    }
    products = {s for s in re.findall(r"\.entry (\w+)", ptx) if kind(s) == "product"}
    assert products <= host


def test_what_ptxas_gives_them(ptx: str) -> None:
    for symbol, found in build.resources(ptx, "sm_100a").items():
        print(f"{kind(symbol):10}{found}")
        assert (found.spilled, found.stack) == (0, 0), symbol
        assert found.registers <= REGISTERS[kind(symbol)], symbol


def test_instructions_are_there(ptx: str) -> None:
    for body in re.split(r"\.entry\s+", ptx)[1:]:
        symbol = body.partition("(")[0]
        if kind(symbol) == "product":
            missing = [pattern for pattern in NEEDS if not re.search(pattern, body)]
            assert not missing, symbol
