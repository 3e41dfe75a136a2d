# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ._registry import refuse_grad

_op = torch.ops.warpweave.moe_mlp.default


def moe_mlp(x: Tensor, up: Tensor, down: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """Routed relu² experts: out[t] = Σ_k weights[t,k] down[e] relu2(up[e] x[t]), e = indices[t,k].

    Args:
        x: (T, K) float32 or bfloat16.
        up: (E, I, K) and down: (E, K, I), dtype of x. Rows may be strided; a copy is made only if the last
            dimension is not adjacent.
        weights: (T, top_k) float32.
        indices: (T, top_k) int32 or int64 in [0, E), or -1 for no expert.

    Returns:
        (T, K) in x's dtype. The hidden activation is rounded once to that dtype; the weighted sum is fp32, in
        ascending order of expert, and rounded once.

    Errors: ValueError naming the argument (on CPU also for an index out of range); NotImplementedError if
    an input requires grad.
    """
    refuse_grad("moe_mlp", x, up, down, weights)
    return _op(x, up, down, weights, indices)


@torch.library.register_fake("warpweave::moe_mlp")
def _fake(x, up, down, weights, indices):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)
