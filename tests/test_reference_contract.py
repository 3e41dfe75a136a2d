# SPDX-License-Identifier: Apache-2.0
"""What all reference ops share: derivatives that finite differences confirm, and refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor

from warpweave import reference as ref
from warpweave import testing as kit

F64 = torch.float64


def leaf(*shape: int, name: str = "grad") -> Tensor:
    g = kit.generator(f"{name}{shape}")
    return kit.normal(shape, g, F64).requires_grad_()


SEQ = torch.tensor([[0, 0, 1, 1, 1], [0, -1, 2, 2, 2]], dtype=torch.int32)


def _scan_grad(form: kit.Op) -> kit.Op:
    def run(x: Tensor, dt: Tensor, A: Tensor, b: Tensor, c: Tensor, D: Tensor, z: Tensor,
            bias: Tensor, h: Tensor) -> Any:  # fmt: skip
        return form(x, dt, -A.exp(), b, c, D=D, z=z, dt_bias=bias, dt_softplus=True, chunk_size=3,
                    initial_states=h, seq_idx=SEQ, return_final_states=True)  # fmt: skip

    return run


def _step_grad(state: Tensor, *rest: Tensor) -> Any:
    state = state * 1  # the op writes to it
    x, dt, A, b, c, D, z = rest
    return ref.ssm_step(state, x, dt, -A.exp(), b, c, D=D, z=z, dt_softplus=True), state


def _update_grad(state: Tensor, x: Tensor, w: Tensor, b: Tensor) -> Any:
    state = state * 1
    return ref.causal_conv1d_update(x, state, w, b, activation="silu"), state


ROUTED = torch.tensor([[0, 2], [1, 0], [0, -1], [2, 1]], dtype=torch.int32)
SCAN_LEAVES = [leaf(2, 5, 2, 2), leaf(2, 5, 2), leaf(2), leaf(2, 5, 1, 3), leaf(2, 5, 1, 3),
               leaf(2, 2), leaf(2, 5, 2, 2, name="z"), leaf(2, name="bias"),
               leaf(2, 2, 2, 3)]  # fmt: skip
GRADIENTS: dict[str, tuple[kit.Op, list[Tensor]]] = {
    "ssd_scan": (_scan_grad(ref.ssd_scan), SCAN_LEAVES),
    "ssd_scan_quadratic": (_scan_grad(ref.ssd_scan_quadratic), SCAN_LEAVES),
    "ssm_step": (_step_grad, [leaf(2, 2, 2, 3), *SCAN_LEAVES[:7]]),
    "causal_conv1d": (
        lambda x, w, b, s: ref.causal_conv1d(x, w, b, activation="silu", initial_states=s,
                                             seq_idx=SEQ, return_final_states=True),
        [leaf(2, 3, 5), leaf(3, 3), leaf(3), leaf(2, 3, 2)],
    ),
    "causal_conv1d_update": (_update_grad, [leaf(2, 3, 4), leaf(2, 3, 2), leaf(3, 3), leaf(3)]),
    "rms_norm": (
        lambda x, w, r: ref.rms_norm(x, w, residual=r), [leaf(3, 4), leaf(4), leaf(3, 4, name="r")]
    ),
    "rms_norm gated": (
        lambda x, w, z: ref.rms_norm(x, w, gate=z, group_size=2),
        [leaf(3, 4), leaf(4), leaf(3, 4, name="z")],
    ),
    "moe_route": (
        lambda x, w: ref.moe_route(x, w, torch.zeros(6), top_k=2, n_group=3, topk_group=2)[0],
        [leaf(4, 5), leaf(6, 5)],
    ),
    "grouped_gemm": (
        lambda a, b: ref.grouped_gemm(a, b, torch.tensor([2, 2, 4]), activation="relu2"),
        [leaf(5, 3), leaf(3, 2, 3)],
    ),
    "latent_moe": (
        lambda x, w, *m: ref.latent_moe(x, w, ROUTED, *m),
        [leaf(4, 3), leaf(4, 2), leaf(2, 3), leaf(3, 4, 2), leaf(3, 2, 4), leaf(3, 2),
         leaf(5, 3), leaf(3, 5)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name: str) -> None:
    op, inputs = GRADIENTS[name]
    assert torch.autograd.gradcheck(op, inputs, eps=1e-6, atol=1e-6, rtol=1e-4)


# Refusals name the argument, and come before anything is written.

Z, I32 = torch.zeros, torch.int32
X, BC, DT, A1 = Z(2, 4, 2, 3), Z(2, 4, 1, 5), Z(2, 4, 2), Z(2)
STATE, CONV = torch.ones(3, 2, 3, 5), torch.ones(3, 6, 3)


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=I32)


def scan(b: Tensor = BC, rows: int = 2, **options: Any) -> Any:
    return ref.ssd_scan(X[:rows], DT[:rows], A1, b[:rows], BC[:rows], **options)


def step(indices: Tensor) -> Any:
    return ref.ssm_step(STATE, X, DT, A1, BC, BC, state_indices=indices)


def conv(x: Tensor, **options: Any) -> Any:
    return ref.causal_conv1d(x, Z(4, 4), **options)


REFUSED: dict[str, tuple[type[Exception], str, kit.Op]] = {
    "scan B": (ValueError, "^B has shape", lambda: scan(BC[:1])),
    "scan G": (ValueError, "^B has G = 3", lambda: scan(BC.repeat(1, 1, 3, 1))),
    "scan D": (ValueError, "^D has shape", lambda: scan(D=Z(3))),
    "scan seq_idx": (TypeError, "^seq_idx", lambda: scan(seq_idx=Z(2, 4))),
    "scan packed": (ValueError, "B == 1", lambda: scan(cu_seqlens=ints(0, 4))),
    "scan cuts": (ValueError, r"\[0, 3, 2, 4\]", lambda: scan(rows=1, cu_seqlens=ints(0, 3, 2, 4))),
    "scan end": (ValueError, "to T = 4", lambda: scan(rows=1, cu_seqlens=ints(0, 3))),
    "step slots": (ValueError, "^state_indices", lambda: step(ints(1, 1))),
    "step range": (ValueError, "below 3 slots", lambda: step(ints(1, 3))),
    "step dtype": (TypeError, "int64", lambda: step(ints(1, 2).long())),
    "conv weight": (ValueError, "^weight has shape", lambda: conv(Z(2, 5, 3))),
    "conv name": (ValueError, "'relu'", lambda: conv(Z(2, 4, 3), activation="relu")),
    "conv both": (
        ValueError,
        "^seq_idx and cu_seqlens",
        lambda: conv(Z(1, 4, 3), seq_idx=Z(1, 3, dtype=I32), cu_seqlens=ints(0, 3)),
    ),
    "conv initial": (
        TypeError,
        "^initial_states",
        lambda: conv(Z(2, 4, 3), initial_states=Z(2, 4, 3).half()),
    ),
    "update state": (
        ValueError,
        "^conv_state has 3",
        lambda: ref.causal_conv1d_update(Z(3, 6), CONV, Z(6, 5)),
    ),
    "update dtype": (
        TypeError,
        "^conv_state",
        lambda: ref.causal_conv1d_update(Z(3, 6).double(), CONV, Z(6, 4)),
    ),
    "norm both": (
        ValueError,
        "^residual and gate",
        lambda: ref.rms_norm(A1, A1, residual=A1, gate=A1),
    ),
    "norm group": (ValueError, "^group_size is 3", lambda: ref.rms_norm(A1, A1, group_size=3)),
    "route top_k": (
        ValueError,
        "^top_k is 5",
        lambda: ref.moe_route(Z(1, 2), Z(8, 2), None, top_k=5, n_group=4, topk_group=2),
    ),
    "gemm offsets": (
        ValueError,
        "^offsets",
        lambda: ref.grouped_gemm(Z(3, 2), Z(2, 2, 2), ints(2, 4)),
    ),
    "moe indices": (
        ValueError,
        "^indices holds 1 to 6",
        lambda: ref.moe_mlp(Z(1, 3), Z(6, 4, 3), Z(6, 3, 4), Z(1, 2), ints(6, 1)[None]),
    ),
    "latent pair": (
        ValueError,
        "^fc2 is None",
        lambda: ref.latent_moe(
            Z(1, 3), Z(1, 1), ints(0)[None], Z(2, 3), Z(2, 4, 2), Z(2, 2, 4), None
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    error, message, call = REFUSED[name]
    with pytest.raises(error, match=message):
        call()
    assert bool((STATE == 1).all())
    assert bool((CONV == 1).all())
