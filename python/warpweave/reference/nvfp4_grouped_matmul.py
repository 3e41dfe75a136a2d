# SPDX-License-Identifier: Apache-2.0
"""One product with 4-bit weights per group of rows."""

from itertools import pairwise

import torch
from torch import Tensor

from ..quantized import NVFP4Tensor
from ._args import check_ends, check_last
from ._quantized import product, scales, unscaled


def nvfp4_grouped_matmul(
    a: Tensor | NVFP4Tensor, b: NVFP4Tensor, offsets: Tensor, *, activation: str | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:  # fmt: skip
    """act(nvfp4_matmul(a[r], b[e])) for the rows offsets[e-1] <= r < offsets[e].

    a (M, K) of any float dtype or an NVFP4Tensor, b (E, N, K), offsets (E,) and activation as in
    grouped_gemm. float64 if a or out_dtype is, else fp32; rounded once. Returns (M, N) in
    out_dtype; rows at and past offsets[-1] are zero. ValueError or TypeError names the argument.
    """
    if len(b.shape) != 3:
        raise ValueError(f"b has shape {tuple(b.shape)}, supported is (E, N, K)")
    check_last("a", a, b.shape[-1])
    E, N, _ = b.shape
    ends = check_ends(offsets, E, a.shape[0])
    if activation not in (None, "relu2"):
        raise ValueError(f"activation is {activation!r}, supported is None or 'relu2'")
    wide = out_dtype == torch.float64 or (isinstance(a, Tensor) and a.dtype == torch.float64)
    acc = torch.float64 if wide else torch.float32
    rows, row_scales = unscaled(a, acc), scales(a, acc)
    weights, weight_scales = unscaled(b, acc), scales(b, acc)
    parts = [
        product(rows[lo:hi], row_scales[lo:hi], weights[e], weight_scales[e])
        for e, (lo, hi) in enumerate(pairwise(ends))
    ]
    v = torch.cat([*parts, rows.new_zeros(a.shape[0] - ends[-1], N)])
    return (v.relu().square() if activation else v).to(out_dtype)
