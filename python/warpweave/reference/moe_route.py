# SPDX-License-Identifier: Apache-2.0
"""Sigmoid router with a load-balancing bias and optional group limits (arXiv 2408.15664)."""

from math import inf

import torch
from torch import Tensor

from ._args import acc_dtype, check_dim, check_shape


def _top(v: Tensor, k: int) -> Tensor:
    """Indices of the k largest along the last axis, descending, ties to the lowest index."""
    return torch.sort(v, dim=-1, descending=True, stable=True).indices[..., :k]


def moe_route(
    x: Tensor, weight: Tensor, correction_bias: Tensor | None, *, top_k: int, n_group: int = 1,
    topk_group: int = 1, normalize: bool = True, scale: float = 1.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """s = sigmoid(x weight'), choice = s + correction_bias, indices = the top_k of choice.

    x (...,d), weight (E,d), correction_bias (E,) fp32 or None. With n_group > 1 only the topk_group
    groups with the largest sum of their two best choices take part. weights = s[indices], without
    the bias, divided by their sum + 1e-20 if normalize, times scale. All ties go to the lowest
    index; indices are in descending order of choice. Returns (weights fp32 (...,top_k), indices
    int32 (...,top_k)), float64 weights from float64 x. Raises ValueError naming the argument.
    """
    check_dim("weight", weight, (2,), "(E, d)")
    E, d = weight.shape
    if x.dim() < 1 or x.shape[-1] != d:
        raise ValueError(f"x has shape {tuple(x.shape)}, supported is (..., d) with d = {d}")
    check_shape("correction_bias", correction_bias, (E,), "(E,)")
    if n_group < 1 or E % n_group:
        raise ValueError(f"n_group is {n_group}, supported is a divisor of E = {E}")
    if not 1 <= topk_group <= n_group:
        raise ValueError(f"topk_group is {topk_group}, supported is 1 to n_group = {n_group}")
    per_group = E // n_group
    if not 1 <= top_k <= topk_group * per_group:
        raise ValueError(
            f"top_k is {top_k}, supported is 1 to the {topk_group * per_group} experts eligible"
        )
    acc = acc_dtype(x, weight)
    s = torch.sigmoid(x.to(acc) @ weight.to(acc).mT)
    choice = s.detach() if correction_bias is None else s.detach() + correction_bias.to(acc)
    if n_group > 1:
        groups = choice.reshape(*choice.shape[:-1], n_group, per_group)
        score = groups.sort(-1, descending=True).values[..., :2].sum(-1)
        kept = torch.zeros_like(score, dtype=torch.bool).scatter(-1, _top(score, topk_group), True)
        choice = groups.masked_fill(~kept[..., None], -inf).flatten(-2)
    indices = _top(choice, top_k)
    weights = s.gather(-1, indices)
    if normalize:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return weights * scale, indices.to(torch.int32)
