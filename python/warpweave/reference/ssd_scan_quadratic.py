# SPDX-License-Identifier: Apache-2.0
"""The dual, attention-like form of the state space recurrence (arXiv 2405.21060, section 3)."""

from math import inf

import torch
from torch import Tensor

from .ssd_scan import scan_rows


def quadratic(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, run: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """y = (L o C B') (dt x) + P C h with L[t,s] = prod_{s<r<=t} exp(dt_r A), P[t] = L[t,-1]."""
    T = x.shape[1]
    la = (dt * A).transpose(1, 2)  # (B,H,T)
    xd = (dt[..., None] * x).transpose(1, 2)  # (B,H,T,P)
    b, c = B.transpose(1, 2), C.transpose(1, 2)  # (B,H,T,N)
    # The exponent sums the terms between s and t. The difference of two sums from the start is
    # cheaper, but beside one strong decay it loses the digits of all weak ones.
    after = torch.ones(T, T, dtype=torch.bool, device=x.device).tril(-1)  # t > s
    exponent = torch.where(after, la[..., :, None], 0).cumsum(-2)
    seen = (after | after.new_ones(T).diag()) & (run[:, :, None] == run[:, None, :])
    L = exponent.masked_fill(~seen[:, None], -inf).exp()
    P = torch.where((run == 0)[:, None], la.cumsum(-1).exp(), 0)  # (B,H,T)
    y = (L * (c @ b.mT)) @ xd + P[..., None] * (c @ h.mT)
    h = P[..., -1, None, None] * h + (xd * L[..., -1, :, None]).mT @ b
    return y.transpose(1, 2), h


def ssd_scan_quadratic(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, chunk_size: int = 128,
    D: Tensor | None = None, z: Tensor | None = None, dt_bias: Tensor | None = None,
    dt_softplus: bool = False, dt_limit: tuple[float, float] = (0.0, inf),
    initial_states: Tensor | None = None, seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None, return_final_states: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """`ssd_scan` with the same arguments and results, as one masked product over the sequence.

    A second, independent definition for tests, and the form to train with: the T dependent steps
    become one masked product over chunk_size tokens, T * chunk_size * H numbers of work and memory,
    and T / chunk_size steps that hand the state on. With chunk_size >= T it is the pure dual form.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, supported is at least 1")

    def chunks(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, run: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        ys, first = [torch.zeros_like(x[:, :0])], run[:, :1]
        for lo in range(0, x.shape[1], chunk_size):
            xs, dts, bs, cs, runs = (t[:, lo : lo + chunk_size] for t in (x, dt, B, C, run))
            # Counted from the last token of the chunk before: zero means the state still belongs.
            y, h = quadratic(xs, dts, A, bs, cs, runs - first, h)
            ys.append(y)
            first = runs[:, -1:]
        return torch.cat(ys, 1), h

    out = scan_rows(chunks, x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_limit,
                    initial_states, seq_idx, cu_seqlens)  # fmt: skip
    return out if return_final_states else out[0]
