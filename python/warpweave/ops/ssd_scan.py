# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ._registry import refuse_grad

_op = torch.ops.warpweave.ssd_scan.default


def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    chunk_size: int = 128,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    return_final_states: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba-2 state space scan (arXiv 2405.21060), chunked.

    With dt' = clamp(softplus(dt + dt_bias), *dt_limit) and a state s (P, N) per head:
    s_t = exp(dt' A) s_{t-1} + dt' x_t B_tᵀ and y_t = (s_t C_t + D x_t) · silu(z_t).

    Args:
        x: (B, T, H, P) float32 or bfloat16.
        dt: (B, T, H), dtype of x or float32.
        A: (H,) any float dtype, read as float32 (as are D, dt_bias and initial_states).
        B, C: (B, T, G, N), dtype of x; head h uses group h // (H / G).
        chunk_size: 1 to 1024, tokens evaluated as one matrix product; a question of speed and rounding.
        D: (H,) or (H, P), the skip connection.
        z: (B, T, H, P), dtype of x, the gate.
        dt_bias: (H,), added to dt first.
        dt_softplus: apply softplus (linear above 20) to dt + dt_bias.
        dt_limit: (low, high) clamp of the result.
        initial_states: (B, H, P, N), or (num_seqs, H, P, N) with cu_seqlens. Zeros if absent.
        seq_idx: (B, T) int32; the state starts from zero where it changes.
        cu_seqlens: (num_seqs + 1,) int32 or int64 offsets of sequences packed into B = 1.
        return_final_states: also return the state after the last token of each row or sequence.

    Returns:
        y (B, T, H, P) in x's dtype, or (y, final_states) with float32 states shaped as initial_states.

    Any strides are read where they lie if the last dimension of x, B, C and z is adjacent, else that tensor is
    copied once. States and sums are fp32; products have operands of x's dtype. Errors: ValueError naming the
    argument; NotImplementedError if an input requires grad.
    """
    refuse_grad("ssd_scan", x, dt, A, B, C, D, z, dt_bias, initial_states)
    out, final_states = _op(
        x, dt, A, B, C, chunk_size, D, z, dt_bias, dt_softplus, dt_limit[0], dt_limit[1],
        initial_states, seq_idx, cu_seqlens, return_final_states,
    )  # fmt: skip
    return (out, final_states) if return_final_states else out


@torch.library.register_fake("warpweave::ssd_scan")
def _fake(  # type: ignore[no-untyped-def]
    x, dt, A, B, C, chunk_size, D, z, dt_bias, dt_softplus, dt_min, dt_max,
    initial_states, seq_idx, cu_seqlens, return_final_states,
):  # fmt: skip
    rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    shape = (rows, x.shape[2], x.shape[3], B.shape[3]) if return_final_states else (0,)
    return x.new_empty(x.shape), x.new_empty(shape, dtype=torch.float32)
