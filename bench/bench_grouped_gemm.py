# SPDX-License-Identifier: Apache-2.0
"""Decoding and small batches, bound by reading the weights, and large ones, by multiply-adds.

The baseline is one dense matmul of the same FLOPs: of all tokens and one expert's weight, or, to
read as many weights where that is the bound, of one expert's tokens and all weights.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Case
from warpweave import ops

# model, E (for Nano and Super a slice of their 128 and 512), N, K of the up projection
MODELS = (("M", 32, 704, 1024), ("Nano-30B", 32, 1856, 2688), ("Super", 32, 2688, 1024))
FEW = 128  # tokens an expert, so FLOPs a byte in bf16, below which reading is the bound


def case(model: str, sizes: tuple[int, ...], tokens: int, dtype: torch.dtype, act: Any) -> Case:
    E, N, K = sizes

    def make() -> tuple[Any, ...]:
        ends = torch.arange(1, E + 1, dtype=torch.int32) * tokens
        a, b = (torch.randn(*shape, dtype=dtype) for shape in ((E * tokens, K), (E, N, K)))
        return a, b, ends

    def dense(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
        c = F.linear(a[:tokens], b.flatten(0, 1)) if tokens < FEW else F.linear(a, b[0])
        return F.relu(c).square() if act else c

    fma = "fma_bf16" if dtype == torch.bfloat16 else "fma"
    return Case(
        f"{model} E={E} N={N} K={K} {tokens}/expert {act or ''}", dtype, make,
        lambda a, b, ends: ops.grouped_gemm(a, b, ends, activation=act),
        "one dense matmul", dense, bytes=E * (N * K + tokens * (N + K)) * dtype.itemsize,
        flops=2 * E * tokens * N * K, bound="read" if tokens < FEW else fma,
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for model, *sizes in MODELS:
        for tokens in (1, 2, 8, 64, 256):
            yield case(model, tuple(sizes), tokens, torch.bfloat16, None)
        for tokens in (8, 64):
            yield case(model, tuple(sizes), tokens, torch.bfloat16, "relu2")
    for tokens in (1, 64):
        yield case("M", MODELS[0][1:], tokens, torch.float32, None)
