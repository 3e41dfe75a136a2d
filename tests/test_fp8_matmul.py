# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native import Case, check_case, check_compiled, check_refused, check_repeatable, far_apart
from quant import BF16, E4M3, F32, RESULT_FAULTS, e4m3, on_bytes, opcheck, terms_of
from warpweave import ops
from warpweave import reference as ref
from warpweave import testing as kit

OP = "fp8_matmul"
# M, N, K: few and many rows, any K; around 32 rows, 64 weights, and vectors of 64, 32 and 16 codes
SHAPES: list[tuple[int, int, int]] = [
    (1, 70, 131),
    (2, 64, 64),
    (3, 129, 31),
    (4, 5, 4097),
    (5, 63, 1),
    (33, 66, 259),
    (70, 128, 256),
    (0, 8, 16),
    (3, 0, 16),
    (3, 8, 0),
]
KINDS = (F32, BF16, E4M3)  # of a


def make(M: int, N: int, K: int, kind: torch.dtype = BF16, per_row: bool = False) -> Case:
    g = kit.generator(f"{M}{N}{K}{kind}{per_row}")
    is_fp8 = kind == E4M3
    a = e4m3((M, K), g) if is_fp8 else kit.with_outliers(kit.normal((M, K), g), g, 8.0).to(kind)
    return {
        "a": a,
        "b": e4m3((N, K), g),
        "scale_a": torch.rand((M,) if per_row else (), generator=g) + 0.5 if is_fp8 else None,
        "scale_b": torch.rand((N,) if per_row else (), generator=g) + 0.5,
        "out_dtype": F32 if kind == F32 or per_row else BF16,
    }


def check_one(op: kit.Op, case: Case) -> None:
    terms = terms_of(ref.fp8_matmul) if case["out_dtype"] == F32 else None
    check_case(op, ref.fp8_matmul, case, terms=terms)


def check(op: kit.Op, kind: torch.dtype = BF16) -> None:
    for i, shape in enumerate(SHAPES):
        check_one(op, make(*shape, kind, bool(i % 2)))
    for M in (3, 40):
        case = make(M, 70, 150, kind)
        case["b"].view(torch.uint8)[66, 149] = 0x7F
        case["a"][2, 5] = float("nan")
        check_one(op, case)


def of_first(scale: torch.Tensor) -> torch.Tensor:
    return scale.flatten()[:1].expand(scale.shape) if scale.dim() else scale


FAULTS: dict[str, kit.Fault] = {
    **RESULT_FAULTS,
    "signs lost": kit.on_argument("b", on_bytes(lambda b: b & 0x7F)),
    "subnormals flushed": kit.on_argument("b", on_bytes(lambda b: torch.where(b & 0x7F < 8, 0, b))),
    "NaN read as 480": kit.on_argument("b", on_bytes(lambda b: torch.where(b == 0x7F, 0x7E, b))),
    "neighbours exchanged": kit.on_argument("b", on_bytes(lambda b: b.roll(1, -1))),
    "scale twice": kit.on_argument("scale_b", torch.square),
    "scale of the first row": kit.on_argument("scale_b", of_first),
    "last k forgotten": kit.on_argument("a", lambda a: torch.cat([a[:, :-1], 0 * a[:, -1:]], 1)),
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_accuracy(target: str, kind: torch.dtype) -> None:
    check(ops.fp8_matmul, kind)


def test_planted_faults() -> None:
    kit.assert_all_caught(ops.fp8_matmul, FAULTS, check)


def test_planted_faults_of_both_quantised() -> None:
    faults: dict[str, kit.Fault] = {
        "a: signs lost": kit.on_argument("a", on_bytes(lambda a: a & 0x7F)),
        "a: scale twice": kit.on_argument("scale_a", torch.square),
        "a: scale of the first row": kit.on_argument("scale_a", of_first),
        "a and b: scales exchanged": lambda op: (
            lambda scale_a, scale_b, **k: op(
                scale_a=scale_a if scale_a.dim() else scale_b * 1.5, scale_b=scale_b, **k
            )
        ),
    }
    kit.assert_all_caught(ops.fp8_matmul, faults, lambda op: check(op, E4M3))


@pytest.mark.parametrize("M", [1, 4, 5, 31, 33])
def test_every_code(target: str, M: int) -> None:
    """Each value alone in its sum, NaN too, by both paths."""
    codes = torch.arange(256, dtype=torch.uint8).view(E4M3)
    b = torch.zeros(256, 67).to(E4M3)
    b[:, M] = codes
    a = torch.zeros(M, 67)
    a[:, M] = 3.0
    expected = (3 * codes.float() * 0.5).expand(M, -1)
    for x in (a, a.to(BF16)):
        out = ops.fp8_matmul(x, b, None, torch.tensor(0.5), out_dtype=F32)
        kit.assert_same_bits(out.isnan(), expected.isnan())
        kit.assert_same_bits(out.nan_to_num() + 0.0, expected.nan_to_num() + 0.0)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("M", [1, 4, 5, 33])
def test_exact_on_integers(target: str, kind: torch.dtype, M: int) -> None:
    g = kit.generator(f"integers{M}")
    a, b = (torch.randint(-8, 9, shape, generator=g).float() for shape in ((M, 300), (90, 300)))
    one = torch.ones(())
    scale_a = one if kind == E4M3 else None
    out = ops.fp8_matmul(a.to(kind), b.to(E4M3), scale_a, one, out_dtype=F32)
    kit.assert_same_bits(out, a @ b.T)


@pytest.mark.parametrize("M", [4, 40])
def test_rows_and_columns_do_not_depend_on_each_other(target: str, M: int) -> None:
    case = make(M, 130, 271) | {"out_dtype": F32}
    expected = ops.fp8_matmul(**case)
    for rows in (slice(0, M - 1), slice(M // 4, M - M // 4)):
        kit.assert_same_bits(ops.fp8_matmul(**case | {"a": case["a"][rows]}), expected[rows])
    for columns in (slice(0, 65), slice(3, 130)):
        few = case | {"b": case["b"][columns]}
        kit.assert_same_bits(ops.fp8_matmul(**few), expected[:, columns])


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("M", [3, 70])
def test_strides_and_threads(target: str, threads: None, kind: torch.dtype, M: int) -> None:
    case = make(M, 300 if target.startswith("cpu") else 140, 271, kind, True)  # two tiles
    check_repeatable(ops.fp8_matmul, case)
    expected = ops.fp8_matmul(**case)
    moved = {k: kit.strided(v) if isinstance(v, torch.Tensor) else v for k, v in case.items()}
    kit.assert_same_bits(ops.fp8_matmul(**moved), expected)
    turned = {name: kit.permuted(case[name], 1, 0) for name in ("a", "b")}
    kit.assert_same_bits(ops.fp8_matmul(**case | turned), expected)


def test_offsets_past_two_to_the_31(target: str) -> None:
    case = make(7, 9, 64, E4M3)
    expected = ops.fp8_matmul(**case)
    for name in ("a", "b"):
        kit.assert_same_bits(ops.fp8_matmul(**case | {name: far_apart(case[name])}), expected)


def test_refusals() -> None:
    case, both = make(6, 8, 32), make(6, 8, 32, E4M3)
    for of, change, message in [
        (case, {"a": case["a"].half()}, "'a' is float16; supported: float32, bfloat16"),
        (both, {"scale_a": None}, "'a' is float8_e4m3fn; supported: float32, bfloat16"),
        (case, {"scale_a": torch.ones(())}, "'a' is bfloat16; supported: float8_e4m3fn"),
        (case, {"b": case["a"]}, "'b' is bfloat16; supported: float8_e4m3fn"),
        (case, {"b": case["b"][:, :8]}, r"'b' has shape \(8, 8\), expected \(N, K\)"),
        (case, {"scale_b": torch.ones(7)}, r"'b.scale' has shape \(7\), expected \(\), or one of"),
        (case, {"scale_b": torch.ones(()).double()}, "'b.scale' is float64; supported: float32"),
        (both, {"scale_a": torch.ones(7)}, r"'a.scale' has shape \(7\), expected \(\), or one of"),
        (case, {"out_dtype": E4M3}, "'out_dtype' is torch.float8_e4m3fn; supported"),
    ]:
        check_refused(ops.fp8_matmul, of | change, (), message)
    grad = case | {"a": case["a"].clone().requires_grad_()}
    check_refused(ops.fp8_matmul, grad, (), "no backward yet", NotImplementedError)


def test_opcheck_and_compile() -> None:
    for kind in KINDS:
        *args, _ = make(5, 24, 33, kind).values()
        opcheck(torch.ops.warpweave.fp8_matmul.default, (*args, True))
    check_compiled(ops.fp8_matmul, [make(*shape) for shape in SHAPES[:3]])


@settings(max_examples=40)
@given(st.integers(0, 80), st.integers(0, 140), st.integers(0, 300), st.sampled_from(KINDS))
def test_any_shape(M: int, N: int, K: int, kind: Any) -> None:
    check_one(ops.fp8_matmul, make(M, N, K, kind, True))
