# SPDX-License-Identifier: Apache-2.0
"""Products with 4-bit weights: decoding is bound by reading them, 4.5 bits each, a prompt by
multiply-adds.

The baseline is torch's bf16 product with the weights decoded beforehand, so of 3.6 times the bytes.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Case
from warpweave import ops
from warpweave.quantized import NVFP4Tensor

# N, K: the experts of Nano-30B and two projections
SIZES = ((1856, 2688), (2688, 1856), (4096, 4096), (5120, 8192))
FEW = 64  # rows below which reading the weights is the bound


def random_nvfp4(*shape: int) -> NVFP4Tensor:
    *rows, K = shape
    codes = torch.randint(0, 256, (*rows, K // 2), dtype=torch.uint8)
    scales = torch.rand(*rows, K // 16).add_(1).to(torch.float8_e4m3fn)
    return NVFP4Tensor(codes, scales, torch.tensor(0.4 * K**-0.5))


def case(M: int, N: int, K: int, kind: Any) -> Case:
    def make() -> tuple[Any, ...]:
        b = random_nvfp4(N, K)
        a = random_nvfp4(M, K) if kind == "w4a4" else torch.randn(M, K, dtype=torch.bfloat16)
        return a, b, b.dequantize(torch.bfloat16)

    def dense(a: Any, b: NVFP4Tensor, decoded: Tensor) -> Tensor:
        return F.linear(a if isinstance(a, Tensor) else a.dequantize(torch.bfloat16), decoded)

    return Case(
        f"{M}x{N}x{K} {kind}", torch.bfloat16, make, lambda a, b, _: ops.nvfp4_matmul(a, b),
        "torch, bf16 weights", dense, bytes=N * K * 9 // 16 + 2 * M * (N + K), flops=2 * M * N * K,
        bound="read" if M < FEW else "fma_bf16",
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for N, K in SIZES:
        yield case(1, N, K, "w4a16")
    for M in (2, 4, 8, 32, 512):
        yield case(M, 4096, 4096, "w4a16")
    yield case(512, *SIZES[0], "w4a16")
    for M in (1, 512):
        yield case(M, 4096, 4096, "w4a4")
