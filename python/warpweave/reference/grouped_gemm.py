# SPDX-License-Identifier: Apache-2.0
"""One matrix product per group of rows."""

from itertools import pairwise

import torch
from torch import Tensor

from ._args import acc_dtype, check_dim, check_ends, check_shape


def grouped_gemm(a: Tensor, b: Tensor, offsets: Tensor, *, activation: str | None = None) -> Tensor:
    """out[r] = act(b[e] a[r]) for the rows offsets[e-1] <= r < offsets[e].

    a (M,K) sorted by group, b (E,N,K), offsets (E,) end offsets, int32 or int64, nondecreasing and
    at most M. activation None or "relu2" (max(v,0)^2, before rounding). Returns (M,N) in a.dtype;
    rows at and past offsets[-1] are zero. Raises ValueError or TypeError naming the argument.
    """
    check_dim("a", a, (2,), "(M, K)")
    check_dim("b", b, (3,), "(E, N, K)")
    M, K = a.shape
    E, N = b.shape[:2]
    check_shape("b", b, (E, N, K), "(E, N, K)")
    if activation not in (None, "relu2"):
        raise ValueError(f"activation is {activation!r}, supported is None or 'relu2'")
    ends = check_ends(offsets, E, M)
    acc = acc_dtype(a, b)
    parts = [a[lo:hi].to(acc) @ b[e].to(acc).mT for e, (lo, hi) in enumerate(pairwise(ends))]
    v = torch.cat([*parts, a.new_zeros(M - ends[-1], N, dtype=acc)])
    return (v.relu().square() if activation else v).to(a.dtype)
