# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native import Case, check_case, check_compiled, check_refused, check_repeatable, far_apart
from quant import (
    BF16,
    F32,
    RESULT_FAULTS,
    each_part,
    nvfp4,
    nvfp4_faults,
    opcheck,
    terms_of,
    with_nan,
)
from warpweave import ops
from warpweave import reference as ref
from warpweave import testing as kit

OP = "nvfp4_grouped_matmul"
# M, N, K, E: as in test_grouped_gemm, with K in blocks of 16
SHAPES: list[tuple[int, ...]] = [
    (200, 70, 96, 5),
    (131, 64, 48, 3),
    (66, 129, 32, 2),
    (9, 63, 16, 4),
    (40, 16, 144, 16),
    (0, 8, 16, 3),
    (4, 0, 16, 2),
    (7, 8, 0, 2),
    (6, 8, 16, 0),
]
KINDS = (F32, BF16, "nvfp4")  # of a


def make(M: int, N: int, K: int, E: int, kind: Any = BF16, activation: Any = None) -> Case:
    g = kit.generator(f"{M}{N}{K}{E}{kind}{activation}")
    ends = kit.group_ends(M, E, g) if E else torch.zeros(0, dtype=torch.int32)
    a: Any = nvfp4((M, K), g, "row") if kind == "nvfp4" else kit.normal((M, K), g, kind)
    return {
        "a": a,
        "b": nvfp4((E, N, K), g, "row" if activation else "matrix"),
        "offsets": ends if activation else ends.long(),
        "activation": activation,
        "out_dtype": F32 if kind == F32 else BF16,
    }


def check_one(op: kit.Op, case: Case) -> None:
    terms = terms_of(ref.nvfp4_grouped_matmul) if case["out_dtype"] == F32 else None
    check_case(op, ref.nvfp4_grouped_matmul, case, terms=terms)


def check(op: kit.Op, kind: Any = BF16) -> None:
    for i, shape in enumerate(SHAPES):
        check_one(op, make(*shape, kind, (None, "relu2")[i % 2]))
    case = make(*SHAPES[1], kind, "relu2")
    check_one(op, case | {"b": with_nan(case["b"], 0, 5, 2)})


FAULTS: dict[str, kit.Fault] = {
    **RESULT_FAULTS,
    **nvfp4_faults("b"),
    "next expert": kit.on_argument("b", lambda b: each_part(b, lambda t: t.roll(1, 0))),
    "group one row late": kit.on_argument("offsets", lambda o: (o - 1).clamp(min=0)),
    "activation forgotten": kit.on_argument("activation", lambda _: None),
    "activation before the scale": lambda op: (
        lambda b, activation, **k: op(
            b=type(b)(b.codes, b.block_scales, b.global_scale.sqrt()) if activation else b,
            activation=activation,
            **k,
        )
    ),
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_accuracy(target: str, kind: Any) -> None:
    check(ops.nvfp4_grouped_matmul, kind)


def test_planted_faults() -> None:
    kit.assert_all_caught(ops.nvfp4_grouped_matmul, FAULTS, check)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_is_nvfp4_matmul_of_each_group(target: str, kind: Any) -> None:
    """The same bits, so group and row are found, whatever is beside them."""
    case = make(150, 70, 272, 6, kind)
    out = ops.nvfp4_grouped_matmul(**case)
    begin = 0
    for e, end in enumerate(case["offsets"].tolist()):
        a = each_part(case["a"], lambda t, begin=begin, end=end: t[begin:end])
        alone = ops.nvfp4_matmul(a, case["b"][e], out_dtype=case["out_dtype"])
        kit.assert_same_bits(out[begin:end], alone)
        begin = end
    kit.assert_same_bits(out[begin:], torch.zeros_like(out[begin:]))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_strides_and_threads(target: str, threads: None, kind: Any) -> None:
    case = make(130, 70, 48, 4, kind, "relu2")
    check_repeatable(ops.nvfp4_grouped_matmul, case)
    expected = ops.nvfp4_grouped_matmul(**case)
    moved = case | {name: each_part(case[name], kit.strided) for name in ("a", "b")}
    kit.assert_same_bits(ops.nvfp4_grouped_matmul(**moved), expected)


def test_offsets_past_two_to_the_31(target: str) -> None:
    case = make(40, 16, 32, 3)
    expected = ops.nvfp4_grouped_matmul(**case)
    b = case["b"]
    for codes, scales in (
        (far_apart(b.codes), b.block_scales),
        (b.codes, far_apart(b.block_scales)),
    ):
        moved = case | {"b": type(b)(codes, scales, b.global_scale)}
        kit.assert_same_bits(ops.nvfp4_grouped_matmul(**moved), expected)


def test_refusals() -> None:
    case = make(20, 8, 16, 3)
    for change, message in [
        ({"a": case["a"].half()}, "'a' is float16; supported: float32, bfloat16"),
        ({"b": case["b"][0]}, r"'b' has shape \(8, 8\), expected \(E, N, K\)"),
        ({"b": case["a"]}, "'b' is Tensor; supported: NVFP4Tensor"),
        ({"offsets": case["offsets"].float()}, "'offsets' is float32; supported: int32, int64"),
        ({"offsets": torch.tensor([3, 2, 20])}, "nvfp4_grouped_matmul: 'offsets' holds 2 at 1"),
        ({"offsets": torch.tensor([3, 4, 21])}, "'offsets' holds 21 at 2"),
        ({"activation": "relu"}, "'activation' is 'relu'; supported: None, 'relu2'"),
        ({"out_dtype": torch.float16}, "'out_dtype' is torch.float16; supported"),
    ]:
        check_refused(ops.nvfp4_grouped_matmul, case | change, (), message)
    grad = case | {"a": case["a"].clone().requires_grad_()}
    check_refused(ops.nvfp4_grouped_matmul, grad, (), "no backward yet", NotImplementedError)


def test_opcheck_and_compile() -> None:
    for kind in KINDS:
        case = make(40, 24, 16, 3, kind)
        a = vars(case["a"]).values() if kind == "nvfp4" else (case["a"], None, None)
        args = (*a, *vars(case["b"]).values(), case["offsets"], True, True)
        opcheck(torch.ops.warpweave.nvfp4_grouped_matmul.default, args)
    check_compiled(ops.nvfp4_grouped_matmul, [make(*shape) for shape in SHAPES[:3]])


@settings(max_examples=40)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=5), st.integers(1, 140), st.integers(0, 9))
def test_any_groups(rows: list[int], N: int, blocks: int) -> None:
    g = kit.generator(f"{rows}{N}{blocks}")
    case = {
        "a": kit.normal((sum(rows), 16 * blocks), g, BF16),
        "b": nvfp4((len(rows), N, 16 * blocks), g),
        "offsets": torch.tensor(rows).cumsum(0),
        "out_dtype": BF16,
    }
    check_one(ops.nvfp4_grouped_matmul, case)
