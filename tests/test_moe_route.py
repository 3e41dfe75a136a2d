# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from native import (
    Case,
    assert_same_runs,
    check_compiled,
    check_refused,
    check_repeatable,
    doubled,
    run,
)
from warpweave import ops
from warpweave import reference as ref
from warpweave import testing as kit

OP = "moe_route"
BF16, F32 = torch.bfloat16, torch.float32
DTYPES = ((F32, F32), (BF16, F32), (BF16, BF16))  # of x, of weight
# tokens, d, E, top_k, n_group, topk_group: enough tokens that the baseline's worst error is no
# luck; small and odd batches are in the exact tests
SHAPES = [
    (301, 128, 8, 2, 1, 1),
    (150, 100, 37, 5, 1, 1),
    (90, 33, 64, 6, 8, 3),
    (259, 24, 30, 3, 15, 4),
    (33, 2688, 512, 22, 1, 1),
    (200, 17, 12, 4, 12, 5),
    (100, 1060, 6, 6, 2, 2),
    (0, 16, 8, 2, 1, 1),
    (3, 0, 8, 2, 1, 1),
]


def make(tokens: int, d: int, E: int, top_k: int, n_group: int, topk_group: int,
         dtypes: tuple[torch.dtype, torch.dtype] = (BF16, BF16)) -> Case:  # fmt: skip
    g = kit.generator(f"{tokens}{d}{E}{top_k}")
    return {
        "x": kit.with_outliers(kit.normal((tokens, d), g), g, factor=5.0).to(dtypes[0]),
        "weight": kit.normal((E, d), g, dtypes[1], scale=d**-0.5 if d else 1.0),
        "correction_bias": kit.normal((E,), g, scale=0.1),
        "top_k": top_k,
        "n_group": n_group,
        "topk_group": topk_group,
        "scale": 2.5,
    }


def whole(case: Case) -> Case:
    """Logits of 0 and +-256, whose scores 0, 1/2 and 1 are exact, and biases in sixteenths: so all
    sums are exact and tie often. x has one element a row that is not zero."""
    x, weight = case["x"], case["weight"]
    one_hot = x.abs() == x.abs().amax(-1, keepdim=True) if x.shape[-1] else x
    return case | {
        "x": (256 * x.sign() * one_hot * (one_hot.cumsum(-1) == 1)).to(x.dtype),
        "weight": (weight * weight.shape[-1] ** 0.5).round().clamp(-1, 1).to(weight.dtype),
        "correction_bias": (case["correction_bias"] * 20).round() / 16,
    }


def check_random(op: kit.Op, case: Case) -> None:
    """Weights as accurate as torch's for the same choice, and no better expert left out."""
    weights, indices = op(**case)
    chosen = indices.long()
    s = torch.sigmoid(case["x"].double() @ case["weight"].double().mT)
    wide = doubled(case)
    exact = ref.moe_route(**wide)[1].long()
    choice = s if case["correction_bias"] is None else s + wide["correction_bias"]
    gap = (choice.gather(-1, chosen) - choice.gather(-1, exact)).abs()
    assert bool((gap < 1e-6).all()), (
        "an expert that is not among the best was chosen, or in another order"
    )
    assert all(len(set(row)) == len(row) for row in chosen.tolist()), "an expert was chosen twice"

    def finish(s: Tensor) -> Tensor:
        w = s.gather(-1, chosen)
        if case.get("normalize", True):
            w = w / (w.sum(-1, keepdim=True) + 1e-20)
        return w * case["scale"]

    baseline = finish(torch.sigmoid(case["x"].float() @ case["weight"].float().mT))
    kit.assert_accurate(weights, finish(s), baseline)


def check(op: kit.Op, dtypes: tuple[torch.dtype, torch.dtype] = (BF16, BF16)) -> None:
    for shape in SHAPES:
        case = make(*shape, dtypes)
        check_random(op, case)
        weights, indices = op(**whole(case))
        expected = ref.moe_route(**whole(case))
        kit.assert_same_bits(indices, expected[1], name="indices")
        torch.testing.assert_close(weights, expected[0], rtol=1e-6, atol=0.0)
    check_random(op, case | {"correction_bias": None, "normalize": False})
    case = make(*SHAPES[2], dtypes)
    check_random(op, case | {"normalize": False, "scale": 1.0})


FAULTS: dict[str, kit.Fault] = {
    "one wrong weight": kit.wrong_element,
    "last weight dropped": kit.drop_tail,
    "bias used in the weights": lambda op: (
        lambda **k: (
            (op(**k)[0] + k["correction_bias"][op(**k)[1].long()], op(**k)[1])
            if k.get("correction_bias") is not None
            else op(**k)
        )
    ),
    "bias ignored": kit.on_argument("correction_bias", torch.zeros_like),
    "groups ignored": lambda op: lambda **k: op(**k | {"n_group": 1, "topk_group": 1}),
    "one group too many": lambda op: (
        lambda **k: op(**k | {"topk_group": min(k["topk_group"] + 1, k["n_group"])})
    ),
    "not normalised": lambda op: lambda **k: op(**k | {"normalize": False}),
    "scale ignored": kit.on_argument("scale", lambda _: 1.0),
    "ties to the highest": lambda op: lambda **k: _from_behind(op, k),
    "ascending": lambda op: lambda **k: tuple(t.flip(-1) for t in op(**k)),
    "last of d dropped": kit.on_argument(
        "x", lambda x: torch.cat([x[..., :-1], 0 * x[..., -1:]], -1)
    ),
    "weight rounded": kit.on_argument("weight", lambda w: w.to(torch.float8_e5m2).to(w.dtype)),
    "rows mixed": kit.on_argument("x", lambda x: x.roll(1, 0)),
}


def _from_behind(op: kit.Op, k: dict[str, Any]) -> Any:
    flipped = {"weight": k["weight"].flip(0)}
    if k["correction_bias"] is not None:
        flipped["correction_bias"] = k["correction_bias"].flip(0)
    weights, indices = op(**k | flipped)
    return weights, len(k["weight"]) - 1 - indices


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_accuracy(target: str, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    check(ops.moe_route, dtypes)


def test_planted_faults() -> None:
    kit.assert_all_caught(ops.moe_route, FAULTS, check)


def test_a_token_is_routed_alike_in_any_batch(target: str) -> None:
    for dtypes in DTYPES:
        case = make(300, 1500, 61, 7, 1, 1, dtypes)
        both = ops.moe_route(**case)
        for i in (0, 3, 32, 255, 256, 299):
            alone = ops.moe_route(**case | {"x": case["x"][i]})
            assert_same_runs([alone, tuple(t[i] for t in both)])


def test_special_values(target: str) -> None:
    nan, inf = float("nan"), float("inf")
    off = torch.tensor([-inf, 0.0, -inf, -inf, 1.0, -inf])
    groups = {"n_group": 3, "topk_group": 2}
    for logits, options, expected in (
        ([1.0, nan, 0.0, nan, inf], {}, [1, 3, 4]),  # NaN first, in order
        ([nan] * 6, groups, [0, 1, 2]),
        ([-inf, -inf, -200.0, -inf], {}, [0, 1, 2]),  # sigmoids of 0 tie
        ([40.0, 90.0, inf, 30.0], {}, [0, 1, 2]),  # and so do those of 1
        ([0.0] * 6, {"correction_bias": off}, [4, 1, 0]),
        ([0.0] * 6, {"correction_bias": off} | groups, [1, 0, 2]),  # all group sums are -inf
    ):
        case: Case = {"x": torch.ones(1, 1), "correction_bias": None, "top_k": 3}
        case |= {"weight": torch.tensor(logits)[:, None], "normalize": False} | options
        weights, indices = ops.moe_route(**case)
        assert indices[0].tolist() == ref.moe_route(**case)[1][0].tolist() == expected
        torch.testing.assert_close(
            weights, torch.tensor(logits)[expected][None].sigmoid(), equal_nan=True
        )


def test_strides(target: str) -> None:
    for dtypes in DTYPES:
        case = make(6, 70, 37, 5, 1, 1, dtypes)
        expected = run(ops.moe_route, case)
        for layout in (kit.strided, lambda t: kit.permuted(t, *reversed(range(t.dim())))):
            moved = {k: layout(v) if isinstance(v, Tensor) else v for k, v in case.items()}
            assert_same_runs([expected, run(ops.moe_route, moved)])
        batched = run(ops.moe_route, case | {"x": case["x"].view(2, 3, 70)})
        assert_same_runs([expected, tuple(t.view(6, 5) for t in batched)])


def test_threads(target: str, threads: None) -> None:
    wide, long = (4096, 300) if target.startswith("cpu") else (512, 70)  # enough for two threads
    check_repeatable(ops.moe_route, make(1, wide, 512, 22, 1, 1))
    check_repeatable(ops.moe_route, make(long, 256, 128, 6, 8, 4))


def test_offsets_past_32_bits(target: str) -> None:
    # Virtual memory: of two rows 4 GiB apart only the first elements are ever touched.
    case = make(2, 64, 8, 3, 1, 1)
    far = torch.empty(2, 1 << 31, dtype=BF16)[:, :64]
    far.copy_(case["x"])
    assert_same_runs([run(ops.moe_route, case), run(ops.moe_route, case | {"x": far})])


def test_refusals() -> None:
    case = make(3, 12, 8, 2, 1, 1)
    for change, message in (
        ({"x": case["x"].half()}, r"'x' is float16; supported: float32, bfloat16"),
        ({"x": case["x"][:, :5]}, r"'weight' has shape \(8, 12\), expected \(E, d\) = \(8, 5\)"),
        ({"weight": case["weight"].half()}, r"'weight' is float16; supported: float32 or"),
        ({"weight": torch.ones(1025, 12)}, r"'correction_bias' has|'weight' has 1025 experts"),
        ({"correction_bias": torch.ones(8).half()}, r"'correction_bias' is float16; supported: fl"),
        ({"correction_bias": torch.ones(7)}, r"'correction_bias' has shape \(7\), expected \(E,\)"),
        ({"top_k": 9}, r"'top_k' is 9; supported: 1 to the 8 experts"),
        ({"top_k": 0}, r"'top_k' is 0"),
        ({"top_k": 5, "n_group": 4, "topk_group": 2}, r"'top_k' is 5; supported: 1 to the 4 exp"),
        ({"n_group": 3}, r"'n_group' is 3; supported: divisors of E = 8"),
        ({"n_group": 4, "topk_group": 5}, r"'topk_group' is 5; supported: 1 to n_group = 4"),
    ):
        check_refused(ops.moe_route, case | change, (), f"moe_route: .*({message})")
    grad = case | {"weight": case["weight"].clone().requires_grad_()}
    check_refused(ops.moe_route, grad, (), "no backward yet", NotImplementedError)


def test_torch_contracts() -> None:
    x, weight, bias = torch.randn(2, 3, 16), torch.randn(8, 16), torch.randn(8)
    torch.library.opcheck(torch.ops.warpweave.moe_route, (x, weight, bias, 2, 4, 2, True, 2.5))
    torch.library.opcheck(torch.ops.warpweave.moe_route, (x, weight, None, 3, 1, 1, False, 1.0))
    check_compiled(ops.moe_route, [make(n, 24, 16, 3, 4, 2) for n in (2, 5, 9)])


@settings(max_examples=80)
@given(st.data())
def test_exact_logits_of_any_shape(data: st.DataObject) -> None:
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    n_group, per_group = draw(1, 6), draw(1, 40)
    kept = draw(1, n_group)
    shape = (
        draw(0, 40),
        draw(0, 70),
        n_group * per_group,
        draw(1, kept * per_group),
        n_group,
        kept,
    )
    case = whole(make(*shape, data.draw(st.sampled_from(DTYPES))))
    moved = case | {name: kit.strided(case[name]) for name in ("x", "weight", "correction_bias")}
    weights, indices = ops.moe_route(**moved)
    expected = ref.moe_route(**case)
    kit.assert_same_bits(indices, expected[1])
    torch.testing.assert_close(weights, expected[0], rtol=1e-6, atol=0.0)
