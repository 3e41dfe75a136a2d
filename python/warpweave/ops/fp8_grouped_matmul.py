# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ._quantized import is_float32
from ._registry import refuse_grad
from .grouped_gemm import ACTIVATIONS

_op = torch.ops.warpweave.fp8_grouped_matmul.default


def fp8_grouped_matmul(
    a: Tensor, b: Tensor, scale_a: Tensor | None, scale_b: Tensor, offsets: Tensor, *,
    activation: str | None = None, out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:  # fmt: skip
    """Rows sorted by expert times that expert's 8-bit matrix: grouped_gemm with the operands of
    fp8_matmul.

    Args:
        a: (M, K) float8_e4m3fn, or float32 or bfloat16 (weight-only); sorted by expert.
        b: (E, N, K) float8_e4m3fn.
        scale_a: float32 decode multiplier () or (M,) of a float8 a; None for the others.
        scale_b: float32 decode multiplier (), (E,) or (E, N).
        offsets: (E,) int32 or int64, the end of each group, as in grouped_gemm.
        activation: None or "relu2", max(v, 0)² of the scaled fp32 accumulator.
        out_dtype: torch.bfloat16 or torch.float32.

    Returns:
        (M, N) in out_dtype; fp32 accumulation, one rounding; zeros past the last group.

    Errors: ValueError naming the argument (on CPU also for offsets that decrease or pass M);
    NotImplementedError if a requires grad.
    """
    op = "fp8_grouped_matmul"
    if activation not in ACTIVATIONS:
        raise ValueError(f"{op}: 'activation' is {activation!r}; supported: None, 'relu2'")
    refuse_grad(op, a)
    float32 = is_float32(op, out_dtype)
    out: Tensor = _op(a, b, scale_a, scale_b, offsets, ACTIVATIONS[activation], float32)
    return out


@torch.library.register_fake("warpweave::fp8_grouped_matmul")
def _fake(a, b, scale_a, scale_b, offsets, relu2, float32):  # type: ignore[no-untyped-def]
    dtype = torch.float32 if float32 else torch.bfloat16
    return a.new_empty((a.shape[0], b.shape[1]), dtype=dtype)
