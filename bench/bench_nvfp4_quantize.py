# SPDX-License-Identifier: Apache-2.0
"""Weights and activations to NVFP4. A global scale of x itself costs a second reading of x, which
counts as bytes moved. The baseline is torch's own cast to 8 bits, which has no scales to find."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from harness import Case
from warpweave import ops

N, K = 4096, 4096
GIVEN = "1d, given scale"
MODES: dict[str, dict[str, Any]] = {
    GIVEN: {},
    "1d": {},
    "1d, scale a row": {"scale": "row"},
    "2d": {"block": "2d"},
    "1d, stochastic": {"rounding": "stochastic"},
    "1d, hadamard": {"hadamard": True},
    "1d, 4/6": {"four_over_six": True},
}


def case(name: str, rows: int, dtype: torch.dtype) -> Case:
    readings = 1 if name == GIVEN else 2

    def make() -> tuple[Tensor, Tensor | str | None]:
        x = torch.randn(rows, K).to(dtype)
        return x, x.abs().amax().float() / 2688 if name == GIVEN else MODES[name].get("scale")

    options = {k: v for k, v in MODES[name].items() if k != "scale"}
    return Case(
        f"{name} ({rows}, {K})", dtype, make,
        lambda x, scale: ops.nvfp4_quantize(x, global_scale=scale, **options),
        "cast to float8_e4m3fn", lambda x, scale: x.to(torch.float8_e4m3fn),
        bytes=readings * rows * K * dtype.itemsize + rows * K // 2 + rows * K // 16,
        warm=rows == 1,
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for name in MODES:
        yield case(name, N, torch.bfloat16)
    for dtype in (torch.float32, torch.float16):
        yield case("1d", N, dtype)
    yield case("1d, scale a row", 64, torch.bfloat16)
    yield case(GIVEN, 1, torch.bfloat16)
