# SPDX-License-Identifier: Apache-2.0
"""Layer norms (D = hidden size) and the gated norm behind the scan (D = H*P, per group)."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Case
from warpweave import ops, reference

# model, D of the layer norm, D and group of the gated norm
MODELS = (
    ("M", 1024, 2048, 256),
    ("Nano-30B", 2688, 4096, 512),
    ("Super", 4096, 8192, 1024),
)


def operands(rows: int, D: int, dtype: torch.dtype, count: int) -> tuple[Tensor, ...]:
    return (torch.ones(D, dtype=dtype), *(torch.randn(rows, D).to(dtype) for _ in range(count)))


def case(shape: str, rows: int, D: int, dtype: torch.dtype, form: str, group: int | None) -> Case:
    moved = {"plain": 2, "residual": 4, "gate": 3}[form] * rows * D * dtype.itemsize

    def call(op: Any) -> Any:
        if form == "plain":
            return lambda w, x: op(x, w)
        return lambda w, x, other: op(x, w, **{form: other}, group_size=group)

    plain = form == "plain"
    return Case(
        f"{shape} {form} ({rows}, {D})", dtype,
        lambda: operands(rows, D, dtype, 1 if plain else 2), call(ops.rms_norm),
        "F.rms_norm" if plain else "eager torch",
        (lambda w, x: F.rms_norm(x, (D,), w, 1e-5)) if plain else call(reference.rms_norm),
        bytes=moved, warm=rows == 1,
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for model, hidden, inner, group in MODELS:
        for dtype in (torch.bfloat16, torch.float32):
            yield case(model, 1024, hidden, dtype, "plain", None)
            yield case(model, 1024, hidden, dtype, "residual", None)
            yield case(model, 512, inner, dtype, "gate", group)
        yield case(model, 1, hidden, torch.bfloat16, "plain", None)
        yield case(model, 1, inner, torch.bfloat16, "gate", group)
    yield case("dispatch", 1, 16, torch.bfloat16, "plain", None)
