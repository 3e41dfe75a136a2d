# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ._registry import refuse_grad

_op = torch.ops.warpweave.causal_conv1d_update.default
_ACTIVATIONS = {None: False, "silu": True}


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """The next token, or tokens, of causal_conv1d, with a state that is updated in place.

    out[b,c,t] = act(bias[c] + Σ_w weight[c,w] input[b,c,t-(W-1)+w]), where input is x from t = 0 on
    and conv_state before.

    Args:
        x: (B, C), or (B, C, T) for T tokens in one call: float32, bfloat16 or float16.
        conv_state: (B, C, S), or (slots, C, S) with conv_state_indices, dtype of x, S >= W-1. Its
            last column is the input just before x; the call shifts it left by T and appends x.
        weight: (C, W), W in 2..4, dtype of x or float32; copied if not contiguous.
        bias: (C,), dtype of weight.
        activation: None or "silu".
        cache_seqlens: (B,) int32. The state is circular instead: token t of row b belongs to column
            (cache_seqlens[b] + t) mod S, and the inputs before it to the columns before that.
        conv_state_indices: (B,) int32, the slot of each row. A negative index is padding: its
            output is 0 and no state is touched. On the CPU a slot given twice or out of range is
            refused; on CUDA that is the caller's promise.

    Returns:
        out, shaped as x, in x's dtype; channel-last (stride 1 over C) if x is, else contiguous.

    Any strides of x and conv_state, read and written where they lie. fp32 accumulation, one
    rounding; the state is moved bit by bit. Errors: ValueError naming the argument, before anything
    is written; NotImplementedError if an input requires grad. The layer is that of Mamba (arXiv
    2312.00752, section 3.4).
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"causal_conv1d_update: 'activation' is {activation!r}; supported: None, 'silu'"
        )
    refuse_grad("causal_conv1d_update", x, conv_state, weight, bias)
    out: Tensor = _op(
        x, conv_state, weight, bias, _ACTIVATIONS[activation], cache_seqlens, conv_state_indices
    )
    return out


@torch.library.register_fake("warpweave::causal_conv1d_update")
def _fake(x, *args):  # type: ignore[no-untyped-def]
    if x.dim() == 3 and x.stride(1) == 1 and x.stride(2) != 1:
        return x.new_empty((x.shape[0], x.shape[2], x.shape[1])).transpose(1, 2)
    return x.new_empty(x.shape)
