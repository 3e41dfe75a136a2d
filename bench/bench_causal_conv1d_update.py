# SPDX-License-Identifier: Apache-2.0
"""Decoding: one token a sequence through the depthwise convolution of x, B and C."""

from collections.abc import Iterator
from typing import Any

import torch

from harness import Case, nbytes
from warpweave import ops, reference

MODELS = (("M", 4096), ("Nano-30B", 6144), ("Super", 10240))  # channels: H*P + 2*G*N


def case(model: str, B: int, C: int, S: int, dtype: torch.dtype) -> Case:
    def make() -> tuple[Any, ...]:
        sizes = ((B, C), (B, C, S), (C, 4), (C,))
        return tuple(torch.randn(*size).to(dtype) for size in sizes)

    def call(op: Any) -> Any:
        return lambda x, state, w, b: op(x, state, w, b, activation="silu")

    operands = make()
    moved = nbytes(*operands) + nbytes(*operands[:2])  # the state both ways, and out
    return Case(f"{model} ({B}, {C}) S={S}", dtype, make, call(ops.causal_conv1d_update),
                "eager torch", call(reference.causal_conv1d_update), bytes=moved)  # fmt: skip


def cases() -> Iterator[Case]:
    for model, C in MODELS:
        for B in (1, 8):
            for S in (3, 4):
                yield case(model, B, C, S, torch.bfloat16)
        yield case(model, 8, C, 3, torch.float32)
