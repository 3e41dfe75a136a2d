# SPDX-License-Identifier: Apache-2.0
"""The whole expert layer: routed experts, the shared one, and the latent projections of Super.

As in bench_moe_mlp every expert of a case gets tokens, and Super is a slice that fits memory.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench_moe_mlp import FEW, loop, operands
from harness import Case
from warpweave import ops

# model, d, S, latent width or 0, (E, I, width of the experts, top_k)
MODELS = (
    ("M", 1024, 1408, 0, (32, 704, 1024, 6)),
    ("Nano-30B", 2688, 3712, 0, (32, 1856, 2688, 6)),
    ("Super", 4096, 5376, 1024, (64, 2688, 1024, 22)),
)


def plain(x: Tensor, weights: Tensor, indices: Tensor, fc1: Tensor | None, up: Tensor, down: Tensor,
          fc2: Tensor | None, shared_up: Tensor, shared_down: Tensor) -> Tensor:  # fmt: skip
    z = loop(x if fc1 is None else F.linear(x, fc1), up, down, weights, indices)
    shared = F.linear(F.relu(F.linear(x, shared_up)).square(), shared_down)
    return (z if fc2 is None else F.linear(z, fc2)) + shared


def case(model: str, T: int, d: int, S: int, latent: int, sizes: tuple[int, ...]) -> Case:
    E, I, K, top_k = sizes  # noqa: E741
    E = min(E, T * top_k)

    def make() -> tuple[Any, ...]:
        draw = lambda n, k: (torch.randn(n, k) / k**0.5).bfloat16()  # noqa: E731
        x, up, down, weights, indices = operands(T, (E, I, K, top_k), torch.bfloat16)
        fc1, fc2 = (draw(latent, d), draw(d, latent)) if latent else (None, None)
        x = torch.randn(T, d).bfloat16() if latent else x
        return x, weights, indices, fc1, up, down, fc2, draw(S, d), draw(d, S)

    weights, per_token = (n * I * K + d * (latent + S) for n in (E, top_k))
    return Case(
        f"{model} T={T} E={E} d={d} S={S} latent={latent}", torch.bfloat16, make,
        ops.latent_moe, "torch, expert by expert", plain, bytes=4 * (weights + T * d),
        flops=4 * T * per_token, bound="read" if T < FEW else "fma_bf16", tokens=T,
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for model, *sizes in MODELS:
        for T in (1, 4, 8, 512, 2048):
            yield case(model, T, *sizes)
