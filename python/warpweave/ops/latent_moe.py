# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ._registry import refuse_grad

_op = torch.ops.warpweave.latent_moe.default


def latent_moe(
    x: Tensor,
    weights: Tensor,
    indices: Tensor,
    fc1: Tensor | None,
    up: Tensor,
    down: Tensor,
    fc2: Tensor | None,
    shared_up: Tensor | None = None,
    shared_down: Tensor | None = None,
) -> Tensor:
    """LatentMoE layer: fc2 experts(fc1 x) + shared_down relu2(shared_up x).

    Args:
        x: (T, d) float32 or bfloat16; every weight has its dtype.
        weights: (T, top_k) float32 and indices: (T, top_k) int32 or int64, from moe_route on the full-width x.
        fc1: (l, d) and fc2: (d, l), or both None: the experts then work at width d (plain MoE).
        up: (E, I, l) and down: (E, l, I), as in moe_mlp.
        shared_up: (S, d) and shared_down: (d, S), or both None: no shared expert. It is never scaled.

    Returns:
        (T, d) in x's dtype. The latent, the routed result and the shared activation are rounded to that dtype; the
        last two products share one fp32 accumulator and one rounding.

    Errors: ValueError naming the argument; NotImplementedError if an input requires grad.
    The layer of Nemotron 3 Super and Ultra.
    """
    refuse_grad("latent_moe", x, weights, fc1, up, down, fc2, shared_up, shared_down)
    return _op(x, weights, indices, fc1, up, down, fc2, shared_up, shared_down)


@torch.library.register_fake("warpweave::latent_moe")
def _fake(x, weights, indices, fc1, up, down, fc2, shared_up, shared_down):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)
