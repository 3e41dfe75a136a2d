# SPDX-License-Identifier: Apache-2.0
"""One product with 8-bit weights per group of rows."""

from itertools import pairwise

import torch
from torch import Tensor

from ._args import check_dim, check_ends, check_last, check_shape
from .fp8_matmul import fp8_matmul


def fp8_grouped_matmul(
    a: Tensor, b: Tensor, scale_a: Tensor | None, scale_b: Tensor, offsets: Tensor, *,
    activation: str | None = None, out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:  # fmt: skip
    """act(fp8_matmul(a[r], b[e])) for the rows offsets[e-1] <= r < offsets[e].

    a (M, K), b (E, N, K), scale_a () or (M,) or None, scale_b (), (E,) or (E, N), offsets (E,) and
    activation as in grouped_gemm. float64 if a or out_dtype is, else fp32; rounded once. Returns
    (M, N) in out_dtype; rows at and past offsets[-1] are zero. ValueError or TypeError names the
    argument.
    """
    check_dim("b", b, (3,), "(E, N, K)")
    E, N, K = b.shape
    check_last("a", a, K)
    M = a.shape[0]
    ends = check_ends(offsets, E, M)
    if activation not in (None, "relu2"):
        raise ValueError(f"activation is {activation!r}, supported is None or 'relu2'")
    for name, scale, sizes in (("scale_a", scale_a, (M,)), ("scale_b", scale_b, (E, N))):
        if scale is not None:
            check_shape(name, scale, sizes[: scale.dim()], str(sizes[: scale.dim()]))
    wide = torch.float64 if torch.float64 in (a.dtype, out_dtype) else torch.float32
    of_rows = None if scale_a is None else scale_a.expand(M)
    of_experts = scale_b if scale_b.dim() else scale_b.expand(E)
    parts = [
        fp8_matmul(a[lo:hi], b[e], None if of_rows is None else of_rows[lo:hi], of_experts[e],
                   out_dtype=wide)
        for e, (lo, hi) in enumerate(pairwise(ends))
    ]  # fmt: skip
    v = torch.cat([*parts, b.new_zeros(M - ends[-1], N, dtype=wide)])
    return (v.relu().square() if activation else v).to(out_dtype)
