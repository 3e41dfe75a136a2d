# SPDX-License-Identifier: Apache-2.0
"""The reference convolution and its update against torch, and in their semantics."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from exact import close
from warpweave import reference as ref
from warpweave import testing as kit

F64 = torch.float64
B, T, C = 2, 13, 6
CUTS = torch.tensor([0, 0, 5, 12, 13])


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
        assert y.shape == (B, C)
        assert (y == 0).all()
        kit.assert_same_bits(state, before)


UPDATE_FAULTS: dict[str, kit.Fault] = {
    "state not written": kit.on_argument("conv_state", torch.clone),
    "taps reversed": kit.on_argument("weight", lambda w: w.flip(1)),
    "circle off by one": kit.on_argument("cache_seqlens", lambda n: n + 1),
    "slots ignored": kit.on_argument("conv_state_indices", lambda i: i.sort().values),
    "padding computed": kit.on_argument(
        "conv_state_indices", lambda i: torch.where(i < 0, -1 - i, i)
    ),
}


def test_update_and_its_faults() -> None:
    kit.assert_all_caught(ref.causal_conv1d_update, UPDATE_FAULTS, check_update)
