# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ._registry import refuse_grad

_plain = torch.ops.warpweave.rms_norm.default
_residual = torch.ops.warpweave.rms_norm_residual.default


def rms_norm(
    x: Tensor,
    weight: Tensor,
    *,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    group_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Root mean square normalisation: out = v / sqrt(mean(v²) + eps) * weight.

    Args:
        x: (..., D) float32, bfloat16 or float16. v is x, unless residual or gate is given. Rows of
            neighbouring elements with one stride between them are read where they lie (slices of a
            projection); other strides cost one copy, and so for residual and gate.
        weight: (D,), dtype of x or float32.
        eps: added to the mean of the squares.
        residual: (..., D), dtype of x: v = x + residual, rounded to x's dtype.
        gate: (..., D), dtype of x: v = x * silu(gate), in fp32. The gate comes before the norm.
        group_size: a divisor of D: the mean is over each group of so many elements. Default D.

    Returns:
        out (..., D) in x's dtype, contiguous; with residual (out, v).

    fp32 inside, one rounding. Errors: ValueError naming the argument, also if both residual and
    gate are given; NotImplementedError if an input requires grad. RMSNorm is arXiv 1910.07467; the
    gated form per group is that of Mamba-2 (arXiv 2405.21060, section 7).
    """
    refuse_grad("rms_norm", x, weight, residual, gate)
    if residual is None:
        out: Tensor = _plain(x, weight, gate, group_size, eps)
        return out
    if gate is not None:
        raise ValueError("rms_norm: 'residual' and 'gate' are both given; supported: one of them")
    pair: tuple[Tensor, Tensor] = _residual(x, weight, residual, group_size, eps)
    return pair


@torch.library.register_fake("warpweave::rms_norm")
def _fake(x, weight, gate, group_size, eps):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)


@torch.library.register_fake("warpweave::rms_norm_residual")
def _fake_residual(x, weight, residual, group_size, eps):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape), x.new_empty(x.shape)
