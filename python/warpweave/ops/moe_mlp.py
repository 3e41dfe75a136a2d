# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ..quantized import Matrix
from ._quantized import weight_parts
from ._registry import refuse_grad

_op = torch.ops.warpweave.moe_mlp.default


def moe_mlp(x: Tensor, up: Matrix, down: Matrix, weights: Tensor, indices: Tensor) -> Tensor:
    """Routed relu² experts: out[t] = Σ_k weights[t,k] down[e] relu2(up[e] x[t]), e = indices[t,k].

    Args:
        x: (T, K) float32 or bfloat16.
        up: (E, I, K) and down: (E, K, I), each a Tensor in the dtype of x, an NVFP4Tensor or an
            FP8Tensor, whose fp32 scale multiplies the accumulated product. Rows may be strided; a
            copy is made only if the last dimension is not adjacent.
        weights: (T, top_k) float32.
        indices: (T, top_k) int32 or int64 in [0, E), or -1 for no expert.

    Returns:
        (T, K) in x's dtype. The hidden activation is rounded once to that dtype; the weighted sum
        is fp32, in ascending order of expert, and rounded once.

    Errors: ValueError naming the argument (on CPU also for an index out of range);
        NotImplementedError if an input requires grad.
    """
    up_data, *up_scales = weight_parts(up)
    down_data, *down_scales = weight_parts(down)
    refuse_grad("moe_mlp", x, up_data, down_data, weights)
    out: Tensor = _op(x, up_data, down_data, weights, indices, *up_scales, *down_scales)
    return out


@torch.library.register_fake("warpweave::moe_mlp")
def _fake(x, up, down, weights, indices, *scales):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)
