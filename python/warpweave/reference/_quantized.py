# SPDX-License-Identifier: Apache-2.0
"""Products as the contracts of the quantised ops have them: the scales come after the sum."""

from dataclasses import replace

import torch
from torch import Tensor

from ..quantized import FP8Tensor, Matrix, NVFP4Tensor


def unscaled(t: Matrix, dtype: torch.dtype) -> Tensor:
    """The values (..., N, K) without the fp32 multiplier: codes times block scales, exact."""
    if isinstance(t, NVFP4Tensor):
        return replace(t, global_scale=torch.ones((), device=t.device)).dequantize(dtype)
    return (t.data if isinstance(t, FP8Tensor) else t).to(dtype)


def scales(t: Matrix, dtype: torch.dtype) -> Tensor:
    """The fp32 multiplier of each row, (..., N); 1 for what is not quantised."""
    if isinstance(t, Tensor):
        return t.new_ones((), dtype=dtype).expand(t.shape[:-1])
    scale = (t.global_scale if isinstance(t, NVFP4Tensor) else t.scale).to(dtype)
    rows = t.shape[:-1]
    return scale.reshape(*scale.shape, *[1] * (len(rows) - scale.dim())).expand(rows)


def product(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor) -> Tensor:
    """a (M,K) times the transpose of b (N,K), then times both scales."""
    return (a @ b.mT) * b_scale * a_scale[:, None]


def matmul(a: Matrix, b: Matrix, out_dtype: torch.dtype) -> Tensor:
    """All of `product` in float64 if a or out_dtype is float64, else in float32; one rounding."""
    wide = out_dtype == torch.float64 or (isinstance(a, Tensor) and a.dtype == torch.float64)
    acc = torch.float64 if wide else torch.float32
    parts = (unscaled(a, acc), scales(a, acc), unscaled(b, acc), scales(b, acc))
    return product(*parts).to(out_dtype)
