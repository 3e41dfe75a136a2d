# SPDX-License-Identifier: Apache-2.0
"""A product with 8-bit weights."""

import torch
from torch import Tensor

from ..quantized import FP8Tensor
from ._args import check_last
from ._quantized import matmul


def fp8_matmul(
    a: Tensor, b: Tensor, scale_a: Tensor | None, scale_b: Tensor, *,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:  # fmt: skip
    """out[m,n] = scale_a[m] scale_b[n] sum_k a[m,k] b[n,k].

    b (N, K) float8_e4m3fn with scale_b fp32 () or (N,). a (M, K) float8_e4m3fn with scale_a fp32 ()
    or (M,), or a (..., K) of any float dtype with scale_a None. float64 if a or out_dtype is, else
    fp32; rounded once. Returns (..., N) in out_dtype. Raises ValueError naming the argument.
    """
    weight = FP8Tensor(b, scale_b)
    if len(b.shape) != 2:
        raise ValueError(f"b has shape {tuple(b.shape)}, supported is (N, K)")
    check_last("a", a, b.shape[-1])
    if scale_a is not None:
        return matmul(FP8Tensor(a, scale_a), weight, out_dtype)
    if a.dtype == torch.float8_e4m3fn:
        raise ValueError("scale_a is None, supported is a tensor when a is float8_e4m3fn")
    out = matmul(a.reshape(-1, a.shape[-1]), weight, out_dtype)
    return out.view(*a.shape[:-1], b.shape[0])
