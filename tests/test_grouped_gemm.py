# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native import Case, check_case, check_compiled, check_refused, check_repeatable, far_apart, run
from warpweave import ops
from warpweave import reference as ref
from warpweave import testing as kit

OP = "grouped_gemm"
BF16, F32 = torch.bfloat16, torch.float32
# M, N, K, E: around the token unit of 32, the weight block of 64, and the depths of a step of k
SHAPES: list[tuple[int, ...]] = [
    (200, 70, 96, 5),
    (131, 64, 33, 3),
    (66, 129, 31, 2),
    (33, 1, 130, 1),
    (9, 63, 1, 4),
    (300, 16, 64, 8),
    (5, 65, 48, 7),
    (0, 8, 8, 3),
    (4, 0, 8, 2),
    (7, 8, 0, 2),
    (6, 8, 8, 0),
    (200, 40, 24, 2),
    (150, 33, 37, 1),
]


def make(M: int, N: int, K: int, E: int, dtype: torch.dtype = BF16, activation: Any = None) -> Case:
    g = kit.generator(f"{M}{N}{K}{E}{activation}")
    ends = kit.group_ends(M, E, g) if E else torch.zeros(0, dtype=torch.int32)
    return {
        "a": kit.with_outliers(kit.normal((M, K), g), g, 8.0).to(dtype),
        "b": kit.normal((E, N, K), g, dtype, scale=max(K, 1) ** -0.5),
        "offsets": ends if activation else ends.long(),
        "activation": activation,
    }


def check(op: kit.Op, dtype: torch.dtype = BF16) -> None:
    for i, shape in enumerate(SHAPES):
        check_case(op, ref.grouped_gemm, make(*shape, dtype, (None, "relu2")[i % 2]))
    case = make(*SHAPES[0], dtype, "relu2")
    case["a"][3, 5], case["a"][40, 0] = float("inf"), float("nan")
    check_case(op, ref.grouped_gemm, case)


FAULTS: dict[str, kit.Fault] = {
    "truncated": kit.truncate,
    "one wrong element": kit.wrong_element,
    "last column dropped": kit.drop_tail,
    "NaN swallowed": kit.swallow_nan,
    "next expert": kit.on_argument("b", lambda b: b.roll(1, 0)),
    "group one row late": kit.on_argument("offsets", lambda o: (o - 1).clamp(min=0)),
    "activation forgotten": kit.on_argument("activation", lambda _: None),
    "last k forgotten": kit.on_argument("a", lambda a: torch.cat([a[:, :-1], 0 * a[:, -1:]], 1)),
    "rest not zeroed": lambda op: (
        lambda a, offsets, **k: op(a=a, offsets=_to_the_end(a, offsets), **k)
    ),
}


def _to_the_end(a: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return offsets if len(offsets) == 0 else torch.cat([offsets[:-1], 0 * offsets[-1:] + len(a)])


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_accuracy(target: str, dtype: torch.dtype) -> None:
    check(ops.grouped_gemm, dtype)


def test_planted_faults() -> None:
    kit.assert_all_caught(ops.grouped_gemm, FAULTS, check)


@pytest.mark.parametrize("rows", [1, 4, 5, 31, 32, 33, 64])
def test_exact_on_integers(target: str, rows: int) -> None:
    """Every sum is a small integer, so each order of addition and each path has the same bits."""
    g = kit.generator(f"integers{rows}")
    a = torch.randint(-4, 5, (2 * rows, 77), generator=g).to(BF16)
    b = torch.randint(-4, 5, (2, 90, 77), generator=g).to(BF16)
    out = ops.grouped_gemm(a.float(), b.float(), torch.tensor([rows, 2 * rows]))
    expected = torch.einsum("emk,enk->emn", a.float().view(2, rows, 77), b.float()).flatten(0, 1)
    kit.assert_same_bits(out, expected)
    kit.assert_same_bits(ops.grouped_gemm(a, b, torch.tensor([rows, 2 * rows])), expected.to(BF16))


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_strides_and_threads(target: str, threads: None, dtype: torch.dtype) -> None:
    case = make(130, 70, 40, 4, dtype, "relu2")
    check_repeatable(ops.grouped_gemm, case)
    expected = run(ops.grouped_gemm, case)[0]
    for change in (kit.strided, lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2)):
        moved = case | {"a": change(case["a"]), "b": change(case["b"])}
        kit.assert_same_bits(ops.grouped_gemm(**moved), expected)


def test_offsets_past_two_to_the_31(target: str) -> None:
    case = make(40, 64, 32, 3, BF16)
    expected = ops.grouped_gemm(**case)
    for name in ("a", "b"):
        kit.assert_same_bits(ops.grouped_gemm(**case | {name: far_apart(case[name])}), expected)


def test_refusals() -> None:
    case = make(20, 8, 16, 3)
    for change, message in [
        ({"a": case["a"].half()}, "'a' is float16; supported: float32, bfloat16"),
        ({"b": case["b"].float()}, "'b' is float32; supported: bfloat16"),
        ({"b": case["b"][:, :, :8]}, r"'b' has shape \(3, 8, 8\), expected \(E, N, K\)"),
        ({"a": case["a"][0]}, r"'a' has shape \(16\), expected \(M, K\)"),
        ({"offsets": case["offsets"].float()}, "'offsets' is float32; supported: int32, int64"),
        ({"offsets": case["offsets"][:2]}, r"'offsets' has shape \(2\)"),
        ({"offsets": torch.tensor([3, 2, 20])}, "'offsets' holds 2 at 1"),
        ({"offsets": torch.tensor([3, 4, 21])}, "'offsets' holds 21 at 2"),
        ({"activation": "relu"}, "'activation' is 'relu'; supported: None, 'relu2'"),
    ]:
        check_refused(ops.grouped_gemm, case | change, (), message)
    grad = case | {"a": case["a"].clone().requires_grad_()}
    check_refused(ops.grouped_gemm, grad, (), "no backward yet", NotImplementedError)


def test_opcheck_and_compile() -> None:
    for dtype in (F32, BF16):
        case = make(40, 24, 16, 3, dtype)
        args = (case["a"], case["b"], case["offsets"], True)
        torch.library.opcheck(torch.ops.warpweave.grouped_gemm.default, args)
    check_compiled(ops.grouped_gemm, [make(*shape, BF16, "relu2") for shape in SHAPES[:3]])


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 70), min_size=1, max_size=5), st.integers(1, 140), st.integers(1, 100)
)
def test_any_groups(rows: list[int], N: int, K: int) -> None:
    g = kit.generator(f"{rows}{N}{K}")
    case = {
        "a": kit.normal((sum(rows), K), g, BF16),
        "b": kit.normal((len(rows), N, K), g, BF16, K**-0.5),
        "offsets": torch.tensor(rows).cumsum(0),
    }
    check_case(ops.grouped_gemm, ref.grouped_gemm, case)
