# SPDX-License-Identifier: Apache-2.0
"""The reference ops against second definitions, hand-computed cases and their own semantics."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from warpweave import reference as ref
from warpweave import testing as kit

F64 = torch.float64
B, T, H, P, G, N, C = 2, 13, 4, 3, 2, 5, 6
CUTS = torch.tensor([0, 0, 5, 12, 13])


def close(actual: Any, expected: Any, tol: float = 1e-12) -> None:
    """Same shape, and within tol of the largest expected magnitude."""
    if isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            close(a, e, tol)
        return
    assert actual.shape == expected.shape and actual.isfinite().all()
    if expected.numel():
        error = float((actual - expected).abs().max())
        assert error <= tol * max(1.0, float(expected.abs().max())), f"error {error:.3g}"


def scan_case(name: str, T: int = T, rows: int = B) -> dict[str, Any]:
    g = kit.generator(name)

    def draw(*shape: int) -> Tensor:
        return kit.normal(shape, g, F64)

    return {
        "x": draw(rows, T, H, P), "dt": kit.time_steps((rows, T, H), g, F64),
        "A": kit.decays(H).double(), "B": draw(rows, T, G, N), "C": draw(rows, T, G, N),
        "D": draw(H, P), "z": draw(rows, T, H, P), "dt_bias": draw(H), "dt_softplus": True,
        "initial_states": draw(rows, H, P, N),
    }  # fmt: skip


def part(case: dict[str, Any], lo: int, hi: int, h: Tensor | None) -> dict[str, Any]:
    cut = {k: v[:, lo:hi] for k, v in case.items() if k in ("x", "dt", "B", "C", "z")}
    return case | cut | {"initial_states": h}


# The scan: two definitions, then what its options mean.


@pytest.mark.parametrize("chunk_size", [1, 5, 13, 64])
@pytest.mark.parametrize("segments", ["one", "seq_idx", "cu_seqlens"])
def test_recurrence_equals_quadratic_form(segments: str, chunk_size: int) -> None:
    case = scan_case("dual" + segments, rows=B if segments != "cu_seqlens" else 1)
    if segments == "seq_idx":
        case["seq_idx"] = torch.tensor([[3] * 4 + [1] * 2 + [3] * 7, [0] * 12 + [9]]).int()
    if segments == "cu_seqlens":
        case["cu_seqlens"] = CUTS
        case["initial_states"] = kit.normal((4, H, P, N), kit.generator("states"), F64)
    leaves = {
        k: v.requires_grad_() for k, v in case.items() if torch.is_tensor(v) and v.dtype == F64
    }
    results = []
    for form in (ref.ssd_scan, ref.ssd_scan_quadratic):
        y, h = form(**case, chunk_size=chunk_size, return_final_states=True)
        loss = (y * torch.cos(y.detach())).sum() + h.square().sum()
        results.append((y.detach(), h.detach(), *torch.autograd.grad(loss, list(leaves.values()))))
    close(results[1], results[0], 1e-12)


def test_scan_by_hand() -> None:
    one = torch.ones(1, 1, 1, dtype=F64)
    x = torch.tensor([2.0, 3.0], dtype=F64).view(1, 2, 1, 1)
    dt = torch.tensor([0.5, 1.0], dtype=F64).view(1, 2, 1)
    b = torch.tensor([4.0, 5.0], dtype=F64).view(1, 2, 1, 1)
    c = torch.tensor([6.0, 7.0], dtype=F64).view(1, 2, 1, 1)
    A = torch.tensor([-math.log(2.0)], dtype=F64)
    # h0 = 8, a0 = 2^-0.5: h1 = 8 a0 + 0.5*2*4; a1 = 1/2: h2 = h1/2 + 3*5
    h1 = 8 / math.sqrt(2) + 4
    h2 = h1 / 2 + 15
    y, h = ref.ssd_scan(
        x, dt, A, b, c, D=10 * one[0, 0], initial_states=8 * one[None], return_final_states=True
    )
    close(y.flatten(), torch.tensor([6 * h1 + 20, 7 * h2 + 30], dtype=F64))
    close(h.flatten(), torch.tensor([h2], dtype=F64))


@pytest.mark.parametrize(
    ("softplus", "limit", "expected"),
    [(False, (0.0, math.inf), [0.0, 3.0, 31.0]), (False, (0.5, 2.0), [0.5, 2.0, 2.0]),
     (True, (0.0, math.inf), [math.log1p(math.exp(-5)), math.log1p(math.exp(3)), 31.0])],
)  # fmt: skip
def test_time_step(softplus: bool, limit: tuple[float, float], expected: list[float]) -> None:
    dt = torch.tensor([-6.0, 2.0, 30.0], dtype=F64).view(1, 3, 1)
    one = torch.ones(1, 3, 1, 1, dtype=F64)
    A, bias = torch.tensor([-1e9], dtype=F64), torch.ones(1, dtype=F64)
    y = ref.ssd_scan(one, dt, A, one, one, dt_bias=bias, dt_softplus=softplus, dt_limit=limit)
    close(y.flatten(), torch.tensor(expected, dtype=F64))  # nothing survives the decay


@pytest.mark.parametrize("form", [ref.ssd_scan, ref.ssd_scan_quadratic])
def test_scan_split_anywhere_equals_one_shot(form: kit.Op) -> None:
    case = scan_case("split")
    whole = form(**case, return_final_states=True)
    for t in range(T + 1):
        y1, h1 = form(**part(case, 0, t, case["initial_states"]), return_final_states=True)
        y2, h2 = form(**part(case, t, T, h1), return_final_states=True)
        close((torch.cat([y1, y2], 1), h2), whole)


@pytest.mark.parametrize("form", [ref.ssd_scan, ref.ssd_scan_quadratic])
def test_packed_sequences_equal_each_alone(form: kit.Op) -> None:
    case = scan_case("packed", rows=1)
    states = kit.normal((4, H, P, N), kit.generator("states"), F64)
    packed = form(**case | {"initial_states": states}, cu_seqlens=CUTS, return_final_states=True)
    bounds = CUTS.tolist()
    alone = [
        form(**part(case, lo, hi, states[i : i + 1]), return_final_states=True)
        for i, (lo, hi) in enumerate(pairwise(bounds))
    ]
    close(packed, (torch.cat([y for y, _ in alone], 1), torch.cat([h for _, h in alone])))
    close(packed[1][0], states[0])  # the empty sequence
    seq = form(**case, seq_idx=kit.seq_idx_of(CUTS))
    zero = states.clone() * 0
    zero[1] = case["initial_states"][0]  # the initial state belongs to the first token's sequence
    close(seq, form(**case | {"initial_states": zero}, cu_seqlens=CUTS))


@pytest.mark.parametrize("form", [ref.ssd_scan, ref.ssd_scan_quadratic])
def test_empty_scan_returns_the_initial_state(form: kit.Op) -> None:
    case = scan_case("empty", T=0)
    y, h = form(**case, return_final_states=True)
    assert y.shape == (B, 0, H, P)
    close(h, case["initial_states"])
    none = scan_case("none", T=0, rows=1) | {"initial_states": torch.empty(0, H, P, N, dtype=F64)}
    y, h = form(**none, cu_seqlens=torch.tensor([0]), return_final_states=True)
    assert y.shape == (1, 0, H, P) and h.shape == (0, H, P, N)


def test_scan_dtypes() -> None:
    case = {k: v.bfloat16() if torch.is_tensor(v) else v for k, v in scan_case("dtype").items()}
    y, h = ref.ssd_scan(**case, return_final_states=True)
    assert y.dtype == torch.bfloat16 and h.dtype == torch.float32


def check_scan(op: kit.Op) -> None:
    case = scan_case("faults") | {"seq_idx": torch.tensor([[0] * 6 + [1] * 7, [0] * 13]).int()}
    expected = ref.ssd_scan_quadratic(**case, return_final_states=True)
    close(op(**case, return_final_states=True), expected)


def _drop_decay(A: Tensor) -> Tensor:
    return A * 0


SCAN_FAULTS: dict[str, kit.Fault] = {
    "B and C swapped": lambda op: lambda **k: op(**k | {"B": k["C"], "C": k["B"]}),
    "no decay": kit.on_argument("A", _drop_decay),
    "initial state ignored": kit.on_argument("initial_states", torch.zeros_like),
    "state kept over seq_idx": kit.on_argument("seq_idx", torch.zeros_like),
    "softplus forgotten": kit.on_argument("dt_softplus", lambda _: False),
    "bias forgotten": kit.on_argument("dt_bias", torch.zeros_like),
    "D of another head": kit.on_argument("D", lambda D: D.roll(1, 0)),
    "gate as sigmoid": kit.on_argument("z", lambda z: z + 1e-9),
    "groups interleaved": kit.on_argument("B", lambda b: b.flip(2)),
    "last token dropped": kit.on_result(lambda y: y * (torch.arange(T) < T - 1)[:, None, None]),
    "final state of the token before": lambda op: lambda **k: (
        op(**k)[0], op(**part(k, 0, T - 1, k["initial_states"]) | {"seq_idx": k["seq_idx"][:, :-1]})[1]
    ),
}  # fmt: skip


def test_scan_faults_are_caught() -> None:
    kit.assert_all_caught(ref.ssd_scan, SCAN_FAULTS, check_scan)


# The step.


def step_case(name: str, T: int = 4) -> dict[str, Any]:
    case = scan_case(name, T=T)
    case["state"] = case.pop("initial_states")
    return case


def check_step(op: kit.Op) -> None:
    case = step_case("step")
    state, seen = case["state"].clone(), torch.zeros(B, 4, H, P, N, dtype=F64)
    y = op(**case | {"state": state}, intermediate_states=seen)
    scan = {k: v for k, v in case.items() if k != "state"}
    expected = ref.ssd_scan_quadratic(
        **scan, initial_states=case["state"], return_final_states=True
    )
    close((y, state), expected)
    for t in range(4):
        upto = part(scan, 0, t + 1, case["state"])
        close(seen[:, t], ref.ssd_scan_quadratic(**upto, return_final_states=True)[1])
    # one token without a time axis, slots in another order, one row of padding
    one = {k: v[:, 0] if k in ("x", "dt", "B", "C", "z") else v for k, v in case.items()}
    slots = kit.normal((5, H, P, N), kit.generator("slots"), F64)
    before, index = slots.clone(), torch.tensor([3, -1], dtype=torch.int32)
    y = op(**one | {"state": slots}, state_indices=index)
    first = part(scan, 0, 1, torch.stack([before[3], before[3]]))
    expected = ref.ssd_scan_quadratic(**first, return_final_states=True)
    close(y[0], expected[0][0, 0])
    close(slots[3], expected[1][0])
    assert (y[1] == 0).all()
    kit.assert_same_bits(slots[[0, 1, 2, 4]], before[[0, 1, 2, 4]])


STEP_FAULTS: dict[str, kit.Fault] = {
    "state not written": kit.on_argument("state", torch.clone),
    "intermediates not written": kit.on_argument("intermediate_states", torch.clone),
    "wrong slot": kit.on_argument("state_indices", lambda i: torch.where(i >= 0, i - 1, i)),
    "padding computed": kit.on_argument("state_indices", lambda i: torch.where(i < 0, 0, i)),
    "B and C swapped": lambda op: lambda **k: op(**k | {"B": k["C"], "C": k["B"]}),
    "gate forgotten": kit.on_argument("z", torch.ones_like),
}


def test_step_and_its_faults() -> None:
    kit.assert_all_caught(ref.ssm_step, STEP_FAULTS, check_step)


def test_narrow_state_is_rounded_once() -> None:
    case = {k: v.float() if torch.is_tensor(v) else v for k, v in step_case("narrow").items()}
    state = case["state"].bfloat16()
    scan = {k: v for k, v in case.items() if k != "state"}
    expected = ref.ssd_scan(**scan, initial_states=state.float(), return_final_states=True)
    y = ref.ssm_step(**case | {"state": state})
    kit.assert_same_bits(state, expected[1].bfloat16())
    kit.assert_same_bits(y, expected[0])


# The convolution.


def conv_case(name: str, W: int = 4) -> dict[str, Any]:
    g = kit.generator(name)
    return {"x": kit.normal((B, C, T), g, F64), "weight": kit.normal((C, W), g, F64),
            "bias": kit.normal((C,), g, F64),
            "initial_states": kit.normal((B, C, W - 1), g, F64)}  # fmt: skip


def check_conv(op: kit.Op, W: int = 4) -> None:
    case = conv_case("conv", W)
    columns = torch.cat([case["initial_states"], case["x"]], 2)
    plain = F.conv1d(columns, case["weight"][:, None], case["bias"], groups=C)
    final = columns[:, :, T:]
    close(op(**case, return_final_states=True), (plain, final))
    close(op(**case, activation="silu"), plain * torch.sigmoid(plain))
    # sequences by seq_idx: each alone, the first with the initial state
    ids = torch.tensor([[0] * 5 + [-1] + [7] * 7, [2] * 12 + [4]], dtype=torch.int32)
    y, state = op(**case, activation="silu", seq_idx=ids, return_final_states=True)
    for row, spans in ((0, [(0, 5), (6, 13)]), (1, [(0, 12), (12, 13)])):
        for lo, hi in spans:
            start = case["initial_states"][row : row + 1] * (lo == 0)
            piece = torch.cat([start, case["x"][row : row + 1, :, lo:hi]], 2)
            alone = F.silu(F.conv1d(piece, case["weight"][:, None], case["bias"], groups=C))
            close(y[row : row + 1, :, lo:hi], alone)
    assert (y[0, :, 5] == 0).all()
    close(state[0], case["x"][0, :, T - W + 1 :])
    close(state[1], F.pad(case["x"][1, :, T - 1 :], (W - 2, 0)))


CONV_FAULTS: dict[str, kit.Fault] = {
    "taps reversed": kit.on_argument("weight", lambda w: w.flip(1)),
    "bias forgotten": kit.on_argument("bias", torch.zeros_like),
    "initial state ignored": kit.on_argument("initial_states", torch.zeros_like),
    "initial state reversed": kit.on_argument("initial_states", lambda s: s.flip(2)),
    "sequences leak": kit.on_argument("seq_idx", lambda i: torch.where(i < 0, i, 0)),
    "padding computed": kit.on_argument("seq_idx", torch.abs),
    "silu twice": lambda op: lambda **k: op(**k | {"activation": "silu"}),
    "looks ahead": kit.on_result(lambda y: y.roll(-1, 2)),
    "last channel dropped": kit.on_result(lambda y: y * (torch.arange(C) < C - 1)[:, None]),
}


@pytest.mark.parametrize("W", [2, 3, 4])
def test_conv_equals_torch(W: int) -> None:
    check_conv(ref.causal_conv1d, W)


def test_conv_faults_are_caught() -> None:
    kit.assert_all_caught(ref.causal_conv1d, CONV_FAULTS, check_conv)


def test_conv_split_anywhere_equals_one_shot() -> None:
    case = conv_case("conv split")
    whole = ref.causal_conv1d(**case, return_final_states=True)
    for t in range(T + 1):
        first = case | {"x": case["x"][:, :, :t]}
        y1, s1 = ref.causal_conv1d(**first, return_final_states=True)
        rest = case | {"x": case["x"][:, :, t:], "initial_states": s1}
        y2, s2 = ref.causal_conv1d(**rest, return_final_states=True)
        close((torch.cat([y1, y2], 2), s2), whole)


def test_packed_convs_equal_each_alone() -> None:
    case = conv_case("conv packed")
    x, states = case["x"][:1], kit.normal((4, C, 3), kit.generator("conv states"), F64)
    packed = ref.causal_conv1d(
        **case | {"x": x, "initial_states": states}, cu_seqlens=CUTS, return_final_states=True
    )
    bounds = CUTS.tolist()
    alone = [
        ref.causal_conv1d(
            **case | {"x": x[:, :, lo:hi], "initial_states": states[i : i + 1]},
            return_final_states=True,
        )
        for i, (lo, hi) in enumerate(pairwise(bounds))
    ]
    close(packed, (torch.cat([y for y, _ in alone], 2), torch.cat([s for _, s in alone])))
    close(packed[1][0], states[0])


def check_update(op: kit.Op) -> None:
    case = conv_case("update")
    x, start, options = case["x"], case.pop("initial_states"), {"activation": "silu"}
    whole, final = ref.causal_conv1d(
        **case, initial_states=start, activation="silu", return_final_states=True
    )
    case.pop("x")
    # shifting state, tokens one by one and several at a time, wider than the window
    for S, sizes in ((3, [1] * T), (3, [5, 1, 7]), (6, [2, 0, 8, 3])):
        state = torch.cat([torch.full((B, C, S - 3), 99.0, dtype=F64), start], 2)
        pieces = [op(t, state, **case, **options) for t in x.split(sizes, 2)]
        close((torch.cat(pieces, 2), state[:, :, -3:]), (whole, final))
    # circular state, rows at different places, in slots, with a row of padding
    for S in (3, 5):
        state, at = torch.full((4, C, S), 99.0, dtype=F64), torch.tensor([7, 4], dtype=torch.int32)
        index = torch.tensor([2, 0], dtype=torch.int32)
        for b in range(B):
            for j in range(3):
                state[index[b], :, (int(at[b]) - 3 + j) % S] = start[b, :, j]
        untouched = state[[1, 3]].clone()
        pieces = []
        for t in x.split([1, 2, 9, 1], 2):
            more = {"cache_seqlens": at, "conv_state_indices": index, **options}
            pieces.append(op(t, state, **case, **more))
            at = at + t.shape[2]
        close(torch.cat(pieces, 2), whole)
        for b in range(B):
            for j in range(3):
                close(state[index[b], :, (int(at[b]) - 3 + j) % S], final[b, :, j])
        kit.assert_same_bits(state[[1, 3]], untouched)
        before = state.clone()
        padding = torch.tensor([-1, -4], dtype=torch.int32)
        y = op(x[:, :, 0], state, **case, conv_state_indices=padding)
        assert y.shape == (B, C) and (y == 0).all()
        kit.assert_same_bits(state, before)


UPDATE_FAULTS: dict[str, kit.Fault] = {
    "state not written": kit.on_argument("conv_state", torch.clone),
    "taps reversed": kit.on_argument("weight", lambda w: w.flip(1)),
    "circle off by one": kit.on_argument("cache_seqlens", lambda n: n + 1),
    "slots ignored": kit.on_argument("conv_state_indices", lambda i: i.sort().values),
    "padding computed": kit.on_argument("conv_state_indices", lambda i: torch.where(i < 0, -1 - i, i)),
}


def test_update_and_its_faults() -> None:
    kit.assert_all_caught(ref.causal_conv1d_update, UPDATE_FAULTS, check_update)


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
    "groups ignored": kit.on_argument("n_group", lambda _: 1),
    "scale forgotten": kit.on_argument("scale", lambda _: 1.0),
    "not normalised": kit.on_argument("normalize", lambda n: not n),
    "ties to the highest index": lambda op: lambda x, w, b, **o: (
        (r := op(x, w.flip(0), b.flip(0), **o))[0], 15 - r[1]
    ),
}  # fmt: skip


def test_route_and_its_faults() -> None:
    def grouped_like_one(op: kit.Op) -> kit.Op:
        return lambda *a, **o: op(*a, **o | {"n_group": 1, "topk_group": 1})

    faults = ROUTE_FAULTS | {"groups ignored": grouped_like_one}
    kit.assert_all_caught(ref.moe_route, faults, check_route)


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
    "rows past the end computed": kit.on_argument("offsets", lambda o: o.clone().index_fill_(0, torch.tensor([5]), 20)),
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

X, STATE, CONV = torch.zeros(2, 4, 2, 3), torch.ones(3, 2, 3, 5), torch.ones(3, 6, 3)
BC, DT, A1 = torch.zeros(2, 4, 1, 5), torch.zeros(2, 4, 2), torch.zeros(2)
I32 = torch.int32
REFUSED: dict[str, tuple[type[Exception], str, kit.Op]] = {
    "scan B": (ValueError, "^B has shape", lambda: ref.ssd_scan(X, DT, A1, BC[:1], BC)),
    "scan G": (ValueError, "^B has G = 3", lambda: ref.ssd_scan(X, DT, A1, BC.repeat(1, 1, 3, 1), BC)),
    "scan D": (ValueError, "^D has shape", lambda: ref.ssd_scan(X, DT, A1, BC, BC, D=torch.zeros(3))),
    "scan seq_idx": (TypeError, "^seq_idx", lambda: ref.ssd_scan(X, DT, A1, BC, BC, seq_idx=torch.zeros(2, 4))),
    "scan packed": (ValueError, "B == 1", lambda: ref.ssd_scan(X, DT, A1, BC, BC, cu_seqlens=torch.tensor([0, 4]))),
    "scan cuts": (ValueError, r"\[0, 3, 2, 4\]", lambda: ref.ssd_scan(X[:1], DT[:1], A1, BC[:1], BC[:1], cu_seqlens=torch.tensor([0, 3, 2, 4]))),
    "step slots": (ValueError, "^state_indices", lambda: ref.ssm_step(STATE, X, DT, A1, BC, BC, state_indices=torch.tensor([1, 1], dtype=I32))),
    "step range": (ValueError, "below 3 slots", lambda: ref.ssm_step(STATE, X, DT, A1, BC, BC, state_indices=torch.tensor([1, 3], dtype=I32))),
    "step dtype": (TypeError, "int64", lambda: ref.ssm_step(STATE, X, DT, A1, BC, BC, state_indices=torch.tensor([1, 2]))),
    "conv weight": (ValueError, "^weight has shape", lambda: ref.causal_conv1d(torch.zeros(2, 5, 3), torch.zeros(4, 4))),
    "conv activation": (ValueError, "'relu'", lambda: ref.causal_conv1d(torch.zeros(2, 4, 3), torch.zeros(4, 4), activation="relu")),
    "conv both": (ValueError, "^seq_idx and cu_seqlens", lambda: ref.causal_conv1d(torch.zeros(1, 4, 3), torch.zeros(4, 4), seq_idx=torch.zeros(1, 3, dtype=I32), cu_seqlens=torch.tensor([0, 3]))),
    "conv initial": (TypeError, "^initial_states", lambda: ref.causal_conv1d(torch.zeros(2, 4, 3), torch.zeros(4, 4), initial_states=torch.zeros(2, 4, 3).half())),
    "update state": (ValueError, "^conv_state has 3", lambda: ref.causal_conv1d_update(torch.zeros(3, 6), CONV, torch.zeros(6, 5))),
    "update dtype": (TypeError, "^conv_state", lambda: ref.causal_conv1d_update(torch.zeros(3, 6).double(), CONV, torch.zeros(6, 4))),
    "norm both": (ValueError, "^residual and gate", lambda: ref.rms_norm(A1, A1, residual=A1, gate=A1)),
    "norm group": (ValueError, "^group_size is 3", lambda: ref.rms_norm(A1, A1, group_size=3)),
    "route top_k": (ValueError, "^top_k is 5", lambda: ref.moe_route(torch.zeros(1, 2), torch.zeros(8, 2), None, top_k=5, n_group=4, topk_group=2)),
    "gemm offsets": (ValueError, "^offsets", lambda: ref.grouped_gemm(torch.zeros(3, 2), torch.zeros(2, 2, 2), torch.tensor([2, 4]))),
    "moe indices": (ValueError, "^indices holds 0 to 6", lambda: ref.moe_mlp(torch.zeros(2, 3), torch.zeros(6, 4, 3), torch.zeros(6, 3, 4), torch.zeros(2, 2), torch.tensor([[0, 1], [6, 2]]))),
    "latent pair": (ValueError, "^fc2 is None", lambda: ref.latent_moe(torch.zeros(2, 3), torch.zeros(2, 1), torch.zeros(2, 1, dtype=I32), torch.zeros(2, 3), torch.zeros(2, 4, 2), torch.zeros(2, 2, 4), None)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    error, message, call = REFUSED[name]
    with pytest.raises(error, match=message):
        call()
    assert (STATE == 1).all() and (CONV == 1).all()
