# SPDX-License-Identifier: Apache-2.0
"""A product with 4-bit weights."""

import torch
from torch import Tensor

from ..quantized import NVFP4Tensor
from ._args import check_last
from ._quantized import matmul


def nvfp4_matmul(
    a: Tensor | NVFP4Tensor, b: NVFP4Tensor, *, out_dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """out[m,n] = s_a[m] s_b[n] sum_k a[m,k] b[n,k], with a and b less their fp32 multipliers s.

    a (..., K) of any float dtype, or an NVFP4Tensor (M, K); b (N, K). float64 if a or out_dtype is,
    else fp32; rounded once. Returns (..., N) in out_dtype. Raises ValueError naming the argument.
    """
    if len(b.shape) != 2:
        raise ValueError(f"b has shape {tuple(b.shape)}, supported is (N, K)")
    check_last("a", a, b.shape[-1])
    if isinstance(a, NVFP4Tensor):
        return matmul(a, b, out_dtype)
    out = matmul(a.reshape(a.shape[:-1].numel(), a.shape[-1]), b, out_dtype)
    return out.view(*a.shape[:-1], b.shape[0])
