# SPDX-License-Identifier: Apache-2.0
"""Routed experts: a batch of prompts, bound by multiply-adds, and decoding, bound by reading.

Every expert of a case gets tokens, so that `bytes` is what has to be read: a decode case holds only
the experts that its tokens choose. E is below that of Nano and Super to fit memory.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench_nvfp4_matmul import random_nvfp4
from harness import Case
from warpweave import ops
from warpweave.quantized import FP8Tensor

# model, E, I, K, top_k
MODELS = (
    ("M", 32, 704, 1024, 6),
    ("Nano-30B", 32, 1856, 2688, 6),
    ("Super", 64, 2688, 1024, 22),
)
FEW = 16  # tokens of a call below which reading the weights is the bound


def loop(x: Tensor, up: Tensor, down: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """The experts one after the other in plain torch."""
    out = x.new_zeros(x.shape, dtype=torch.float32)
    for e in range(up.shape[0]):
        rows, slots = torch.where(indices == e)
        if len(rows):
            y = F.linear(F.relu(F.linear(x[rows], up[e])).square(), down[e])
            out.index_add_(0, rows, y * weights[rows, slots, None])
    return out.to(x.dtype)


def operands(T: int, sizes: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    E, I, K, top_k = sizes  # noqa: E741
    # Token after token takes the next top_k experts of one order: distinct, and evenly used.
    indices = torch.randperm(E)[torch.arange(T * top_k) % E].view(T, top_k).int()
    x, up, down = (torch.randn(*shape, dtype=dtype) for shape in ((T, K), (E, I, K), (E, K, I)))
    return x, up.div_(K**0.5), down.div_(I**0.5), torch.rand(T, top_k), indices


def case(model: str, T: int, sizes: tuple[int, ...], dtype: torch.dtype) -> Case:
    E, I, K, top_k = sizes  # noqa: E741
    E = min(E, T * top_k)
    fma = "fma_bf16" if dtype == torch.bfloat16 else "fma"
    return Case(
        f"{model} T={T} E={E} I={I} K={K} top_k={top_k}", dtype,
        lambda: operands(T, (E, I, K, top_k), dtype), ops.moe_mlp, "torch, expert by expert", loop,
        bytes=2 * K * (E * I + T) * dtype.itemsize, flops=4 * T * top_k * I * K,
        bound="read" if T < FEW else fma, tokens=T,
    )  # fmt: skip


def quantised(model: str, T: int, sizes: tuple[int, ...], kind: str) -> Case:
    """The same with experts as the released checkpoints have them, against bf16 ones."""
    E, I, K, top_k = sizes  # noqa: E741
    E = min(E, T * top_k)
    bits = 4.5 if kind == "nvfp4" else 8

    def make() -> tuple[Any, ...]:
        x, up, down, *routing = operands(T, (E, I, K, top_k), torch.bfloat16)
        if kind == "nvfp4":
            return x, random_nvfp4(E, I, K), random_nvfp4(E, K, I), *routing, up, down
        return (
            x,
            *(FP8Tensor(w.to(torch.float8_e4m3fn), torch.ones(())) for w in (up, down)),
            *routing,
            up,
            down,
        )

    return Case(
        f"{model} T={T} E={E} I={I} K={K} top_k={top_k} {kind}", torch.bfloat16, make,
        lambda *args: ops.moe_mlp(*args[:5]), "moe_mlp, bf16 experts",
        lambda x, _up, _down, w, indices, up, down: ops.moe_mlp(x, up, down, w, indices),
        bytes=int(2 * K * E * I * bits / 8) + 4 * K * T, flops=4 * T * top_k * I * K,
        bound="read" if T < 8 * FEW else "fma_bf16", tokens=T,
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for kind in ("nvfp4", "fp8"):
        for model, *sizes in (MODELS[0], ("Nano-30B", 128, *MODELS[1][2:])):
            for T in (1, 4, 64):
                if kind == "nvfp4" or model == "M":
                    yield quantised(model, T, tuple(sizes), kind)
    for model, *sizes in MODELS:
        for T in (1, 4, 8, 512, 2048):
            yield case(model, T, tuple(sizes), torch.bfloat16)
    yield case("M", 512, MODELS[0][1:], torch.float32)
