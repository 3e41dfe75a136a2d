# SPDX-License-Identifier: Apache-2.0
"""Decoding and small batches of experts with 8-bit weights, bound by reading them, and large ones.

The baseline is grouped_gemm of bf16 weights, so of twice the bytes.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench_grouped_gemm import FEW, MODELS
from harness import Case
from warpweave import ops

E4M3 = torch.float8_e4m3fn


def case(model: str, E: int, N: int, K: int, tokens: int, kind: str) -> Case:
    def make() -> tuple[Any, ...]:
        a, b = torch.randn(E * tokens, K).bfloat16(), torch.randn(E, N, K).to(E4M3)
        ends = torch.arange(1, E + 1, dtype=torch.int32) * tokens
        scale = torch.ones(())
        rows = (a.to(E4M3), scale) if kind == "w8a8" else (a, None)
        return rows[0], b, rows[1], scale, ends, a, b.bfloat16()

    def run(a: Tensor, b: Tensor, scale_a: Any, scale_b: Tensor, ends: Tensor, *_: Any) -> Tensor:
        return ops.fp8_grouped_matmul(a, b, scale_a, scale_b, ends, activation="relu2")

    def dense(*operands: Any) -> Tensor:
        *_, ends, a, decoded = operands
        return ops.grouped_gemm(a, decoded, ends, activation="relu2")

    return Case(
        f"{model} E={E} N={N} K={K} {tokens}/expert {kind}", torch.bfloat16, make, run,
        "grouped_gemm, bf16 weights", dense,
        bytes=E * (N * K + 2 * tokens * (N + K)), flops=2 * E * tokens * N * K,
        bound="read" if tokens < FEW else "fma_bf16",
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for model, *sizes in MODELS:
        for tokens in (1, 8, 256):
            yield case(model, *sizes, tokens, "w8a16")
        yield case(model, *sizes, 8, "w8a8")
