# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ..quantized import Matrix
from ._quantized import weight_parts
from ._registry import refuse_grad

_op = torch.ops.warpweave.latent_moe.default


def latent_moe(
    x: Tensor,
    weights: Tensor,
    indices: Tensor,
    fc1: Matrix | None,
    up: Matrix,
    down: Matrix,
    fc2: Matrix | None,
    shared_up: Matrix | None = None,
    shared_down: Matrix | None = None,
) -> Tensor:
    """LatentMoE layer: fc2 experts(fc1 x) + shared_down relu2(shared_up x).

    Args:
        x: (T, d) float32 or bfloat16. Each matrix is a Tensor in its dtype, an NVFP4Tensor or an
            FP8Tensor, whose fp32 scale multiplies the accumulated product.
        weights: (T, top_k) float32 and indices: (T, top_k) int32 or int64, from moe_route on the
            full-width x.
        fc1: (l, d) and fc2: (d, l), or both None: the experts then work at width d (plain MoE).
        up: (E, I, l) and down: (E, l, I), as in moe_mlp.
        shared_up: (S, d) and shared_down: (d, S), or both None: no shared expert. It is never
            scaled.

    Returns:
        (T, d) in x's dtype. The latent, the routed result and the shared activation are rounded to
        that dtype; the last two products are added in fp32 and rounded once.

    Errors: ValueError naming the argument; NotImplementedError if an input requires grad.
    The layer of Nemotron 3 Super and Ultra.
    """
    matrices = fc1, up, down, fc2, shared_up, shared_down
    parts = [(None, None, None) if m is None else weight_parts(m) for m in matrices]
    data, scales = [p[0] for p in parts], [s for p in parts for s in p[1:]]
    refuse_grad("latent_moe", x, weights, *data)
    out: Tensor = _op(x, weights, indices, *data, *scales)
    return out


@torch.library.register_fake("warpweave::latent_moe")
def _fake(x, *args):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)
