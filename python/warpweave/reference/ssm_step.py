# SPDX-License-Identifier: Apache-2.0
"""The state space recurrence for one token or a few, with a state updated in place."""

from math import inf

import torch
from torch import Tensor

from ._args import acc_dtype, check_dim, check_shape, check_slots
from ._random import draw_seed, stochastic_half
from .ssd_scan import skip_and_gate, time_step


def ssm_step(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *,
    D: Tensor | None = None, z: Tensor | None = None, dt_bias: Tensor | None = None,
    dt_softplus: bool = False, dt_limit: tuple[float, float] = (0.0, inf),
    state_indices: Tensor | None = None, intermediate_states: Tensor | None = None,
    rounding: str = "nearest", generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """The next tokens of `ssd_scan`, starting from and updating `state` (B or slots,H,P,N).

    x, z (B,H,P), dt (B,H), B, C (B,G,N), or each with a time axis: (B,T,H,P), (B,T,H), (B,T,G,N).
    The state is fp32, bf16 or fp16, read once, fp32 inside (float64 if it or x is), and rounded
    once after the last token; intermediate_states (B,T,H,P,N) of its dtype receives the rounded
    state after every token. state_indices (B,) int32 picks the slot of each row; a negative one is
    padding: output zero, nothing written. rounding "stochastic", of fp16, is `stochastic_half` with
    row ((b T + t) H + h) P + p for the state after token t. Returns out shaped like x, in x.dtype.
    Raises ValueError or TypeError before the state changes.
    """
    check_dim("x", x, (3, 4), "(B, H, P) or (B, T, H, P)")
    check_dim("state", state, (4,), "(B or slots, H, P, N)")
    time = x.shape[1:-2]  # () or (T,)
    nb, (H, P) = x.shape[0], x.shape[-2:]
    slots, N = state.shape[0], state.shape[-1]
    letters = "B, T" if time else "B"
    check_dim("B", B, (x.dim(),), f"({letters}, G, N)")
    G = B.shape[-2]
    if G == 0 or H % G:
        raise ValueError(f"B has G = {G} groups, supported is a divisor of H = {H}")
    check_shape("state", state, (slots, H, P, N), "(B or slots, H, P, N)")
    check_shape("dt", dt, (nb, *time, H), f"({letters}, H)")
    check_shape("B", B, (nb, *time, G, N), f"({letters}, G, N)")
    check_shape("C", C, (nb, *time, G, N), f"({letters}, G, N)")
    check_shape("z", z, tuple(x.shape), f"({letters}, H, P)")
    check_shape("A", A, (H,), "(H,)")
    check_shape("dt_bias", dt_bias, (H,), "(H,)")
    if D is not None and tuple(D.shape) not in ((H,), (H, P)):
        raise ValueError(f"D has shape {tuple(D.shape)}, supported is (H,) or (H, P)")
    T = time[0] if time else 1
    if intermediate_states is not None:
        check_shape("intermediate_states", intermediate_states, (nb, T, H, P, N), "(B, T, H, P, N)")
        if intermediate_states.dtype != state.dtype:
            raise TypeError(
                f"intermediate_states has dtype {intermediate_states.dtype}, "
                f"supported is state's, {state.dtype}"
            )
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"rounding is {rounding!r}, supported is 'nearest' or 'stochastic'")
    if rounding == "stochastic" and state.dtype != torch.float16:
        raise ValueError(f"rounding 'stochastic' with state {state.dtype}, supported is float16")
    if state_indices is None:
        check_shape("state", state, (nb, H, P, N), "(B, H, P, N)")
        live = slot = torch.arange(nb, device=x.device)
    else:
        check_slots("state_indices", state_indices, nb, slots)
        live = torch.nonzero(state_indices >= 0).flatten()
        slot = state_indices[live].long()

    acc = acc_dtype(state, x, dt, A, B, C)
    tokens = (x, dt, B, C)
    xs, dts, bs, cs = (
        (t if time else t.unsqueeze(1)).index_select(0, live).to(acc) for t in tokens
    )
    step = time_step(dts, dt_bias, dt_softplus, dt_limit)
    bs, cs = (t.repeat_interleave(H // G, 2) for t in (bs, cs))
    h = state.index_select(0, slot).to(acc)
    ys = [torch.zeros_like(xs[:, :0])]
    seed = draw_seed(generator) if rounding == "stochastic" else 0

    def rounded(t: int) -> Tensor:
        if rounding == "nearest":
            return h.to(state.dtype)
        row = torch.arange(H * P, device=x.device).view(H, P)
        return stochastic_half(h, (live * T + t)[:, None, None] * (H * P) + row, seed)

    for t in range(T):
        h = torch.exp(step[:, t] * A.to(acc))[..., None, None] * h
        h = h + (step[:, t, :, None] * xs[:, t])[..., None] * bs[:, t, :, None]
        ys.append((h * cs[:, t, :, None]).sum(-1).unsqueeze(1))
        if intermediate_states is not None:
            intermediate_states[:, t].index_copy_(0, live, rounded(t))
    state.index_copy_(0, slot, rounded(T - 1))
    gate = None if z is None else (z if time else z.unsqueeze(1)).index_select(0, live)
    y = skip_and_gate(torch.cat(ys, 1), xs, D, gate).to(x.dtype)
    out = x.new_zeros(nb, T, H, P).index_copy(0, live, y)
    return out if time else out.squeeze(1)
