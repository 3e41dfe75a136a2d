# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from ._registry import draw_seed, refuse_grad

_op = torch.ops.warpweave.ssm_step.default


def ssm_step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, inf),
    state_indices: Tensor | None = None,
    intermediate_states: Tensor | None = None,
    rounding: str = "nearest",
    generator: torch.Generator | None = None,
) -> Tensor:
    """The next token, or tokens, of ssd_scan, with the state updated in place.

    With s = clamp(softplus(dt + dt_bias), dt_limit), the softplus only if dt_softplus, and with
    g = h // (H/G):

        state[h,p,:] = exp(s_h A_h) state[h,p,:] + s_h x[h,p] B[g,:]
        out[h,p] = (state[h,p,:] · C[g,:] + D_h x[h,p]) * silu(z[h,p])

    Args:
        state: (B, H, P, N), or (slots, H, P, N) with state_indices: float32, bfloat16 or float16.
        x: (B, H, P), or (B, T, H, P) for T tokens in one call: float32, bfloat16 or float16.
        dt: (B, H) or (B, T, H), any of those dtypes.
        A: (H,), any of those dtypes, negative.
        B, C: (B, G, N) or (B, T, G, N), dtype of x; G divides H.
        D: (H,) or (H, P), any of those dtypes.
        z: as x; the output is multiplied by silu(z).
        dt_bias: (H,), any of those dtypes.
        dt_softplus: take the softplus of dt + dt_bias; above 20 it is the identity.
        dt_limit: the range s is clamped to.
        state_indices: (B,) int32, the slot of each row. A negative index is padding: its output is
            0 and no state is touched. On the CPU a slot given twice or out of range is refused; on
            CUDA that is the caller's promise.
        intermediate_states: (B, T, H, P, N), dtype of state, is written with the state after each
            token, for speculative decoding. Rows of padding are left alone.
        rounding: "nearest", or "stochastic" for a float16 state and its intermediates: up from the
            value below in magnitude with the probability of the way there, so that what is smaller
            than half a unit adds up over the tokens instead of being lost at each. What is finite
            saturates at 65504.
        generator: a CPU one, from which stochastic rounding draws its 64-bit seed; a CUDA graph
            repeats that of its capture.

    Returns:
        out, shaped as x, in x's dtype, contiguous.

    Any strides, read and written where they lie. The state is read once, fp32 inside, and rounded
    once at the end and for each intermediate; the random bits follow from the seed, b, t, h, p and
    n alone, by Philox4x32-10. Errors: ValueError naming the argument, before anything is written;
    NotImplementedError if an input requires grad. The recurrence is that of arXiv 2405.21060,
    section 2.
    """
    refuse_grad("ssm_step", state, x, dt, A, B, C, D, z, dt_bias)
    seed = draw_seed("ssm_step", rounding, generator)
    out: Tensor = _op(
        state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, *dt_limit,
        state_indices, intermediate_states, seed,
    )  # fmt: skip
    return out


@torch.library.register_fake("warpweave::ssm_step")
def _fake(state, x, *args):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)
