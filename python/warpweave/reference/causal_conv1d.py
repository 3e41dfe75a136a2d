# SPDX-License-Identifier: Apache-2.0
"""Causal depthwise convolution over time, from the definition."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ._args import acc_dtype, check_dim, check_int, check_shape, sequence_bounds


def activate(v: Tensor, activation: str | None) -> Tensor:
    """silu(v) or v; ValueError for any other name."""
    if activation not in (None, "silu"):
        raise ValueError(f"activation is {activation!r}, supported is None or 'silu'")
    return F.silu(v) if activation else v


def check_filter(weight: Tensor, bias: Tensor | None, C: int) -> int:
    """Check weight (C,W) and bias (C,); the width W."""
    check_dim("weight", weight, (2,), "(C, W)")
    W = weight.shape[1]
    check_shape("weight", weight, (C, W), "(C, W)")
    check_shape("bias", bias, (C,), "(C,)")
    return W


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
    """out[b,c,t] = act(bias[c] + sum_{k<W} weight[c,k] * x[b,c,t-(W-1)+k]).

    x (B,C,T), weight (C,W), bias (C,), initial_states (B or num_seqs,C,W-1): the inputs before the
    first token, zero if not given. seq_idx (B,T) int32: a token sees tokens of its own value only;
    negative marks padding, whose output is zero and which nothing sees. cu_seqlens (num_seqs+1,)
    int32 or int64 packs sequences into one row (B == 1). Returns out in x.dtype, or
    (out, final_states) where final_states has the shape of initial_states and holds the last W-1
    inputs of the last token's sequence (zero where there is none, and zero for padding).
    Raises ValueError or TypeError naming the argument.
    """
    check_dim("x", x, (3,), "(B, C, T)")
    B, C, T = x.shape
    W = check_filter(weight, bias, C)
    if initial_states is not None and initial_states.dtype != x.dtype:
        raise TypeError(f"initial_states has dtype {initial_states.dtype}, supported is {x.dtype}")
    if cu_seqlens is not None:
        bounds = sequence_bounds(cu_seqlens, B, T, seq_idx)
        rows = len(bounds) - 1
        check_shape("initial_states", initial_states, (rows, C, W - 1), "(num_seqs, C, W-1)")
        outs, finals = [x[:, :, :0]], [x.new_zeros(0, C, W - 1)]
        for i, (lo, hi) in enumerate(pairwise(bounds)):
            out, final = causal_conv1d(
                x[:, :, lo:hi],
                weight,
                bias,
                activation=activation,
                return_final_states=True,
                initial_states=None if initial_states is None else initial_states[i : i + 1],
            )
            outs.append(out)
            finals.append(final)
        packed = torch.cat(outs, 2)
        return (packed, torch.cat(finals)) if return_final_states else packed

    check_shape("initial_states", initial_states, (B, C, W - 1), "(B, C, W-1)")
    check_int("seq_idx", seq_idx, (torch.int32,))
    check_shape("seq_idx", seq_idx, (B, T), "(B, T)")
    acc = acc_dtype(x, weight, bias)
    before = x.new_zeros(B, C, W - 1) if initial_states is None else initial_states
    columns = torch.cat([before.mT, x.mT], 1)  # (B,T+W-1,C): row j is token j-(W-1)
    wide, taps = columns.to(acc), weight.to(acc)
    v = wide[:, W - 1 :] * taps[:, W - 1]
    if bias is not None:
        v = v + bias.to(acc)
    if seq_idx is None or T == 0:
        for k in range(W - 1):
            v = v + wide[:, k : k + T] * taps[:, k]
        out = activate(v, activation).to(x.dtype).mT
        return (out, columns[:, T:].mT) if return_final_states else out

    ids = torch.cat([seq_idx[:, :1].expand(B, W - 1), seq_idx], 1)
    for k in range(W - 1):
        same = (ids[:, k : k + T] == seq_idx)[..., None]
        v = v + torch.where(same, wide[:, k : k + T], 0) * taps[:, k]
    v = torch.where(seq_idx[..., None] >= 0, activate(v, activation), 0)
    out = v.to(x.dtype).mT
    last = ids[:, T:, None]
    final = torch.where((last == seq_idx[:, -1:, None]) & (last >= 0), columns[:, T:], 0).mT
    return (out, final) if return_final_states else out
