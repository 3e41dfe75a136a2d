# SPDX-License-Identifier: Apache-2.0
"""Prefill through the scan, against the multiply-adds of its chunked form.

A chunk of Q tokens costs Q*Q*N a group for the lower triangle of C B', and per head Q*Q*P for that
triangle times x, 2*Q*N*P for C times the state and as much for the new state.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch

from harness import Case
from warpweave import ops

HAVE_THEIRS = find_spec("transformers") is not None
# model, H, P, G, N
MODELS = (
    ("M", 32, 64, 8, 128),
    ("Nano-30B", 64, 64, 8, 128),
    ("Super", 128, 64, 8, 128),
)
T, Q = 2048, 128


def their_scan(*args: Any, **kwargs: Any) -> Any:
    from transformers.models.nemotron_h.modeling_nemotron_h import mamba2_chunk_scan

    return mamba2_chunk_scan(*args, **kwargs)


def case(model: str, sizes: tuple[int, ...], dtype: torch.dtype) -> Case:
    H, P, G, N = sizes

    def make() -> tuple[Any, ...]:
        draw = lambda *shape: torch.randn(1, T, *shape).to(dtype)  # noqa: E731
        A = -torch.rand(H) * 16
        return draw(H, P), draw(H), A, draw(G, N), draw(G, N), torch.randn(H), torch.randn(H) - 4

    def call(scan: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, dt, A, B, C, D, bias: scan(
            x, dt, A, B, C, chunk_size=Q, D=D, dt_bias=bias, dt_softplus=True,
            return_final_states=True,
        )  # fmt: skip

    return Case(
        f"{model} (1, {T}, {H}, {P}, {G}, {N})", dtype, make, call(ops.ssd_scan),
        "transformers' torch scan" if HAVE_THEIRS else "transformers is missing",
        call(their_scan) if HAVE_THEIRS else None,
        flops=T * (G * Q * N + H * (Q * P + 4 * N * P)),
        bound="fma_bf16" if dtype == torch.bfloat16 else "fma", tokens=T,
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for model, *sizes in MODELS:
        for dtype in (torch.bfloat16, torch.float32):
            yield case(model, tuple(sizes), dtype)
