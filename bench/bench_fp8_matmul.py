# SPDX-License-Identifier: Apache-2.0
"""Products with 8-bit weights: decoding is bound by reading them, a prompt by multiply-adds.

The baseline is torch's bf16 product with the weights decoded beforehand, so of twice the bytes.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench_nvfp4_matmul import FEW, SIZES
from harness import Case
from warpweave import ops

E4M3 = torch.float8_e4m3fn


def case(M: int, N: int, K: int, kind: str) -> Case:
    def make() -> tuple[Any, ...]:
        a, b = torch.randn(M, K).bfloat16(), torch.randn(N, K).to(E4M3)
        one = torch.ones(())
        return (
            a.to(E4M3) if kind == "w8a8" else a,
            b,
            one if kind == "w8a8" else None,
            one,
            b.bfloat16(),
        )

    def dense(a: Tensor, b: Tensor, scale_a: Any, scale_b: Tensor, decoded: Tensor) -> Tensor:
        return F.linear(a.bfloat16(), decoded)

    return Case(
        f"{M}x{N}x{K} {kind}", torch.bfloat16, make, lambda *args: ops.fp8_matmul(*args[:4]),
        "torch, bf16 weights", dense, bytes=N * K + 2 * M * (N + K), flops=2 * M * N * K,
        bound="read" if M < FEW else "fma_bf16",
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for N, K in SIZES:
        yield case(1, N, K, "w8a16")
    for M in (4, 8, 512):
        yield case(M, 4096, 4096, "w8a16")
    for M in (1, 512):
        yield case(M, 4096, 4096, "w8a8")
