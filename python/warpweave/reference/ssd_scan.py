# SPDX-License-Identifier: Apache-2.0
"""The Mamba-2 state space recurrence (arXiv 2405.21060), one token after the other."""

from collections.abc import Callable
from itertools import pairwise
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from ._args import acc_dtype, check_dim, check_int, check_shape, sequence_bounds

# (x, dt, A, B, C, run, h0) -> (y, h_T) for unpacked rows in the accumulation dtype, B and C
# already spread over the heads; `run` (B,T) counts the changes of seq_idx up to each token.
ScanForm = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def time_step(
    dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool, dt_limit: tuple[float, float]
) -> Tensor:
    """clamp(softplus(dt + dt_bias), dt_limit), with softplus(v) = v above 20."""
    if dt_bias is not None:
        dt = dt + dt_bias.to(dt.dtype)
    if dt_softplus:
        dt = F.softplus(dt, threshold=20.0)
    return dt.clamp(*dt_limit)


def skip_and_gate(y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """(y + D*x) * silu(z) in the dtype of y, for y, x, z (...,H,P) and D (H,) or (H,P)."""
    if D is not None:
        y = y + (D if D.dim() == 2 else D[:, None]).to(y.dtype) * x.to(y.dtype)
    return y if z is None else y * F.silu(z.to(y.dtype))


def sequential(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, run: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t', y_t = h_t C_t."""
    ys = []
    for t in range(x.shape[1]):
        if t > 0:
            h = torch.where((run[:, t] == run[:, t - 1])[:, None, None, None], h, 0)
        h = torch.exp(dt[:, t] * A)[..., None, None] * h
        h = h + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        ys.append((h * C[:, t, :, None]).sum(-1))
    return (torch.stack(ys, 1) if ys else torch.zeros_like(x)), h


def scan_rows(
    form: ScanForm, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    z: Tensor | None, dt_bias: Tensor | None, dt_softplus: bool, dt_limit: tuple[float, float],
    initial_states: Tensor | None, seq_idx: Tensor | None, cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What every form of the scan shares: checks, the time step, packing, skip and gate."""
    check_dim("x", x, (4,), "(B, T, H, P)")
    check_dim("B", B, (4,), "(B, T, G, N)")
    rows, T, H, P = x.shape
    G, N = B.shape[2:]
    if G == 0 or H % G:
        raise ValueError(f"B has G = {G} groups, supported is a divisor of H = {H}")
    check_shape("B", B, (rows, T, G, N), "(B, T, G, N)")
    check_shape("C", C, (rows, T, G, N), "(B, T, G, N)")
    check_shape("dt", dt, (rows, T, H), "(B, T, H)")
    check_shape("A", A, (H,), "(H,)")
    check_shape("dt_bias", dt_bias, (H,), "(H,)")
    check_shape("z", z, (rows, T, H, P), "(B, T, H, P)")
    if D is not None and tuple(D.shape) not in ((H,), (H, P)):
        raise ValueError(f"D has shape {tuple(D.shape)}, supported is (H,) or (H, P)")
    check_int("seq_idx", seq_idx, (torch.int32,))
    check_shape("seq_idx", seq_idx, (rows, T), "(B, T)")
    bounds = None if cu_seqlens is None else sequence_bounds(cu_seqlens, rows, T, seq_idx)
    states = rows if bounds is None else len(bounds) - 1
    check_shape("initial_states", initial_states, (states, H, P, N), "(B or num_seqs, H, P, N)")

    acc = acc_dtype(x, dt, A, B, C, initial_states)
    h = torch.zeros(states, H, P, N, dtype=acc, device=x.device)
    h = h if initial_states is None else initial_states.to(acc)
    run = torch.zeros(rows, T, dtype=torch.int64, device=x.device)
    if seq_idx is not None:
        run[:, 1:] = (seq_idx[:, 1:] != seq_idx[:, :-1]).cumsum(1)
    step = time_step(dt.to(acc), dt_bias, dt_softplus, dt_limit)
    b, c = (t.to(acc).repeat_interleave(H // G, 2) for t in (B, C))
    tokens = (x.to(acc), step, b, c, run)
    if bounds is None:
        y, h = form(tokens[0], step, A.to(acc), b, c, run, h)
    else:
        ys, finals = [tokens[0][:, :0]], [h[:0]]
        for i, (lo, hi) in enumerate(pairwise(bounds)):
            xs, dts, bs, cs, runs = (t[:, lo:hi] for t in tokens)
            y, final = form(xs, dts, A.to(acc), bs, cs, runs, h[i : i + 1])
            ys.append(y)
            finals.append(final)
        y, h = torch.cat(ys, 1), torch.cat(finals)
    return skip_and_gate(y, x, D, z).to(x.dtype), h


def ssd_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, chunk_size: int = 128,
    D: Tensor | None = None, z: Tensor | None = None, dt_bias: Tensor | None = None,
    dt_softplus: bool = False, dt_limit: tuple[float, float] = (0.0, inf),
    initial_states: Tensor | None = None, seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None, return_final_states: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """h_t = exp(d_t A) h_{t-1} + d_t x_t B_t', y_t = (h_t C_t + D x_t) silu(z_t), per head.

    d = clamp(softplus(dt + dt_bias), dt_limit). x, z (B,T,H,P); dt (B,T,H); A, dt_bias (H,);
    B, C (B,T,G,N), head h uses group h // (H/G); D (H,) or (H,P); initial_states (B or
    num_seqs,H,P,N), zero if not given. The state is zeroed where seq_idx (B,T) int32 changes;
    cu_seqlens (num_seqs+1,) packs sequences into one row (B == 1), each with its own states.
    chunk_size is how faster forms cut the work; it has no effect on the recurrence.
    Returns out in x.dtype, or (out, final_states), states fp32 (float64 from float64 inputs).
    Raises ValueError or TypeError naming the argument.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, supported is at least 1")
    out = scan_rows(sequential, x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_limit,
                    initial_states, seq_idx, cu_seqlens)  # fmt: skip
    return out if return_final_states else out[0]
