# SPDX-License-Identifier: Apache-2.0
"""Decoding and small batches of experts with 4-bit weights, bound by reading them, and large ones.

The baseline is grouped_gemm of bf16 weights, so of 3.6 times the bytes.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench_grouped_gemm import FEW, MODELS
from bench_nvfp4_matmul import random_nvfp4
from harness import Case
from warpweave import ops
from warpweave.quantized import NVFP4Tensor


def case(model: str, E: int, N: int, K: int, tokens: int) -> Case:
    def make() -> tuple[Any, ...]:
        b = random_nvfp4(E, N, K)
        ends = torch.arange(1, E + 1, dtype=torch.int32) * tokens
        return (
            torch.randn(E * tokens, K, dtype=torch.bfloat16),
            b,
            ends,
            b.dequantize(torch.bfloat16),
        )

    def run(a: Tensor, b: NVFP4Tensor, ends: Tensor, decoded: Tensor) -> Tensor:
        return ops.nvfp4_grouped_matmul(a, b, ends, activation="relu2")

    def dense(a: Tensor, b: NVFP4Tensor, ends: Tensor, decoded: Tensor) -> Tensor:
        return ops.grouped_gemm(a, decoded, ends, activation="relu2")

    return Case(
        f"{model} E={E} N={N} K={K} {tokens}/expert", torch.bfloat16, make, run,
        "grouped_gemm, bf16 weights", dense,
        bytes=E * (N * K * 9 // 16 + 2 * tokens * (N + K)), flops=2 * E * tokens * N * K,
        bound="read" if tokens < FEW else "fma_bf16",
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for model, *sizes in MODELS:
        for tokens in (1, 2, 8, 64, 256):
            yield case(model, *sizes, tokens)
