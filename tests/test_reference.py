# SPDX-License-Identifier: Apache-2.0
"""The reference norm, router and experts against loops; derivatives and refusals of every op."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from exact import close
from warpweave import reference as ref
from warpweave import testing as kit

F64 = torch.float64


# Norms.


def check_norm(op: kit.Op) -> None:
    g = kit.generator("norm")
    x, z, r = (kit.normal((5, 12), g, F64) for _ in range(3))
    w = kit.normal((12,), g, F64)

    def norm(v: Tensor, groups: int) -> Tensor:
        rows = [
            torch.cat([p / torch.sqrt((p * p).sum() / len(p) + 1e-3) for p in row.chunk(groups)])
            for row in v
        ]
        return torch.stack(rows) * w

    close(op(x, w, eps=1e-3), norm(x, 1))
    close(op(x, w, eps=1e-3, residual=r), (norm(x + r, 1), x + r))
    gated = norm(x * z / (1 + torch.exp(-z)), 3)
    close(op(x, w, eps=1e-3, gate=z, group_size=4), gated)


NORM_FAULTS: dict[str, kit.Fault] = {
    "one group": kit.on_argument("group_size", lambda _: 12),
    "eps forgotten": kit.on_argument("eps", lambda _: 0.0),
    "gate after the norm": lambda op: (
        lambda *a, gate=None, **k: op(*a, **k) if gate is None else op(*a, **k) * F.silu(gate)
    ),
    "1 + weight": kit.on_argument("weight", lambda w: w + 1),
    "residual forgotten": kit.on_argument("residual", torch.zeros_like),
}


def test_norm_and_its_faults() -> None:
    kit.assert_all_caught(ref.rms_norm, NORM_FAULTS, check_norm)


def test_norm_rounds_the_residual_before_the_norm() -> None:
    x, r = torch.tensor([[1.0, 1.0]]).bfloat16(), torch.tensor([[2.0**-9, 0.0]]).bfloat16()
    out, total = ref.rms_norm(x, torch.ones(2), residual=r)
    kit.assert_same_bits(total, x)
    kit.assert_same_bits(out, ref.rms_norm(x, torch.ones(2)))


# Router and experts.


def literal_route(s: list[float], bias: list[float], **o: Any) -> tuple[list[float], list[int]]:
    """The router of one token as loops over Python numbers."""
    E, per = len(s), len(s) // o["n_group"]
    choice = [a + b for a, b in zip(s, bias, strict=True)]
    scores = []
    for group in range(o["n_group"]):
        best = sorted(choice[group * per : (group + 1) * per], reverse=True)[:2]
        scores.append((-sum(best), group))
    kept = {group for _, group in sorted(scores)[: o["topk_group"]]}
    ranked = sorted((-choice[e], e) for e in range(E) if e // per in kept or o["n_group"] == 1)
    chosen = [e for _, e in ranked[: o["top_k"]]]
    weights = [s[e] for e in chosen]
    if o["normalize"]:
        weights = [w / (sum(weights) + 1e-20) for w in weights]
    return [w * o["scale"] for w in weights], chosen


def check_route(op: kit.Op) -> None:
    g = kit.generator("route")
    for n_group, topk_group, normalize in ((1, 1, True), (4, 2, True), (4, 1, False), (2, 2, True)):
        # few distinct values, so that equal choices and equal groups abound
        x = torch.randint(-1, 2, (40, 3), generator=g).double()
        weight = torch.randint(-1, 2, (16, 3), generator=g).double()
        bias = torch.randint(-2, 2, (16,), generator=g) * 0.25
        options = {"top_k": 3, "n_group": n_group, "topk_group": topk_group,
                   "normalize": normalize, "scale": 2.5}  # fmt: skip
        weights, indices = op(x, weight, bias, **options)
        assert indices.dtype == torch.int32
        for t in range(40):
            s = torch.sigmoid(x[t] @ weight.T).tolist()
            w, chosen = literal_route(s, bias.tolist(), **options)
            assert indices[t].tolist() == chosen
            close(weights[t], torch.tensor(w, dtype=F64))


ROUTE_FAULTS: dict[str, kit.Fault] = {
    "bias in the weights": lambda op: lambda x, w, b, **o: (
        op(x, w, b, **o)[0] + b[op(x, w, b, **o)[1].long()], op(x, w, b, **o)[1]
    ),
    "bias forgotten": kit.on_argument("correction_bias", torch.zeros_like),
    "groups ignored": lambda op: lambda *a, **o: op(*a, **o | {"n_group": 1, "topk_group": 1}),
    "scale forgotten": kit.on_argument("scale", lambda _: 1.0),
    "not normalised": kit.on_argument("normalize", lambda n: not n),
    "ties to the highest index": lambda op: lambda x, w, b, **o: (
        (r := op(x, w.flip(0), b.flip(0), **o))[0], 15 - r[1]
    ),
}  # fmt: skip


def test_route_and_its_faults() -> None:
    kit.assert_all_caught(ref.moe_route, ROUTE_FAULTS, check_route)


def check_experts(op: kit.Op) -> None:
    g = kit.generator("experts")
    E, d, latent, width, shared = 6, 5, 4, 7, 3
    x, fc1, fc2 = (kit.normal(s, g, F64) for s in ((9, d), (latent, d), (d, latent)))
    up, down = kit.normal((E, width, latent), g, F64), kit.normal((E, latent, width), g, F64)
    sup, sdown = kit.normal((shared, d), g, F64), kit.normal((d, shared), g, F64)
    weights, indices = kit.skewed_routing(9, E, 2, g, drop=True)
    weights = weights.double()
    expected = []
    for t in range(9):
        z, total = fc1 @ x[t], torch.zeros(latent, dtype=F64)
        for k in range(2):
            if (e := int(indices[t, k])) >= 0:
                total = total + weights[t, k] * (down[e] @ torch.clamp(up[e] @ z, min=0) ** 2)
        expected.append(fc2 @ total + sdown @ torch.clamp(sup @ x[t], min=0) ** 2)
    close(op(x, weights, indices, fc1, up, down, fc2, sup, sdown), torch.stack(expected))
    close(
        op(x @ fc1.T, weights, indices, None, up, down, None),
        ref.moe_mlp(x @ fc1.T, up, down, weights, indices.long()),
    )


EXPERT_FAULTS: dict[str, kit.Fault] = {
    "expert input not latent": kit.on_argument("fc1", lambda w: torch.eye(*w.shape, dtype=F64)),
    "dropped pair computed": kit.on_argument("indices", lambda i: i.clamp(min=0)),
    "weights forgotten": kit.on_argument("weights", torch.ones_like),
    "shared expert forgotten": kit.on_argument("shared_down", torch.zeros_like),
    "shared expert scaled": kit.on_argument("shared_down", lambda w: 2.5 * w),
    "experts shifted": kit.on_argument("up", lambda w: w.roll(1, 0)),
    "pairs swapped": kit.on_argument("weights", lambda w: w.flip(1)),
}


def test_experts_and_their_faults() -> None:
    kit.assert_all_caught(ref.latent_moe, EXPERT_FAULTS, check_experts)


def check_groups(op: kit.Op) -> None:
    g = kit.generator("groups")
    a, b = kit.normal((20, 5), g, F64), kit.normal((6, 4, 5), g, F64)
    for ends in (kit.group_ends(20, 6, g), torch.tensor([0, 0, 20, 20, 20, 20])):
        for activation in (None, "relu2"):
            expected = torch.zeros(20, 4, dtype=F64)
            for row in range(int(ends[-1])):
                e = int((ends <= row).sum())
                v = b[e] @ a[row]
                expected[row] = torch.clamp(v, min=0) ** 2 if activation else v
            close(op(a, b, ends, activation=activation), expected)


GROUP_FAULTS: dict[str, kit.Fault] = {
    "start offsets": kit.on_argument("offsets", lambda o: F.pad(o[:-1], (1, 0))),
    "rows past the end computed": kit.on_argument("offsets", lambda o: o.index_fill(0, torch.tensor([5]), 20)),
    "relu instead of relu2": lambda op: lambda *a, activation: (
        op(*a, activation=activation) ** (0.5 if activation else 1)
    ),
    "last column dropped": kit.drop_tail,
    "one wrong element": kit.wrong_element,
}  # fmt: skip


def test_grouped_gemm_and_its_faults() -> None:
    kit.assert_all_caught(ref.grouped_gemm, GROUP_FAULTS, check_groups)


def test_experts_round_the_hidden_layer_once() -> None:
    x = torch.ones(1, 1).bfloat16()
    up = torch.tensor([[[1.0078125]]]).bfloat16()  # its square needs 15 bits
    down = torch.full((1, 1, 1), 0.5).bfloat16()
    one, zero = torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int32)
    out = ref.moe_mlp(x, up, down, 3 * one, zero)
    hidden = torch.tensor(1.0078125**2).bfloat16()
    kit.assert_same_bits(out, (3 * 0.5 * hidden.float()).bfloat16().view(1, 1))


# Derivatives of every op, from finite differences in float64.


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
               leaf(2, 2), leaf(2, 5, 2, 2, name="z"), leaf(2, name="bias"), leaf(2, 2, 2, 3)]  # fmt: skip
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
