# SPDX-License-Identifier: Apache-2.0
"""The chunked scan in plain torch: the baseline that ssd_scan's error is measured against."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor



def _segment(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """One sequence: x (T,H,P), dt (T,H) discretised, B, C (T,H,N), state (H,P,N).

    Matrix products have operands rounded to the dtype of x and sum in fp32 (arXiv 2405.21060, 6)."""

    def operand(t: Tensor) -> Tensor:
        return t.to(x.dtype).float()

    out = []
    for t in range(0, x.shape[0], chunk):
        xc, dtc, Bc, Cc = (v[t : t + chunk].movedim(0, 1) for v in (x, dt, B, C))
        la = dtc * A[:, None]
        S = la.cumsum(1)
        q = S.shape[1]
        steps = la[:, :, None].expand(-1, -1, q).tril(-1)  # sums of few terms, not differences
        L = steps.cumsum(1).masked_fill(torch.ones(q, q).triu(1).bool(), -torch.inf).exp()
        M = operand((operand(Cc) @ operand(Bc).mT) * L * dtc[:, None, :])
        y = M @ operand(xc) + S.exp()[..., None] * (operand(Cc) @ operand(state).mT)
        weight = (S[:, -1:] - S).exp() * dtc
        state = S[:, -1].exp()[:, None, None] * state + operand(weight[..., None] * xc).mT @ operand(Bc)
        out.append(y.movedim(0, 1))
    return (torch.cat(out) if out else x.float()), state


def plain_ssd_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, chunk_size: int = 128,
    D: Tensor | None = None, z: Tensor | None = None, dt_bias: Tensor | None = None,
    dt_softplus: bool = False, dt_limit: tuple[float, float] = (0.0, torch.inf),
    initial_states: Tensor | None = None, seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None, return_final_states: bool = False,
) -> Any:  # fmt: skip
    batch, T, H, P = x.shape
    dt = dt.float() if dt_bias is None else dt.float() + dt_bias
    dt = (F.softplus(dt) if dt_softplus else dt).clamp(*dt_limit)
    B, C = (v.repeat_interleave(H // max(v.shape[2], 1), 2) for v in (B, C))
    if cu_seqlens is not None:
        runs = [(0, int(a), int(b), i, i) for i, (a, b) in enumerate(cu_seqlens.unfold(0, 2, 1))]
    else:
        runs = []
        for b in range(batch):
            cuts = [0, T]
            if seq_idx is not None and T:
                cuts[1:1] = (seq_idx[b].diff().nonzero().flatten() + 1).tolist()
            for i in range(len(cuts) - 1):
                last = i == len(cuts) - 2
                runs.append((b, cuts[i], cuts[i + 1], b if i == 0 else -1, b if last else -1))
    rows = batch if cu_seqlens is None else len(cu_seqlens) - 1
    final = torch.zeros(rows, H, P, B.shape[3])
    y = torch.zeros(batch, T, H, P)
    for b, start, end, first, last in runs:
        state = torch.zeros_like(final[0])
        if initial_states is not None and first >= 0:
            state = initial_states[first].float()
        part = slice(start, end)
        y[b, part], state = _segment(
            x[b, part], dt[b, part], A.float(), B[b, part], C[b, part], state, chunk_size
        )
        if last >= 0:
            final[last] = state
    if D is not None:
        y = y + (D if D.dim() == 2 else D[:, None]) * x.float()
    if z is not None:
        y = y * F.silu(z.float())
    y = y.to(x.dtype)
    return (y, final) if return_final_states else y
