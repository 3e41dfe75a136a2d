# SPDX-License-Identifier: Apache-2.0
"""The router: bound by reading its weight for few tokens, by multiply-adds for many."""

from collections.abc import Iterator
from typing import Any

import torch

from harness import Case, nbytes
from warpweave import ops, reference

# model, d, E, top_k
MODELS = (("M", 1024, 32, 6), ("Nano-30B", 2688, 128, 6), ("Super", 4096, 512, 22))


def case(model: str, T: int, d: int, E: int, top_k: int, weight_dtype: torch.dtype) -> Case:
    def make() -> tuple[Any, ...]:
        return torch.randn(T, d).bfloat16(), torch.randn(E, d).to(weight_dtype), torch.randn(E)

    def call(op: Any) -> Any:
        return lambda x, w, bias: op(x, w, bias, top_k=top_k, scale=2.5)

    return Case(
        f"{model} ({T}, {d}) E={E} top_k={top_k}", weight_dtype, make, call(ops.moe_route),
        "eager torch in fp32", call(reference.moe_route), bytes=nbytes(*make()),
        flops=2 * T * d * E, bound="read" if T < 16 else "fma",
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for model, *sizes in MODELS:
        for weight_dtype in (torch.bfloat16, torch.float32):
            for T in (1, 8, 1024):
                yield case(model, T, *sizes, weight_dtype)
