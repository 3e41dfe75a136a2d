# SPDX-License-Identifier: Apache-2.0
"""Decoding: one token a sequence, and four as speculation verifies them."""

from collections.abc import Iterator
from typing import Any

import torch

from harness import Case, nbytes
from warpweave import ops, reference

# model, H, P, G, N
MODELS = (
    ("M", 32, 64, 8, 128),
    ("Nano-30B", 64, 64, 8, 128),
    ("Super", 128, 64, 8, 128),
    ("Nano-9B-v2", 128, 80, 8, 128),
)


def case(
    model: str, B: int, T: int, sizes: tuple[int, ...], state: torch.dtype,
    rounding: str = "nearest",
) -> Case:  # fmt: skip
    H, P, G, N = sizes
    time = () if T == 1 else (T,)

    def make() -> tuple[Any, ...]:
        bf16 = lambda *shape: torch.randn(*shape).bfloat16()  # noqa: E731
        token = (bf16(B, *time, H, P), bf16(B, *time, H))
        groups = (bf16(B, *time, G, N), bf16(B, *time, G, N))
        params = (torch.randn(H), torch.randn(H))
        return (torch.randn(B, H, P, N).to(state), *token, -torch.rand(H), *groups, *params)

    def call(op: Any) -> Any:
        return lambda h, x, dt, A, b, c, D, bias: op(
            h, x, dt, A, b, c, D=D, dt_bias=bias, dt_softplus=True, rounding=rounding
        )

    operands = make()
    moved = nbytes(*operands) + nbytes(operands[0], operands[1])  # the state both ways, and out
    shape = f"{model} ({B}, {T}, {H}, {P}, {G}, {N})"
    shape += " stochastic" * (rounding == "stochastic")
    return Case(shape, state, make, call(ops.ssm_step), "eager torch", call(reference.ssm_step),
                bytes=moved)  # fmt: skip


def cases() -> Iterator[Case]:
    for model, *sizes in MODELS:
        for B in (1, 8):
            for state in (torch.float32, torch.bfloat16):
                yield case(model, B, 1, tuple(sizes), state)
        yield case(model, 1, 4, tuple(sizes), torch.float32)
        for rounding in ("nearest", "stochastic"):
            yield case(model, 8, 1, tuple(sizes), torch.float16, rounding)
