# SPDX-License-Identifier: Apache-2.0
"""Matrices of any format as the native ops take them: tensors one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantized import FP8Tensor, Matrix, NVFP4Tensor

__all__ = ["NVFP4Tensor", "is_float32", "nvfp4_parts", "weight_parts"]

Parts = tuple[Tensor, Tensor | None, Tensor | None]  # data, block scales, scale


def weight_parts(t: Matrix) -> Parts:
    if isinstance(t, NVFP4Tensor):
        return t.codes, t.block_scales, t.global_scale
    return (t.data, None, t.scale) if isinstance(t, FP8Tensor) else (t, None, None)


def nvfp4_parts(op: str, name: str, t: NVFP4Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ValueError if `t` is anything but an NVFP4Tensor."""
    if not isinstance(t, NVFP4Tensor):
        raise ValueError(f"{op}: '{name}' is {type(t).__name__}; supported: NVFP4Tensor")
    return t.codes, t.block_scales, t.global_scale


def is_float32(op: str, out_dtype: torch.dtype) -> bool:
    if out_dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"{op}: 'out_dtype' is {out_dtype}; supported: float32, bfloat16")
    return out_dtype == torch.float32
