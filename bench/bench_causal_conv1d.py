# SPDX-License-Identifier: Apache-2.0
"""Prefill through the depthwise convolution of x, B and C, bound by copying its input."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Case, nbytes
from warpweave import ops

MODELS = (("M", 4096), ("Nano-30B", 6144), ("Super", 10240))  # channels: H*P + 2*G*N
T = 2048
LAYOUTS = ("channel-last", "channel-first")  # last: as in_proj leaves its columns


def conv_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    W = weight.shape[1]
    y = F.conv1d(x, weight[:, None], bias, padding=W - 1, groups=x.shape[1])
    return F.silu(y[..., : x.shape[2]])


def case(model: str, C: int, layout: str, dtype: torch.dtype) -> Case:
    def make() -> tuple[Any, ...]:
        sizes = (1, T, C) if layout == "channel-last" else (1, C, T)
        x = torch.randn(*sizes).to(dtype)
        x = x.transpose(1, 2) if layout == "channel-last" else x
        return x, torch.randn(C, 4).to(dtype), torch.randn(C).to(dtype)

    operands = make()
    return Case(
        f"{model} (1, {C}, {T}) {layout}", dtype, make,
        lambda x, w, b: ops.causal_conv1d(x, w, b, activation="silu"),
        "F.conv1d, F.silu", conv_silu, bytes=nbytes(*operands, operands[0]),
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for model, C in MODELS:
        for layout in LAYOUTS:
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                yield case(model, C, layout, dtype)
