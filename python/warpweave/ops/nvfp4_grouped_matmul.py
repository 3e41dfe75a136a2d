# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ._quantized import NVFP4Tensor, is_float32, nvfp4_parts, weight_parts
from ._registry import refuse_grad
from .grouped_gemm import ACTIVATIONS

_op = torch.ops.warpweave.nvfp4_grouped_matmul.default


def nvfp4_grouped_matmul(
    a: Tensor | NVFP4Tensor, b: NVFP4Tensor, offsets: Tensor, *, activation: str | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:  # fmt: skip
    """Rows sorted by expert times that expert's 4-bit matrix: grouped_gemm with the operands of
    nvfp4_matmul.

    Args:
        a: (M, K) float32 or bfloat16 (weight-only), or an NVFP4Tensor (M, K); sorted by expert.
        b: NVFP4Tensor (E, N, K), of which global_scale may be (), (E,) or (E, N).
        offsets: (E,) int32 or int64, the end of each group, as in grouped_gemm.
        activation: None or "relu2", max(v, 0)² of the scaled fp32 accumulator.
        out_dtype: torch.bfloat16 or torch.float32.

    Returns:
        (M, N) in out_dtype; fp32 accumulation, one rounding; zeros past the last group.

    Errors: ValueError naming the argument (on CPU also for offsets that decrease or pass M);
    NotImplementedError if a requires grad.
    """
    op = "nvfp4_grouped_matmul"
    if activation not in ACTIVATIONS:
        raise ValueError(f"{op}: 'activation' is {activation!r}; supported: None, 'relu2'")
    parts = weight_parts(a)
    refuse_grad(op, parts[0])
    out: Tensor = _op(
        *parts,
        *nvfp4_parts(op, "b", b),
        offsets,
        ACTIVATIONS[activation],
        is_float32(op, out_dtype),
    )
    return out


@torch.library.register_fake("warpweave::nvfp4_grouped_matmul")
def _fake(  # type: ignore[no-untyped-def]
    a, a_block_scales, a_scale, b, b_block_scales, b_scale, offsets, relu2, float32
):
    dtype = torch.float32 if float32 else torch.bfloat16
    return a.new_empty((a.shape[0], b.shape[1]), dtype=dtype)
