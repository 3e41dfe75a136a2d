# SPDX-License-Identifier: Apache-2.0
"""A product with 8-bit weights."""

import torch
from torch import Tensor

from ._args import acc_dtype, check_dim, check_last, check_shape
from ._quantized import product


def fp8_matmul(
    a: Tensor, b: Tensor, scale_a: Tensor | None, scale_b: Tensor, *,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:  # fmt: skip
    """out[m,n] = scale_a[m] scale_b[n] sum_k a[m,k] b[n,k].

    b (N, K) float8_e4m3fn with scale_b fp32 () or (N,). a (M, K) float8_e4m3fn with scale_a fp32 ()
    or (M,), or a (..., K) of any float dtype with scale_a None. float64 if a or out_dtype is, else
    fp32; rounded once. Returns (..., N) in out_dtype. Raises ValueError naming the argument.
    """
    check_dim("b", b, (2,), "(N, K)")
    N, K = b.shape
    check_last("a", a, K)
    *lead, _ = a.shape
    if (scale_a is None) == (a.dtype == torch.float8_e4m3fn):
        raise ValueError(f"scale_a is {scale_a}, supported is a tensor if and only if a is float8")
    acc = acc_dtype(a, scale_a, scale_b, torch.empty(0, dtype=out_dtype))
    rows = a.reshape(a.shape[:-1].numel(), K).to(acc)
    of_rows = torch.ones((), dtype=acc) if scale_a is None else scale_a.to(acc)
    for name, scale, n, letters in (("scale_a", of_rows, len(rows), "(M,)"),
                                    ("scale_b", scale_b, N, "(N,)")):  # fmt: skip
        if scale.dim():
            check_shape(name, scale, (n,), letters)
    out = product(rows, of_rows.expand(len(rows)), b.to(acc), scale_b.to(acc))
    return out.to(out_dtype).view(*lead, N)
