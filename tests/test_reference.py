# SPDX-License-Identifier: Apache-2.0
"""The reference norm, router and experts against loops."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from exact import close
from warpweave import reference as ref
from warpweave import testing as kit

F64 = torch.float64


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


def _to_the_end(offsets: Tensor) -> Tensor:
    return F.pad(offsets[:-1], (0, 1), value=20)


GROUP_FAULTS: dict[str, kit.Fault] = {
    "start offsets": kit.on_argument("offsets", lambda o: F.pad(o[:-1], (1, 0))),
    "rows past the end computed": kit.on_argument("offsets", _to_the_end),
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
