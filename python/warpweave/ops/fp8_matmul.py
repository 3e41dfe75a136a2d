# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ._quantized import is_float32
from ._registry import refuse_grad

_op = torch.ops.warpweave.fp8_matmul.default


def fp8_matmul(
    a: Tensor, b: Tensor, scale_a: Tensor | None, scale_b: Tensor, *,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:  # fmt: skip
    """a @ b.T with 8-bit weights: out[m,n] = scale_a[m] scale_b[n] Σ_k a[m,k] b[n,k].

    Args:
        a: (M, K) float8_e4m3fn, or (..., K) float32 or bfloat16 (weight-only; the product is in
            that dtype).
        b: (N, K) float8_e4m3fn. Rows of a and b may be strided; a copy is made only if the elements
            of a row are not adjacent.
        scale_a: float32 decode multiplier () or (M,) of a float8 a; None for the others.
        scale_b: float32 decode multiplier () or (N,).
        out_dtype: torch.bfloat16 or torch.float32.

    Returns:
        (..., N) in out_dtype; fp32 accumulation, one rounding. A NaN in b makes its column NaN.

    Errors: ValueError naming the argument; NotImplementedError if a requires grad.
    """
    float32 = is_float32("fp8_matmul", out_dtype)
    refuse_grad("fp8_matmul", a)
    out: Tensor = _op(a, b, scale_a, scale_b, float32)
    return out


@torch.library.register_fake("warpweave::fp8_matmul")
def _fake(a, b, scale_a, scale_b, float32):  # type: ignore[no-untyped-def]
    dtype = torch.float32 if float32 else torch.bfloat16
    return a.new_empty((*a.shape[:-1], b.shape[0]), dtype=dtype)
