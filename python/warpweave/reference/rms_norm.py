# SPDX-License-Identifier: Apache-2.0
"""Root mean square normalisation: plain, with a residual, or gated, over groups."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._args import acc_dtype, check_shape


def rms_norm(
    x: Tensor, weight: Tensor, *, eps: float = 1e-5, residual: Tensor | None = None,
    gate: Tensor | None = None, group_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """out = v / sqrt(mean(v^2) + eps) * weight, the mean over groups of group_size (default D).

    x, residual, gate (...,D); weight (D,) in x.dtype or fp32. v is x; or the sum x + residual
    rounded to x.dtype, then (out, v) is returned; or x * silu(gate), unrounded (the gate comes
    before the norm). fp32 inside (float64 for float64), one rounding to x.dtype at the end.
    Raises ValueError naming the argument; residual and gate exclude each other.
    """
    if x.dim() < 1:
        raise ValueError("x has shape (), supported is (..., D)")
    D = x.shape[-1]
    group_size = D if group_size is None else group_size
    check_shape("weight", weight, (D,), "(D,)")
    check_shape("residual", residual, tuple(x.shape), "(..., D)")
    check_shape("gate", gate, tuple(x.shape), "(..., D)")
    if residual is not None and gate is not None:
        raise ValueError("residual and gate are both given, supported is one of them")
    if D > 0 and (group_size < 1 or D % group_size):
        raise ValueError(f"group_size is {group_size}, supported is a divisor of D = {D}")
    acc = acc_dtype(x, weight)
    v = x.to(acc)
    total = None
    if residual is not None:
        total = (v + residual.to(acc)).to(x.dtype)
        v = total.to(acc)
    if gate is not None:
        v = v * F.silu(gate.to(acc))
    groups = v.reshape(*x.shape[:-1], D // group_size if D else 1, group_size)
    scale = torch.rsqrt(groups.square().mean(-1, keepdim=True) + eps)
    out = ((groups * scale).flatten(-2) * weight.to(acc)).to(x.dtype)
    return out if total is None else (out, total)
