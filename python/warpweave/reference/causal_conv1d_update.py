# SPDX-License-Identifier: Apache-2.0
"""Causal depthwise convolution, one step or a few, with a state updated in place."""

import torch
from torch import Tensor

from ._args import acc_dtype, check_dim, check_int, check_shape, check_slots
from .causal_conv1d import activate, check_filter


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
    """The next tokens of `causal_conv1d`, with the previous inputs taken from conv_state.

    x (B,C) or (B,C,T); conv_state (B or slots,C,S) of x.dtype, S >= W-1, updated in place.
    Without cache_seqlens the last W-1 columns are the window and the state shifts left by T. With
    cache_seqlens (B,) int32 the state is circular: token t of row b belongs to column
    (cache_seqlens[b]+t) mod S and its window is the columns before it. conv_state_indices (B,)
    int32 picks the slot of each row; a negative one is padding: output zero, no state touched.
    Returns out shaped like x, in x.dtype. Raises ValueError or TypeError before the state changes.
    """
    check_dim("x", x, (2, 3), "(B, C) or (B, C, T)")
    check_dim("conv_state", conv_state, (3,), "(B or slots, C, S)")
    tokens = x.unsqueeze(2) if x.dim() == 2 else x
    B, C, T = tokens.shape
    W = check_filter(weight, bias, C)
    slots, _, S = conv_state.shape
    check_shape("conv_state", conv_state, (slots, C, S), "(B or slots, C, S)")
    if conv_state.dtype != x.dtype:
        raise TypeError(f"conv_state has dtype {conv_state.dtype}, supported is x's, {x.dtype}")
    if S < W - 1:
        raise ValueError(f"conv_state has {S} columns, supported is at least W-1 = {W - 1}")
    if cache_seqlens is not None:
        check_int("cache_seqlens", cache_seqlens, (torch.int32,))
        check_shape("cache_seqlens", cache_seqlens, (B,), "(B,)")
    if conv_state_indices is None:
        check_shape("conv_state", conv_state, (B, C, S), "(B, C, S)")
        live = slot = torch.arange(B, device=x.device)
    else:
        check_slots("conv_state_indices", conv_state_indices, B, slots)
        live = torch.nonzero(conv_state_indices >= 0).flatten()
        slot = conv_state_indices[live].long()

    # Columns in time order, oldest first; circular states are rotated there and back.
    old = conv_state.index_select(0, slot)
    start = torch.zeros_like(slot) if cache_seqlens is None else cache_seqlens[live].long()
    step = torch.arange(S, device=x.device)
    to_time = ((start[:, None] + step) % S)[:, None].expand(-1, C, -1)
    columns = torch.cat([old.gather(2, to_time), tokens.index_select(0, live)], 2)

    acc = acc_dtype(x, weight, bias)
    v = torch.zeros(len(live), C, T, dtype=acc, device=x.device)
    for k in range(W):
        lo = S - (W - 1) + k
        v = v + weight[:, k, None].to(acc) * columns[:, :, lo : lo + T].to(acc)
    if bias is not None:
        v = v + bias[:, None].to(acc)
    v = activate(v, activation).to(x.dtype)

    # After T tokens the oldest column sits T places further round the circle.
    shift = 0 if cache_seqlens is None else T
    from_time = ((step - start[:, None] - shift) % S)[:, None].expand(-1, C, -1)
    conv_state.index_copy_(0, slot, columns[:, :, T:].gather(2, from_time))
    out = torch.zeros_like(tokens).index_copy(0, live, v)
    return out.squeeze(2) if x.dim() == 2 else out
