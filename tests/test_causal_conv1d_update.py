# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from native import (
    DTYPES,
    Case,
    assert_same_runs,
    check_case,
    check_compiled,
    check_refused,
    check_repeatable,
    run,
)
from warpweave import ops
from warpweave import reference as ref
from warpweave import testing as kit

OP = "causal_conv1d_update"
BF16 = torch.bfloat16
MUTATED = ("conv_state",)
# B, C, T (None: no time axis), W, S: channels around a tile of 256, tokens around a chunk of 16
SHAPES: list[tuple[Any, ...]] = [
    (2, 300, None, 4, 3),
    (3, 257, None, 4, 4),
    (2, 255, 1, 3, 2),
    (1, 33, 1, 2, 2),
    (2, 19, 5, 4, 4),
    (2, 8, 17, 3, 9),
    (1, 1, 40, 2, 1),
    (0, 5, 2, 4, 3),
    (2, 5, 0, 4, 3),
    (2, 0, 2, 4, 3),
]


def make(B: int, C: int, T: int | None, W: int, S: int, dtype: torch.dtype = BF16,
         circular: bool = False, weight_dtype: torch.dtype | None = None) -> Case:  # fmt: skip
    g = kit.generator(f"{B}{C}{T}{W}{S}")
    rows = torch.randperm(B + 2, generator=g)[:B].to(torch.int32)
    rows[1:2] = -1  # padding
    x = kit.normal((B, C) if T is None else (B, C, T), g, scale=2.0)
    return {
        "x": kit.with_outliers(x, g, factor=8.0).to(dtype),
        "conv_state": kit.normal((B + 2, C, S), g, dtype),
        "weight": kit.normal((C, W), g, weight_dtype or dtype),
        "bias": kit.normal((C,), g, weight_dtype or dtype),
        "activation": "silu",
        "cache_seqlens": torch.arange(7, 7 + B, dtype=torch.int32) if circular else None,
        "conv_state_indices": rows,
    }


def check(op: kit.Op, dtype: torch.dtype = BF16) -> None:
    for shape in SHAPES:
        for circular in (False, True):
            weight_dtype = torch.float32 if circular else dtype
            case = make(*shape, dtype, circular, weight_dtype)
            check_case(op, ref.causal_conv1d_update, case, MUTATED, axis=1)
            kit.assert_same_bits(
                *(run(f, case, MUTATED)[1] for f in (op, ref.causal_conv1d_update))
            )
    case = make(*SHAPES[4], dtype) | {"bias": None, "activation": None}
    case |= {"conv_state_indices": None, "conv_state": case["conv_state"][:2]}
    case["x"][0, 3, 2] = float("nan")
    case["conv_state"][1, 5, 3] = float("inf")
    check_case(op, ref.causal_conv1d_update, case, MUTATED, axis=1)


def on_state(change: Any) -> kit.Fault:
    def fault(op: kit.Op) -> kit.Op:
        def wrong(**k: Any) -> Any:
            old = k["conv_state"].clone()
            out = op(**k)
            k["conv_state"].copy_(change(old, k["conv_state"]))
            return out

        return wrong

    return fault


def unpad(indices: Tensor) -> Tensor:
    used = set(indices.tolist())
    free = next(i for i in range(len(indices) + 2) if i not in used)
    return torch.where(indices < 0, free, indices)


FAULTS: dict[str, kit.Fault] = {
    "one wrong element": kit.wrong_element,
    "last column dropped": kit.drop_tail,
    "NaN swallowed": kit.swallow_nan,
    "rounded down": kit.on_result(lambda y: torch.where(y > 0, torch.nextafter(y, 0 * y), y)),
    "taps reversed": kit.on_argument("weight", lambda w: w.flip(1)),
    "bias ignored": kit.on_argument("bias", torch.zeros_like),
    "silu ignored": lambda op: lambda **k: op(**k | {"activation": None}),
    "state not written": on_state(lambda old, new: old),
    "state shifted twice": on_state(lambda old, new: new.roll(-1, -1)),
    "state of another slot": kit.on_argument("conv_state_indices", lambda i: i.roll(1)),
    "padding writes a slot": kit.on_argument("conv_state_indices", unpad),
    "circle off by one": kit.on_argument("cache_seqlens", lambda n: n + 1),
    "last channel of the state lost": on_state(
        lambda old, new: torch.cat([new[:, :-1], old[:, -1:]], 1)
    ),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy(target: str, dtype: torch.dtype) -> None:
    check(ops.causal_conv1d_update, dtype)


def test_planted_faults() -> None:
    kit.assert_all_caught(ops.causal_conv1d_update, FAULTS, check)


def test_continues_the_convolution(target: str) -> None:
    # Steps of 1, 2 and 18 tokens are the convolution of the whole sequence, bit by bit.
    case = make(2, 70, 21, 4, 6)
    x, filters = case["x"], {k: case[k] for k in ("weight", "bias", "activation")}
    whole = ops.causal_conv1d(x, **filters)
    for circular in (False, True):
        state, at = torch.zeros(2, 70, 6, dtype=BF16), 0
        for n in (1, 2, 18):
            seen = torch.full((2,), at, dtype=torch.int32) if circular else None
            out = ops.causal_conv1d_update(
                x[..., at : at + n], state, **filters, cache_seqlens=seen
            )
            kit.assert_same_bits(out, whole[..., at : at + n])
            at += n
    kit.assert_same_bits(state, x[..., -6:].roll(21 % 6, -1))


def test_strides(target: str) -> None:
    for shape in ((2, 70, None, 4, 3), (2, 70, 3, 4, 4), (2, 70, 3, 3, 5)):
        for circular in (False, True):
            case = make(*shape, circular=circular)
            expected = run(ops.causal_conv1d_update, case, MUTATED)
            for layout in (kit.strided, lambda t: kit.permuted(t, *reversed(range(t.dim())))):
                moved = {k: layout(v) if isinstance(v, Tensor) else v for k, v in case.items()}
                assert_same_runs([expected, run(ops.causal_conv1d_update, moved, MUTATED)])
    x, state = torch.randn(2, 3, 8).mT, kit.strided(torch.randn(2, 8, 3))
    assert ops.causal_conv1d_update(x, state, torch.randn(8, 4)).stride() == x.stride()
    whole = torch.empty(0).set_(state.untyped_storage())
    assert int(whole.isnan().sum()) == whole.numel() - 48, "wrote outside the state"


def test_threads(target: str, threads: None) -> None:
    check_repeatable(ops.causal_conv1d_update, make(5, 6144, 2, 4, 4), MUTATED)


def test_offsets_past_32_bits(target: str) -> None:
    # Virtual memory: the pool has over 2^31 elements, two slots of it are ever touched.
    case = make(2, 256, None, 4, 4)
    pool = torch.empty((1 << 31) // 1024 + 8, 256, 4, dtype=BF16)
    rows = torch.tensor([len(pool) - 1, 1], dtype=torch.int32)
    small = case | {"conv_state": case["conv_state"][:2], "conv_state_indices": None}
    pool[rows.long()] = small["conv_state"]
    y, state = run(ops.causal_conv1d_update, small, MUTATED)
    large = case | {"conv_state": pool, "conv_state_indices": rows}
    kit.assert_same_bits(ops.causal_conv1d_update(**large), y)
    kit.assert_same_bits(pool[rows.long()], state)


def test_refusals() -> None:
    case = make(3, 12, 2, 4, 3)
    index = lambda *rows: torch.tensor(rows, dtype=torch.int32)  # noqa: E731
    for change, message in (
        ({"conv_state_indices": index(4, 1, 4)}, r"'conv_state_indices' holds 4 twice"),
        ({"conv_state_indices": index(0, 5, -1)}, r"'conv_state_indices' holds 5 at position 1"),
        ({"conv_state_indices": index(0, 1)}, r"'conv_state_indices' has shape \(2\), expected"),
        ({"conv_state_indices": None}, r"'conv_state' has 5 rows; supported without"),
        ({"cache_seqlens": torch.zeros(3)}, r"'cache_seqlens' is float32; supported: int32"),
        ({"conv_state": case["conv_state"][..., :2]}, r"'conv_state' has 2 columns; .* W-1 = 3"),
        ({"conv_state": case["conv_state"].float()}, r"'conv_state' is float32; supported: bf"),
        ({"conv_state": case["conv_state"][:, :1].expand(5, 12, 3)}, r"'conv_state' has stride 0"),
        ({"weight": torch.ones(12, 5), "bias": None}, r"'weight' has width 5; supported: 2, 3, 4"),
        (
            {"weight": torch.ones(12, 4).half()},
            r"'bias' is bfloat16; supported: float16|'weight' is",
        ),
        ({"bias": torch.ones(11)}, r"'bias' has shape \(11\), expected \(C,\) = \(12\)"),
        ({"x": case["x"][0, 0]}, r"'x' has shape \(2\), expected \(B, C\) or \(B, C, T\)"),
        ({"activation": "relu"}, r"'activation' is 'relu'; supported: None, 'silu'"),
    ):
        check_refused(ops.causal_conv1d_update, case | change, MUTATED, f"{OP}: .*({message})")
    grad = case | {"x": case["x"].clone().requires_grad_()}
    check_refused(ops.causal_conv1d_update, grad, MUTATED, "no backward", NotImplementedError)


def test_torch_contracts() -> None:
    native = torch.ops.warpweave.causal_conv1d_update
    case = make(3, 12, 2, 4, 5, circular=True)
    args = [case[name] for name in ("x", "conv_state", "weight", "bias")]
    torch.library.opcheck(native, (*args, True, case["cache_seqlens"], case["conv_state_indices"]))
    args[0], args[1] = args[0].mT.contiguous().mT, args[1][:3]
    torch.library.opcheck(native, (*args, False, None, None))
    check_compiled(ops.causal_conv1d_update, [make(n, 20, 3, 4, 4) for n in (2, 4, 7)], MUTATED)


@settings(max_examples=80)
@given(st.data())
def test_exact_values_of_any_shape(data: st.DataObject) -> None:
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    W = draw(2, 4)
    T = data.draw(st.one_of(st.none(), st.integers(0, 40)))
    shape = (draw(0, 3), draw(0, 70), T, W, W - 1 + draw(0, 4))
    case = make(*shape, data.draw(st.sampled_from(DTYPES)), data.draw(st.booleans()))
    for name in ("x", "conv_state", "weight", "bias"):
        case[name] = case[name].clamp(-3, 3).round()
    case["activation"] = None
    moved = dict(case)
    for name in ("x", "conv_state", "weight"):
        moved[name] = kit.permuted(case[name], *data.draw(st.permutations(range(case[name].dim()))))
    runs = [
        run(ref.causal_conv1d_update, case, MUTATED),
        run(ops.causal_conv1d_update, moved, MUTATED),
    ]
    runs[0][0].add_(0.0), runs[1][0].add_(0.0)  # one zero for both signs of it
    assert_same_runs(runs)
