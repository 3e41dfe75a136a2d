# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native import Case, check_case, check_compiled, check_refused, check_repeatable, far_apart
from quant import (
    BF16,
    E4M3,
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
from warpweave.quantized import NVFP4Tensor

OP = "nvfp4_matmul"
# M, N, K: few and many rows, around the token unit of 32, the weight block of 64, a vector of codes
# (128, 64 and 32), and the run of 4096 that decodes scales ahead
SHAPES: list[tuple[int, int, int]] = [
    (1, 70, 272),
    (2, 64, 128),
    (3, 129, 96),
    (4, 5, 4112),
    (5, 63, 16),
    (33, 66, 144),
    (70, 128, 256),
    (2, 3, 8208),
    (0, 8, 16),
    (3, 0, 16),
    (3, 8, 0),
]
KINDS = (F32, BF16, "nvfp4")  # of a


def make(M: int, N: int, K: int, kind: Any = BF16, per: str = "matrix") -> Case:
    g = kit.generator(f"{M}{N}{K}{kind}{per}")
    if kind == "nvfp4":
        a: Any = nvfp4((M, K), g, "row" if per == "row" else "all")
    else:
        a = kit.with_outliers(kit.normal((M, K), g), g, 8.0).to(kind)
    out_dtype = F32 if kind == F32 or per == "row" else BF16
    return {"a": a, "b": nvfp4((N, K), g, per), "out_dtype": out_dtype}


def check_one(op: kit.Op, case: Case) -> None:
    terms = terms_of(ref.nvfp4_matmul) if case["out_dtype"] == F32 else None
    check_case(op, ref.nvfp4_matmul, case, terms=terms)


def check(op: kit.Op, kind: Any = BF16) -> None:
    for i, shape in enumerate(SHAPES):
        check_one(op, make(*shape, kind, ("matrix", "row")[i % 2]))
    for M in (3, 40):
        case = make(M, 70, 160, kind)
        case["b"] = with_nan(case["b"], 66, 9)
        if kind == "nvfp4":
            case["a"] = with_nan(case["a"], 2, 0)
        else:
            case["a"][2, 5], case["a"][1, 0] = float("nan"), float("inf")
        check_one(op, case)


def zero_last(t: Any) -> Any:
    if isinstance(t, NVFP4Tensor):
        return replace(t, codes=torch.cat([t.codes[:, :-8], 0 * t.codes[:, -8:]], 1))
    return torch.cat([t[:, :-16], 0 * t[:, -16:]], 1)


FAULTS: dict[str, kit.Fault] = {
    **RESULT_FAULTS,
    **nvfp4_faults("b"),
    "last block of k forgotten": kit.on_argument("a", zero_last),
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_accuracy(target: str, kind: Any) -> None:
    check(ops.nvfp4_matmul, kind)


def test_planted_faults() -> None:
    kit.assert_all_caught(ops.nvfp4_matmul, FAULTS, check)


def test_planted_faults_of_both_quantised() -> None:
    faults = nvfp4_faults("a")
    kit.assert_all_caught(ops.nvfp4_matmul, faults, lambda op: check(op, "nvfp4"))


@pytest.mark.parametrize("M", [1, 4, 5, 31, 33])
def test_exact_on_integers(target: str, M: int) -> None:
    """Every partial sum is a small multiple of 2^-10, so each path has the same bits."""
    g = kit.generator(f"integers{M}")
    K = 4240 if target.startswith("cpu") else 1168  # a step more than all stages hold
    b = nvfp4((90, K), g)
    exponents = torch.randint(-9, 3, b.block_scales.shape, generator=g)
    b = replace(b, block_scales=(2.0**exponents).to(E4M3), global_scale=torch.tensor(0.25))
    a = torch.randint(-4, 5, (M, K), generator=g).float()
    expected = (a.double() @ b.dequantize(torch.float64).T).float()
    for x in (a, a.to(BF16)):
        kit.assert_same_bits(ops.nvfp4_matmul(x, b, out_dtype=F32), expected)
    kit.assert_same_bits(ops.nvfp4_matmul(a, b), expected.to(BF16))


def test_every_code_and_scale(target: str) -> None:
    """Each product of a code and a finite block scale, alone in its sum, by both paths."""
    scales = torch.arange(256, dtype=torch.uint8)
    scales = scales[scales & 127 != 127]
    codes = torch.arange(16, dtype=torch.uint8)
    b = NVFP4Tensor(
        (codes[:, None] * 17).repeat(len(scales), 8),
        scales.repeat_interleave(16)[:, None].view(E4M3),
        torch.tensor(1.0),
    )
    for M in (1, 8):
        a = torch.zeros(M, 16)
        a[:, M] = 3.0
        expected = 3 * b.dequantize()[:, :1].T.expand(M, -1)
        out = ops.nvfp4_matmul(a, b, out_dtype=F32)
        kit.assert_same_bits(out + 0.0, expected + 0.0)  # the sign of a zero is not owed
        out = ops.nvfp4_matmul(a.to(BF16), b, out_dtype=F32)
        kit.assert_same_bits(out + 0.0, expected + 0.0)


@pytest.mark.parametrize("M", [1, 4])
def test_bf16_tokens_of_any_range(cpu_isa: str, M: int) -> None:
    """What a common unit for neighbouring elements of a token would lose. On CPUs: tensor cores cut
    what they add to one large term, which is more than twice an error of rounding."""
    g = kit.generator(f"range{M}")
    N, K = 150, 400  # enough results for the largest error of the baseline to mean something
    even = kit.normal((K,), g)
    outlier, tiny, one = even.clone(), even * 2.0**-118, torch.zeros(K)
    outlier[::50] *= 2.0**20
    tiny[::3] = 0
    one[77] = 2.0**-126
    tokens = {
        "spread": even * 2.0 ** torch.randint(-40, 1, (K,), generator=g),
        "outlier": outlier,
        "tiny": tiny,
        "huge": even * 2.0**110,
        "one": one,
        "squares": even.relu().square(),
        "infinite": torch.where(torch.arange(K) == 5, torch.inf, even),
        "nan": torch.where(torch.arange(K) == 5, torch.nan, even),
    }
    b = nvfp4((N, K), g)
    codes = b.codes.clone()
    codes[:, ::25] &= 0xF0  # nothing meets an outlier, so nothing hides what it does to the others
    b = replace(b, codes=codes)
    for i, name in enumerate(tokens):
        others = [even] * (M - 1)
        a = torch.stack([*others[: i % M], tokens[name], *others[i % M :]]).to(BF16)
        check_one(ops.nvfp4_matmul, {"a": a, "b": b, "out_dtype": F32})


def test_a_flushed_mode_changes_nothing() -> None:
    case = make(3, 70, 160, BF16, "row")
    expected = ops.nvfp4_matmul(**case)
    torch.set_flush_denormal(True)
    try:
        kit.assert_same_bits(ops.nvfp4_matmul(**case), expected)
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("M", [4, 40])
def test_rows_and_columns_do_not_depend_on_each_other(target: str, M: int) -> None:
    case = make(M, 130, 272, BF16, "row")
    expected = ops.nvfp4_matmul(**case)
    for rows in (slice(0, M - 1), slice(M // 4, M - M // 4)):
        few = case | {"a": case["a"][rows]}
        kit.assert_same_bits(ops.nvfp4_matmul(**few), expected[rows])
    for columns in (slice(0, 65), slice(3, 130)):
        b = each_part(case["b"], lambda t, columns=columns: t[columns])
        kit.assert_same_bits(ops.nvfp4_matmul(**case | {"b": b}), expected[:, columns])


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("M", [3, 70])
def test_strides_and_threads(target: str, threads: None, kind: Any, M: int) -> None:
    case = make(M, 300 if target.startswith("cpu") else 140, 272, kind, "row")  # two tiles
    check_repeatable(ops.nvfp4_matmul, case)
    expected = ops.nvfp4_matmul(**case)
    for change in (
        kit.strided,
        lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2) if t.dim() == 2 else t,
    ):
        moved = case | {name: each_part(case[name], change) for name in ("a", "b")}
        kit.assert_same_bits(ops.nvfp4_matmul(**moved), expected)


def test_leading_dimensions(target: str) -> None:
    case = make(6, 40, 64)
    expected = ops.nvfp4_matmul(**case)
    kit.assert_same_bits(
        ops.nvfp4_matmul(**case | {"a": case["a"].view(2, 3, 64)}), expected.view(2, 3, 40)
    )
    kit.assert_same_bits(ops.nvfp4_matmul(**case | {"a": case["a"][0]}), expected[0])


def test_offsets_past_two_to_the_31(target: str) -> None:
    case = make(7, 9, 64, "nvfp4")
    expected = ops.nvfp4_matmul(**case)
    for name in ("a", "b"):
        for part in ("codes", "block_scales"):
            moved = replace(case[name], **{part: far_apart(getattr(case[name], part))})
            kit.assert_same_bits(ops.nvfp4_matmul(**case | {name: moved}), expected)


def test_refusals() -> None:
    case = make(6, 8, 32)
    for change, message in [
        ({"a": case["a"].half()}, "'a' is float16; supported: float32, bfloat16"),
        ({"a": case["a"][:, :16]}, r"'b' has shape \(8, 16\), expected \(N, K\)"),
        ({"a": case["a"][:, :20]}, "'b' has K = 20; supported: multiples of 16"),
        ({"b": case["a"]}, "'b' is Tensor; supported: NVFP4Tensor"),
        ({"b": nvfp4((2, 8, 32), kit.generator(""))}, r"'b' has shape \(2, 8, 16\), expected"),
        ({"out_dtype": torch.float16}, "'out_dtype' is torch.float16; supported"),
    ]:
        check_refused(ops.nvfp4_matmul, case | change, (), message)
    b = case["b"]
    with pytest.raises(ValueError, match=r"'b\.block_scales' is float32; supported: float8_e4m3fn"):
        torch.ops.warpweave.nvfp4_matmul(
            case["a"], None, None, b.codes, b.block_scales.float(), b.global_scale, False
        )
    with pytest.raises(ValueError, match=r"'b.scale' has shape \(3\), expected \(\), or one"):
        torch.ops.warpweave.nvfp4_matmul(
            case["a"], None, None, b.codes, b.block_scales, torch.ones(3), False
        )
    for scales in ((b.block_scales, None), (None, b.global_scale)):
        with pytest.raises(ValueError, match="'a' is bfloat16, which takes no scales"):
            torch.ops.warpweave.nvfp4_matmul(case["a"], *scales, *vars(b).values(), False)
    grad = case | {"a": case["a"].clone().requires_grad_()}
    check_refused(ops.nvfp4_matmul, grad, (), "no backward yet", NotImplementedError)


def test_opcheck_and_compile() -> None:
    for kind in KINDS:
        case = make(5, 24, 32, kind)
        a = vars(case["a"]).values() if kind == "nvfp4" else (case["a"], None, None)
        opcheck(torch.ops.warpweave.nvfp4_matmul.default, (*a, *vars(case["b"]).values(), True))
    check_compiled(ops.nvfp4_matmul, [make(*shape) for shape in SHAPES[:3]])


@settings(max_examples=40)
@given(st.integers(0, 80), st.integers(0, 140), st.integers(0, 40), st.sampled_from(KINDS))
def test_any_shape(M: int, N: int, blocks: int, kind: Any) -> None:
    check_one(ops.nvfp4_matmul, make(M, N, 16 * blocks, kind, "row"))
