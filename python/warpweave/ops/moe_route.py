# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ._registry import refuse_grad

_op = torch.ops.warpweave.moe_route.default


def moe_route(
    x: Tensor,
    weight: Tensor,
    correction_bias: Tensor | None,
    *,
    top_k: int,
    n_group: int = 1,
    topk_group: int = 1,
    normalize: bool = True,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Sigmoid router: s = sigmoid(x weightᵀ), indices = the top_k of s + correction_bias.

    Args:
        x: (..., d) float32 or bfloat16. Rows of neighbouring elements with one stride between them
            are read where they lie; other strides cost one copy, and so for weight.
        weight: (E, d), dtype of x or float32, E up to 1024.
        correction_bias: (E,) float32, or None for zeros: it balances the load by deciding who is
            chosen, and is no part of the weights.
        top_k: experts a token.
        n_group: divides E. With several groups, a group's score is the sum of its two best choices.
        topk_group: only experts of so many best groups take part.
        normalize: divide the weights by their sum + 1e-20.
        scale: factor of the weights.

    Returns:
        weights (..., top_k) float32, s of the chosen experts without the bias; indices (..., top_k)
        int32, in descending order of choice.

    fp32 throughout. Ties go to the lowest index; a NaN ranks above every number, as in torch.sort,
    so that it shows in the weights. A token's result does not depend on the batch it comes in.
    Errors: ValueError naming the argument; NotImplementedError if an input requires grad. The bias
    is that of arXiv 2408.15664, the groups are those of arXiv 2412.19437, section 2.1.
    """
    refuse_grad("moe_route", x, weight, correction_bias)
    pair: tuple[Tensor, Tensor] = _op(
        x, weight, correction_bias, top_k, n_group, topk_group, normalize, scale
    )
    return pair


@torch.library.register_fake("warpweave::moe_route")
def _fake(x, weight, correction_bias, top_k, *args):  # type: ignore[no-untyped-def]
    shape = (*x.shape[:-1], top_k)
    return x.new_empty(shape, dtype=torch.float32), x.new_empty(shape, dtype=torch.int32)
