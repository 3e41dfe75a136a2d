# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch
from torch import Tensor

from native import Case, check_case, check_compiled, check_refused, far_apart
from quant import BF16, E4M3, F32, RESULT_FAULTS, e4m3, on_bytes, opcheck, terms_of
from warpweave import ops
from warpweave import reference as ref
from warpweave import testing as kit

OP = "fp8_grouped_matmul"
# M, N, K, E: few and many rows a group, none, any K
SHAPES: list[tuple[int, ...]] = [
    (131, 70, 101, 3),
    (66, 129, 33, 2),
    (9, 63, 64, 4),
    (0, 8, 16, 3),
    (4, 0, 16, 2),
    (7, 8, 0, 2),
    (6, 8, 16, 0),
]
KINDS = (F32, BF16, E4M3)  # of a


def make(M: int, N: int, K: int, E: int, kind: torch.dtype = BF16, act: str | None = None) -> Case:
    g = kit.generator(f"{M}{N}{K}{E}{kind}{act}")
    scale = lambda *sizes: torch.rand(sizes if act else sizes[:-1], generator=g) + 0.5  # noqa: E731
    ends = kit.group_ends(M, E, g) if E else torch.zeros(0, dtype=torch.int32)
    return {
        "a": e4m3((M, K), g) if kind == E4M3 else kit.normal((M, K), g, kind),
        "b": e4m3((E, N, K), g),
        "scale_a": scale(M) if kind == E4M3 else None,
        "scale_b": scale(E, N),
        "offsets": ends if act else ends.long(),
        "activation": act,
        "out_dtype": F32 if kind == F32 else BF16,
    }


def check_one(op: kit.Op, case: Case) -> None:
    terms = terms_of(ref.fp8_grouped_matmul) if case["out_dtype"] == F32 else None
    check_case(op, ref.fp8_grouped_matmul, case, terms=terms)


def check(op: kit.Op, kind: torch.dtype = BF16) -> None:
    for i, shape in enumerate(SHAPES):
        check_one(op, make(*shape, kind, (None, "relu2")[i % 2]))
    case = make(*SHAPES[0], kind, "relu2")
    case["b"].view(torch.uint8)[1, 5, 2] = 0x7F
    check_one(op, case | {"scale_b": case["scale_b"][0, 0]})


def of_first(scale: Tensor) -> Tensor:
    return scale.flatten()[:1].expand(scale.shape) if scale.dim() else scale


FAULTS: dict[str, kit.Fault] = {
    **RESULT_FAULTS,
    "signs lost": kit.on_argument("b", on_bytes(lambda b: b & 0x7F)),
    "next expert": kit.on_argument("b", on_bytes(lambda b: b.roll(1, 0))),
    "group one row late": kit.on_argument("offsets", lambda o: (o - 1).clamp(min=0)),
    "activation forgotten": kit.on_argument("activation", lambda _: None),
    "scale twice": kit.on_argument("scale_b", torch.square),
    "scale of the first": kit.on_argument("scale_b", of_first),
    "a: scale of the first row": kit.on_argument("scale_a", of_first),
    "a: scale twice": kit.on_argument("scale_a", torch.square),
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_accuracy(target: str, kind: torch.dtype) -> None:
    check(ops.fp8_grouped_matmul, kind)


def test_planted_faults() -> None:
    kit.assert_all_caught(ops.fp8_grouped_matmul, FAULTS, lambda op: check(op, E4M3))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_is_fp8_matmul_of_each_group(target: str, kind: torch.dtype) -> None:
    """The same bits, so group and row are found, whatever is beside them and between them."""
    case = make(100, 70, 101, 5, kind, "relu2") | {"activation": None}
    out, begin = ops.fp8_grouped_matmul(**case), 0
    for e, end in enumerate(case["offsets"].tolist()):
        of_rows = None if case["scale_a"] is None else case["scale_a"][begin:end]
        alone = ops.fp8_matmul(case["a"][begin:end], case["b"][e], of_rows, case["scale_b"][e],
                               out_dtype=case["out_dtype"])  # fmt: skip
        kit.assert_same_bits(out[begin:end], alone)
        begin = end
    kit.assert_same_bits(out[begin:], torch.zeros_like(out[begin:]))
    moved = {k: kit.strided(v) if isinstance(v, Tensor) else v for k, v in case.items()}
    kit.assert_same_bits(ops.fp8_grouped_matmul(**moved), out)


def test_offsets_past_two_to_the_31(target: str) -> None:
    case = make(20, 16, 32, 3, E4M3)
    expected = ops.fp8_grouped_matmul(**case)
    for name in ("a", "b"):
        kit.assert_same_bits(
            ops.fp8_grouped_matmul(**case | {name: far_apart(case[name])}), expected
        )


def test_refusals() -> None:
    case, both = make(20, 8, 16, 3, BF16, "relu2"), make(20, 8, 16, 3, E4M3)
    refused: list[tuple[Case, Any, str]] = [
        (case, {"a": case["a"].half()}, "'a' is float16; supported: float32, bfloat16"),
        (both, {"scale_a": None}, "'a' is float8_e4m3fn; supported: float32, bfloat16"),
        (case, {"scale_a": torch.ones(())}, "'a' is bfloat16; supported: float8_e4m3fn"),
        (case, {"b": case["b"][0]}, r"'b' has shape \(8, 16\), expected \(E, N, K\)"),
        (case, {"b": case["b"].float()}, "'b' is float32; supported: float8_e4m3fn"),
        (case, {"scale_b": torch.ones(2)}, r"'b.scale' has shape \(2\), expected \(\), or one of"),
        (case, {"offsets": torch.tensor([3, 2, 20])}, "fp8_grouped_matmul: 'offsets' holds 2 at 1"),
        (case, {"activation": "relu"}, "'activation' is 'relu'; supported: None, 'relu2'"),
        (case, {"out_dtype": torch.float16}, "'out_dtype' is torch.float16; supported"),
    ]
    for of, change, message in refused:
        check_refused(ops.fp8_grouped_matmul, of | change, (), message)
    grad = case | {"a": case["a"].clone().requires_grad_()}
    check_refused(ops.fp8_grouped_matmul, grad, (), "no backward yet", NotImplementedError)


def test_opcheck_and_compile() -> None:
    *args, _, _ = make(40, 24, 16, 3, E4M3).values()
    opcheck(torch.ops.warpweave.fp8_grouped_matmul.default, (*args, True, True))
    check_compiled(ops.fp8_grouped_matmul, [make(*shape) for shape in SHAPES[:2]])
