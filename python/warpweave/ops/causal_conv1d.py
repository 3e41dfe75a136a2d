# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ._registry import refuse_grad

_op = torch.ops.warpweave.causal_conv1d.default
_ACTIVATIONS = {None: False, "silu": True}


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    return_final_states: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal depthwise convolution over time: out[b,c,t] = act(bias[c] + Σ_w weight[c,w]
    x[b,c,t-(W-1)+w]).

    Args:
        x: (B, C, T) float32, bfloat16 or float16. Channel-last and channel-first strides (one of C,
            T with stride 1) are read where they lie; anything else costs one copy.
        weight: (C, W), W in 2..4, dtype of x or float32.
        bias: (C,), dtype of weight.
        activation: None or "silu".
        initial_states: (B, C, W-1), or (num_seqs, C, W-1) with cu_seqlens, dtype of x: the inputs
            just before each sequence. Zeros if absent.
        seq_idx: (B, T) int32. A tap never reaches into a neighbouring token with another index;
            tokens with a negative index are padding and give 0.
        cu_seqlens: (num_seqs + 1,) int32 or int64 offsets of sequences packed into B = 1.
        return_final_states: also return the last W-1 inputs of each sequence, shaped as
            initial_states.

    Returns:
        out (B, C, T) in x's dtype and memory order, or (out, final_states).

    fp32 accumulation, one rounding. Errors: ValueError naming the argument; NotImplementedError if
    an input requires grad. The layer is that of Mamba (arXiv 2312.00752, section 3.4).
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"causal_conv1d: 'activation' is {activation!r}; supported: None, 'silu'")
    refuse_grad("causal_conv1d", x, weight, bias, initial_states)
    out, final_states = _op(
        x,
        weight,
        bias,
        initial_states,
        seq_idx,
        cu_seqlens,
        _ACTIVATIONS[activation],
        return_final_states,
    )
    return (out, final_states) if return_final_states else out


@torch.library.register_fake("warpweave::causal_conv1d")
def _fake(x, weight, bias, initial_states, seq_idx, cu_seqlens, silu, return_final_states):  # type: ignore[no-untyped-def]
    batch, channels, length = x.shape
    if x.stride(1) == 1 and x.stride(2) != 1:
        out = x.new_empty((batch, length, channels)).transpose(1, 2)
    else:
        out = x.new_empty((batch, channels, length))
    rows = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    states = (rows, channels, weight.shape[1] - 1) if return_final_states else (0,)
    return out, x.new_empty(states)
