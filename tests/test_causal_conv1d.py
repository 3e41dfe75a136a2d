# SPDX-License-Identifier: Apache-2.0
from math import inf, nan
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native import (
    DTYPES,
    Case,
    check_case,
    check_compiled,
    check_refused,
    check_repeatable,
    far_apart,
    run,
)
from warpweave import ops
from warpweave import reference as ref
from warpweave import testing as kit

OP = "causal_conv1d"
BF16, F32 = torch.bfloat16, torch.float32
# B, C, T, W: around the token group of 8, the tiles of 256 and every width; channel-last, then
# channel-first, in turn
SHAPES: list[tuple[int, ...]] = [
    (2, 5, 300, 4),
    (1, 300, 9, 4),
    (3, 33, 17, 3),
    (1, 257, 7, 2),
    (2, 1, 256, 2),
    (1, 64, 257, 4),
    (2, 7, 1, 4),
    (2, 7, 2, 3),
    (0, 4, 8, 4),
    (2, 0, 8, 4),
    (2, 4, 0, 4),
    (1, 3, 600, 4),
    (2, 16, 21, 4),
    (1, 2, 536, 3),
    (1, 8, 15, 3),
    (1, 2, 520, 2),
    (1, 24, 9, 2),
    (1, 2, 9, 2),
    (1, 5, 9, 2),
]


def make(B: int, C: int, T: int, W: int, dtype: torch.dtype = BF16, options: str = "",
         channel_last: bool = False) -> Case:  # fmt: skip
    """Options: a for silu, b for bias, s for states, i for seq_idx with padding, c for cu_seqlens,
    f for fp32 weights."""
    g = kit.generator(f"{B}{C}{T}{W}{options}")
    x = kit.with_outliers(kit.normal((B, C, T), g), g, 8.0).to(dtype)
    weights = F32 if "f" in options else dtype
    case: Case = {
        "x": kit.permuted(x, 0, 2, 1) if channel_last else x,
        "weight": kit.normal((C, W), g, weights),
        "bias": kit.normal((C,), g, weights) if "b" in options else None,
        "activation": "silu" if "a" in options else None,
        "return_final_states": True,
    }
    rows = B
    if "c" in options:
        rows = max(4, T // 2)  # many of a few tokens, and of none
        case["cu_seqlens"] = kit.cut_points(T, rows, g)
    if "i" in options:
        idx = (torch.rand(B, T, generator=g) < 0.2).cumsum(1).to(torch.int32)
        case["seq_idx"] = torch.where(idx % 4 == 2, -1, idx).to(torch.int32)
    if "s" in options:
        case["initial_states"] = kit.normal((rows, C, W - 1), g, dtype)
    return case


def packed_around_steps(dtype: torch.dtype, channel_last: bool = False) -> Case:
    """Sequences that start at, and a token before, what a warp does in one step; one is empty."""
    case = make(1, 3, 600, 4, dtype, "abcs", channel_last)
    states = case["initial_states"][:4]
    return case | {"cu_seqlens": torch.tensor([0, 255, 512, 512, 600]), "initial_states": states}


def magnitudes(**case: Any) -> Any:
    """|terms| of every element: the same convolution over absolute values, not activated."""
    positive = ("x", "weight", "bias", "initial_states")
    absolute = {k: case[k].abs() for k in positive if case.get(k) is not None}
    return ref.causal_conv1d(**case | absolute | {"activation": None})


def check_one(op: kit.Op, case: Case) -> None:
    check_case(op, ref.causal_conv1d, case, terms=magnitudes)


def check(op: kit.Op, dtype: torch.dtype = BF16) -> None:
    for i, shape in enumerate(SHAPES):
        for options in ["", "abs", "abi", "bsif"]:
            case = make(*shape, dtype, options, channel_last=i % 2 == 0)
            check_one(op, case)
        if shape[0] == 1:
            check_one(op, make(*shape, dtype, "abcs", i % 2 == 0))
    check_one(op, packed_around_steps(dtype))
    for value in (nan, inf):
        case = make(*SHAPES[0], dtype, "abs")
        case["x"][1, 2, 100] = value
        check_one(op, case)


def forget(name: str) -> kit.Fault:
    return lambda op: lambda **k: op(**{key: v for key, v in k.items() if key != name})


def shift_states(op: kit.Op) -> kit.Op:
    def wrong(**k: Any) -> Any:
        out, states = op(**k)
        return out, states.roll(1, -1)

    return wrong


FAULTS: dict[str, kit.Fault] = {
    "truncated": kit.truncate,
    "one wrong element": kit.wrong_element,
    "tail dropped": kit.drop_tail,
    "NaN swallowed": kit.swallow_nan,
    "taps reversed": kit.on_argument("weight", lambda w: w.flip(1)),
    "taps shifted": kit.on_argument("weight", lambda w: w.roll(1, 1)),
    "bias dropped": forget("bias"),
    "activation forgotten": forget("activation"),
    "initial states ignored": forget("initial_states"),
    "initial states reversed": kit.on_argument("initial_states", lambda s: s.flip(-1)),
    "final states moved": shift_states,
    "seq_idx ignored": forget("seq_idx"),
    "padding computed": kit.on_argument("seq_idx", lambda i: i + 1),
    "sequence cut one token late": kit.on_argument(
        "cu_seqlens", lambda c: torch.cat([c[:1], (c[1:-1] + 1).clamp(max=c[-1]), c[-1:]])
    ),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy(target: str, dtype: torch.dtype) -> None:
    check(ops.causal_conv1d, dtype)


def test_planted_faults() -> None:
    kit.assert_all_caught(ops.causal_conv1d, FAULTS, check)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts_strides_and_threads(target: str, threads: None, dtype: torch.dtype) -> None:
    case = make(2, 70, 300, 4, dtype, "absi")
    check_repeatable(ops.causal_conv1d, case)
    expected = run(ops.causal_conv1d, case)
    tensors = {k: v for k, v in case.items() if isinstance(v, torch.Tensor)}
    for change in (
        lambda t: kit.permuted(t, *reversed(range(t.dim()))),
        kit.strided,
        lambda t: kit.strided(t.repeat_interleave(2, -1))[..., ::2],  # no unit stride: one copy
    ):
        moved = case | {k: change(t) for k, t in tensors.items()}
        for actual, e in zip(run(ops.causal_conv1d, moved), expected, strict=True):
            kit.assert_same_bits(actual, e)
    channel_last = ops.causal_conv1d(kit.permuted(case["x"], 0, 2, 1), case["weight"])
    assert channel_last.stride() == (70 * 300, 1, 70)


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4, 8, 255, 256])
def test_a_cut_sequence_continues(target: str, cut: int) -> None:
    case = make(2, 40, 300, 4, BF16, "abs")
    whole, final = ops.causal_conv1d(**case)
    head, state = ops.causal_conv1d(**case | {"x": case["x"][..., :cut]})
    tail, state = ops.causal_conv1d(**case | {"x": case["x"][..., cut:], "initial_states": state})
    kit.assert_same_bits(torch.cat([head, tail], -1), whole)
    kit.assert_same_bits(state, final)


def test_offsets_past_two_to_the_31(target: str) -> None:
    for dim in (1, 2):
        case = make(1, 20, 12, 4, BF16, "ab", channel_last=dim == 2)
        expected = ops.causal_conv1d(**case)[0]
        moved = case | {"x": far_apart(case["x"].contiguous(), dim)}
        kit.assert_same_bits(ops.causal_conv1d(**moved)[0], expected)


def test_refusals() -> None:
    case = make(1, 6, 12, 4, BF16, "abs")
    for change, message in [
        ({"x": case["x"].double()}, "'x' is float64; supported: float32, bfloat16, float16"),
        ({"x": case["x"][0]}, r"'x' has shape \(6, 12\), expected \(B, C, T\)"),
        (
            {"weight": case["weight"].half(), "bias": None},
            "'weight' is float16; supported: float32 or",
        ),
        (
            {"weight": case["weight"][:5]},
            r"'weight' has shape \(5, 4\), expected \(C, W\) = \(6, 4\)",
        ),
        (
            {"weight": torch.zeros(6, 5, dtype=BF16), "initial_states": None},
            "'weight' has width 5; supported: 2, 3, 4",
        ),
        ({"bias": case["bias"].float()}, "'bias' is float32; supported: bfloat16"),
        ({"activation": "gelu"}, "'activation' is 'gelu'; supported: None, 'silu'"),
        (
            {"initial_states": case["initial_states"][..., :2]},
            r"'initial_states' has shape \(1, 6, 2\)",
        ),
        ({"seq_idx": torch.zeros(1, 12)}, "'seq_idx' is float32; supported: int32"),
        (
            {"seq_idx": torch.zeros(1, 12).int(), "cu_seqlens": torch.tensor([0, 12])},
            "exclude each other",
        ),
        ({"cu_seqlens": torch.tensor([0, 11])}, "'cu_seqlens' must end at .* 12, got 11"),
        (
            {"cu_seqlens": torch.tensor([0.0, 12.0])},
            "'cu_seqlens' is float32; supported: int32, int64",
        ),
    ]:
        check_refused(ops.causal_conv1d, case | change, (), message)
    packed = make(2, 6, 12, 4) | {"cu_seqlens": torch.tensor([0, 12])}
    check_refused(ops.causal_conv1d, packed, (), "'cu_seqlens' needs one packed row")
    grad = case | {"weight": case["weight"].clone().requires_grad_()}
    check_refused(ops.causal_conv1d, grad, (), "no backward yet", NotImplementedError)


def test_opcheck_and_compile() -> None:
    op = torch.ops.warpweave.causal_conv1d.default
    for options, channel_last in (("", True), ("absi", False), ("abcs", True)):
        case = make(1, 8, 20, 4, BF16, options, channel_last)
        names = ("initial_states", "seq_idx", "cu_seqlens")
        tensors = (case["x"], case["weight"], case["bias"], *(case.get(k) for k in names))
        torch.library.opcheck(op, (*tensors, True, options != ""))
    cases = [make(2, 8, T, 4, BF16, "absi") for T in (20, 50)]
    check_compiled(ops.causal_conv1d, cases)


@settings(max_examples=40)
@given(
    st.integers(0, 3),
    st.integers(1, 80),
    st.integers(0, 40),
    st.integers(2, 4),
    st.sampled_from(["", "a", "bs", "absi"]),
    st.booleans(),
)
def test_any_shape(B: int, C: int, T: int, W: int, options: str, channel_last: bool) -> None:
    case = make(B, C, T, W, F32, options, channel_last)
    check_one(ops.causal_conv1d, case)
