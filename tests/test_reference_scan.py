# SPDX-License-Identifier: Apache-2.0
"""The reference scan and step against a second definition, by hand, and in their semantics."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from exact import close
from warpweave import reference as ref
from warpweave import testing as kit

F64 = torch.float64
B, T, H, P, G, N = 2, 13, 4, 3, 2, 5
CUTS = torch.tensor([0, 0, 5, 12, 13])


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
    assert y.shape == (1, 0, H, P)
    assert h.shape == (0, H, P, N)


def test_scan_dtypes() -> None:
    case = {k: v.bfloat16() if torch.is_tensor(v) else v for k, v in scan_case("dtype").items()}
    y, h = ref.ssd_scan(**case, return_final_states=True)
    assert y.dtype == torch.bfloat16
    assert h.dtype == torch.float32


def check_scan(op: kit.Op) -> None:
    case = scan_case("faults") | {"seq_idx": torch.tensor([[0] * 6 + [1] * 7, [0] * 13]).int()}
    expected = ref.ssd_scan_quadratic(**case, return_final_states=True)
    close(op(**case, return_final_states=True), expected)


def _state_before_the_last(op: kit.Op) -> kit.Op:
    def wrong(**k: Any) -> Any:
        short = part(k, 0, T - 1, k["initial_states"]) | {"seq_idx": k["seq_idx"][:, :-1]}
        return op(**k)[0], op(**short)[1]

    return wrong


SCAN_FAULTS: dict[str, kit.Fault] = {
    "B and C swapped": lambda op: lambda **k: op(**k | {"B": k["C"], "C": k["B"]}),
    "no decay": kit.on_argument("A", torch.zeros_like),
    "initial state ignored": kit.on_argument("initial_states", torch.zeros_like),
    "state kept over seq_idx": kit.on_argument("seq_idx", torch.zeros_like),
    "softplus forgotten": kit.on_argument("dt_softplus", lambda _: False),
    "bias forgotten": kit.on_argument("dt_bias", torch.zeros_like),
    "D of another head": kit.on_argument("D", lambda D: D.roll(1, 0)),
    "gate off by 1e-9": kit.on_argument("z", lambda z: z + 1e-9),
    "groups interleaved": kit.on_argument("B", lambda b: b.flip(2)),
    "last token dropped": kit.on_result(lambda y: y * (torch.arange(T) < T - 1)[:, None, None]),
    "final state of the token before": _state_before_the_last,
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
